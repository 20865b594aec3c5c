"""Check spec values against the annotations of River's constructors, as far as these say something.

River checks few of its arguments: ``LogisticRegression(l2="x")`` is accepted and fails with the first label.
"""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import math
import types
import typing
from dataclasses import dataclass
from typing import Any


class _Misfit:
    """The type of ``MISFIT``."""


MISFIT = _Misfit()
_LISTS = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Iterable,
    collections.abc.Iterator,
    collections.abc.Sequence,
)


@dataclass(frozen=True, slots=True)
class Hint:
    """What a parameter takes.

    Attributes
    ----------
    type
        A type or a form of ``typing``.
    text
        The same as its author wrote it, for messages.
    """

    type: Any
    text: str


@functools.cache
def hints(cls: type) -> dict[str, Hint]:
    """Return what each parameter of a constructor takes, without those of which nothing is known.

    A parameter without an annotation takes what its default is.
    """
    try:
        parameters = inspect.signature(cls).parameters.values()
    except ValueError:  # a class of an extension module
        return {}
    found = {
        p.name: _hint(cls, p)
        for p in parameters
        if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.KEYWORD_ONLY
    }
    return {name: hint for name, hint in found.items() if hint is not None}


def _hint(cls: Any, parameter: inspect.Parameter) -> Hint | None:
    if parameter.annotation is not parameter.empty:
        kind = _evaluated(cls.__init__, parameter.annotation)
        return None if kind is None else Hint(kind, str(getattr(kind, "__name__", parameter.annotation)))
    if isinstance(parameter.default, bool | str):
        return Hint(type(parameter.default), type(parameter.default).__name__)
    if isinstance(parameter.default, int | float):
        return Hint(float, "a number")
    return None


def _evaluated(init: Any, annotation: Any) -> Any:
    """Evaluate an annotation; None if it names what is imported for type checkers only."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    names = {
        name: importlib.import_module(f"river.{name}")
        for name in ("base", "compose", "metrics", "optim", "stats")
    }
    try:
        return typing.get_type_hints(holder, names | getattr(init, "__globals__", {}))["it"]
    except (NameError, AttributeError, TypeError):
        return None


def fit(value: Any, kind: Any) -> Any:
    """Return the value as a parameter of this type takes it, or ``MISFIT``.

    Integers stand for floats and lists for tuples and sets; a list of estimators is a pipeline where one
    estimator is expected. What cannot be checked passes.

    >>> fit(1, float), fit([1, 2], tuple[int, ...]), fit("x", float | None) is MISFIT
    (1, (1, 2), True)
    """
    if kind is None or kind is types.NoneType:
        return value if value is None else MISFIT
    if isinstance(kind, typing.TypeVar):
        return value if kind.__bound__ is None else fit(value, kind.__bound__)
    origin = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        fitted = (fit(value, alternative) for alternative in arguments)
        return next((found for found in fitted if found is not MISFIT), MISFIT)
    if origin is typing.Literal:
        return value if value in arguments else MISFIT
    if origin in (int, float, bool, str):
        return value if _is_plain(value, origin) else MISFIT
    if origin in _LISTS:
        return _fit_list(value, origin, arguments)
    if origin in (dict, collections.abc.Mapping):
        return value if isinstance(value, dict) else MISFIT
    return _fit_object(value, origin)


def _is_plain(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _fit_list(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list):
        return MISFIT
    kinds = arguments if arguments and arguments[-1] is not ... else arguments[:1]
    if kind is tuple and len(kinds) > 1 and len(kinds) != len(value):
        return MISFIT
    kinds = kinds if len(kinds) > 1 else (kinds or (Any,)) * len(value)
    items = [fit(item, kind) for item, kind in zip(value, kinds, strict=False)]
    if any(item is MISFIT for item in items):
        return MISFIT
    return kind(items) if kind in (tuple, set, frozenset) else items


def _fit_object(value: Any, kind: Any) -> Any:
    if kind is collections.abc.Callable:
        return value if callable(value) else MISFIT
    if not inspect.isclass(kind) or getattr(kind, "_is_protocol", False):
        return value
    base = importlib.import_module("river.base")
    if isinstance(value, list) and value and issubclass(kind, base.Estimator):
        if not all(isinstance(step, base.Estimator) for step in value):
            return MISFIT
        value = importlib.import_module("river.compose").Pipeline(*value)
    return value if isinstance(value, kind) else MISFIT
