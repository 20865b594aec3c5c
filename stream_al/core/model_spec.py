"""Build a River model from its spec in the config.

A spec is parsed YAML or JSON: a step, or a list of steps of which the last is a classifier or, in regression, a
regressor. A step is a dotted name or a mapping from one dotted name to its arguments:

    - river.preprocessing.StandardScaler
    - river.linear_model.LogisticRegression: {l2: 0.001, optimizer: {river.optim.SGD: {lr: 0.1}}}

Arguments may hold further steps, also in lists; ``*args`` are given by their name as a list. A list where an
estimator is expected is a pipeline. Functions stand for themselves, with arguments they are bound
(``functools.partial``). Only names of ``river`` and ``stream_al`` are looked up.

Replicas must build the same model, so every ``seed`` or ``random_state`` that is None becomes a number
derived from the ledger's seed and the path in the spec; an unseeded object that a constructor would make for
itself is replaced or refused.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import json
import math
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import ModuleType
from typing import Any

from stream_al.core.messages import Task
from stream_al.core.model_hints import MISFIT, fit, hints

ROOTS = ("river", "stream_al")
SEEDS = ("seed", "random_state")
MAX_DEPTH = 20

_SPLITTER: Mapping[str, object] = {"splitter": {"stream_al.core.model_trees.GaussianSplitter": {}}}

# Arguments that River would fill with an object no seed can make replicable, or of many times the size.
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "river.tree.hoeffding_tree_classifier.HoeffdingTreeClassifier": _SPLITTER,
    "river.tree.hoeffding_adaptive_tree_classifier.HoeffdingAdaptiveTreeClassifier": _SPLITTER,
    "river.tree.extremely_fast_decision_tree.ExtremelyFastDecisionTreeClassifier": _SPLITTER,
    "river.neighbors.knn_classifier.KNNClassifier": {
        "engine": {"river.neighbors.LazySearch": {"window_size": 1_000}}
    },
    "river.neighbors.knn_regressor.KNNRegressor": {
        "engine": {"river.neighbors.LazySearch": {"window_size": 1_000}}
    },
}
REPLACED = {
    "river.neighbors.ann.swinn.SWINN": "stream_al.core.model_adapters.SWINN",
    "river.compose.select.Select": "stream_al.core.model_adapters.Select",
    "river.forest.adaptive_random_forest.ARFClassifier": "stream_al.core.model_trees.ARFClassifier",
    "river.tree.splitter.gaussian_splitter.GaussianSplitter": "stream_al.core.model_trees.GaussianSplitter",
}
HIDDEN = ("active", "api", "base", "checks", "compat", "conftest", "datasets")  # never meant by a wrong name
LAST: Mapping[Task, str] = {"classification": "classifier", "regression": "regressor"}
REFUSED = {
    "river.active.": "stream-al itself decides which labels to request: name the classifier inside",
    "river.compat.": "it wraps objects of other libraries, which a spec cannot hold",
    "river.stats.kolmogorov_smirnov.": "it draws from the global random generator: replicas would differ",
    "river.utils.rolling.TimeRolling": "it needs a clock: replicas would differ",
}


class ModelSpecError(ValueError):
    """A model spec that cannot be built.

    Attributes
    ----------
    path
        Where in the spec, for example ``model[1].river.linear_model.LogisticRegression.l2``.
    message
        What is wrong there and, where it can be told, what was meant.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


def digest(spec: object) -> str:
    """Return 32 hexadecimal digits that are equal for equal specs, in every process and version.

    Raises
    ------
    ModelSpecError
        If the spec holds anything but JSON values.

    >>> digest("river.dummy.PriorClassifier") == digest([{"river.dummy.PriorClassifier": {}}])
    True
    """
    steps = [{step: {}} if isinstance(step, str) else step for step in _listed(spec)]
    try:
        text = json.dumps(steps, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelSpecError("model", f"is not made of plain JSON values: {error}") from error
    return blake2b(text.encode(), digest_size=16).hexdigest()


def build(spec: object, *, seed: int, n_classes: int | None = None, task: Task = "classification") -> Any:
    """Build the ``river.compose.Pipeline`` that a spec describes.

    Parameters
    ----------
    spec
        One step or a list of steps, as parsed from YAML or JSON.
    seed
        The seed from which all missing seeds are derived.
    n_classes
        How many classes there can be, None if that is open. A binary-only classifier stays as it is with two
        and is wrapped in ``multiclass.OneVsRestClassifier`` otherwise; the steps before it stay shared.
    task
        What the last step must be for.

    Raises
    ------
    ModelSpecError
        With the path of the first mistake.
    """
    builder = _Builder(seed)
    named = [(path, builder.step(raw, path)) for path, raw in _paths(spec, task)]
    steps = [(path, step) for path, whole in named for step in _flat(whole)]
    for path, step in steps[:-1]:
        _check_transformer(path, step, task)
    path, last = steps[-1]
    _check_last(path, last, task)
    if task == "classification" and n_classes != 2 and not last._multiclass:  # noqa: SLF001 - River's way to ask
        last = _one_vs_rest(last)
    return _river("compose").Pipeline(*(step for _, step in steps[:-1]), last)


def _river(module: str) -> Any:
    """Import a part of River when it is needed: it takes 0.7 s."""
    return importlib.import_module(f"river.{module}")


def _listed(spec: object) -> list[object]:
    return spec if isinstance(spec, list) else [spec]


def _paths(spec: object, task: Task) -> list[tuple[str, object]]:
    if not isinstance(spec, list):
        return [("model", spec)]
    if not spec:
        raise ModelSpecError("model", f"has no steps: the last one must be a {LAST[task]}")
    return [(f"model[{i}]", step) for i, step in enumerate(spec)]


def _flat(step: Any) -> Iterator[Any]:
    """Unpack pipelines: River's pipeline does not expect one among its steps."""
    if isinstance(step, _river("compose").Pipeline):
        for inner in step.steps.values():
            yield from _flat(inner)
    else:
        yield step


def _check_transformer(path: str, step: Any, task: Task) -> None:
    base = _river("base")
    if not isinstance(step, base.BaseTransformer | base.AnomalyFilter) and not inspect.isfunction(step):
        raise ModelSpecError(
            path, f"{_described(step)} is not a transformer; only the last step is a {LAST[task]}"
        )


def _check_last(path: str, step: Any, task: Task) -> None:
    base = _river("base")
    kinds: dict[Task, type] = {"classification": base.Classifier, "regression": base.Regressor}
    if isinstance(step, base.MultiTargetRegressor):
        raise ModelSpecError(path, f"{_described(step)} predicts several numbers; a label is one")
    if isinstance(step, kinds[task]):
        return
    problem = f"{_described(step)} is not a {LAST[task]}; the last step must be one"
    other = next((name for name, kind in kinds.items() if isinstance(step, kind)), None)
    if other is not None:
        problem += f"; it is a {LAST[other]}: write model.task: {other}, or name a {LAST[task]}"
    raise ModelSpecError(path, problem)


def _check_text(made: Any, path: str) -> None:
    extractors = importlib.import_module("stream_al.core.model_adapters").TEXT_EXTRACTORS
    if isinstance(made, extractors) and made.on is None:
        raise ModelSpecError(path, "needs the argument on: the feature that holds the text")


def _described(step: Any) -> str:
    return getattr(step, "__name__", type(step).__name__)


def _one_vs_rest(classifier: Any) -> Any:
    base = _river("base")
    if type(classifier).predict_proba_one is base.Classifier.predict_proba_one:
        classifier = importlib.import_module("stream_al.core.model_adapters").Votes(classifier)
    return _river("multiclass").OneVsRestClassifier(classifier)


@dataclass(frozen=True, slots=True)
class _Builder:
    """Turn spec values into objects; every method takes the path for its errors and seeds."""

    seed: int

    def step(self, raw: object, path: str) -> Any:
        if not _is_named(raw):
            raise ModelSpecError(path, f"must be a dotted name or {{name: arguments}}, is {raw!r:.80}")
        return self._value(raw, path, 0)

    def _value(self, raw: object, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ModelSpecError(path, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(raw, Mapping) and _is_named(raw):
            ((name, arguments),) = raw.items()
            return self._made(name, arguments, f"{path}.{name}", depth)
        if isinstance(raw, str) and _is_named(raw) and (depth == 0 or _exists(raw)):
            return self._made(raw, None, f"{path}.{raw}", depth)
        if isinstance(raw, list):
            return [self._value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(raw)]
        if isinstance(raw, Mapping):
            return {key: self._value(item, f"{path}.{key}", depth + 1) for key, item in raw.items()}
        return raw

    def _made(self, name: str, arguments: object, path: str, depth: int) -> Any:
        found = _resolve(name, path)
        if arguments is not None and not isinstance(arguments, Mapping):
            raise ModelSpecError(
                path, f"arguments must be a mapping of names to values, are {arguments!r:.80}"
            )
        defaults = DEFAULTS.get(_full_name(found), {})
        given = {
            key: item for key, item in (arguments or {}).items() if item is not None or key not in defaults
        }
        raw = {**defaults, **given}
        if not inspect.isclass(found):
            bound = {str(key): self._value(item, f"{path}.{key}", depth + 1) for key, item in raw.items()}
            return functools.partial(found, **bound) if bound else found
        return self._instance(found, raw, path, depth)

    def _instance(self, cls: type, raw: Mapping[str, object], path: str, depth: int) -> Any:
        if inspect.isabstract(cls):
            raise ModelSpecError(path, "is abstract: name a class that implements it")
        parameters = _parameters(cls)
        kwargs = {}
        for key, item in raw.items():
            spot = f"{path}.{key}"
            _check_argument(key, parameters, spot)
            kwargs[key] = self._argument(cls, key, item, spot, depth)
        self._plant_seeds(parameters, kwargs, path)
        made = _construct(cls, parameters, kwargs, path)
        _check_seeded(made, parameters, path)
        _check_text(made, path)
        return made

    def _argument(self, cls: type, key: str, raw: object, path: str, depth: int) -> Any:
        value = self._value(raw, path, depth + 1)
        hint = hints(cls).get(key)
        if hint is None:
            return value
        fitted = fit(value, hint.type)
        if fitted is MISFIT:
            if isinstance(raw, str) and _is_named(raw):
                _resolve(raw, path)  # says which name was meant
            meant = _hint_of(_namesakes(raw)) if isinstance(raw, str) else ""
            raise ModelSpecError(path, f"must be {hint.text}, is {raw!r:.80}{_yaml_number(raw)}{meant}")
        return fitted

    def _plant_seeds(
        self, parameters: Mapping[str, inspect.Parameter], kwargs: dict[str, Any], path: str
    ) -> None:
        for name in SEEDS:
            if name in parameters and kwargs.get(name, _default(parameters[name])) is None:
                kwargs[name] = self._derived(f"{path}.{name}")

    def _derived(self, path: str) -> int:
        text = json.dumps([self.seed, path]).encode()
        return int.from_bytes(blake2b(text, digest_size=4).digest()) >> 1


def _is_named(raw: object) -> bool:
    if isinstance(raw, Mapping):
        return len(raw) == 1 and _is_named(next(iter(raw)))
    return isinstance(raw, str) and raw.startswith(tuple(f"{root}." for root in ROOTS))


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(cls).parameters
    except ValueError:  # a class of an extension module
        return {}


def _default(parameter: inspect.Parameter) -> Any:
    return None if parameter.default is parameter.empty else parameter.default


def _check_argument(key: object, parameters: Mapping[str, inspect.Parameter], path: str) -> None:
    if key in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    close = difflib.get_close_matches(str(key), parameters, n=1)
    known = ", ".join(parameters) or "none"
    raise ModelSpecError(path, f"is no argument{_hint_of(close) or f'; it has {known}'}")


def _construct(
    cls: Any, parameters: Mapping[str, inspect.Parameter], kwargs: Mapping[str, Any], path: str
) -> Any:
    required = [
        p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    missing = [name for name in required if name not in kwargs]
    if missing:
        raise ModelSpecError(path, f"needs the argument {' and '.join(missing)}")
    variable = next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), None)
    positional = kwargs.get(variable, []) if variable is not None else []
    if not isinstance(positional, list):
        raise ModelSpecError(f"{path}.{variable}", f"must be a list, is {positional!r:.80}")
    try:
        return cls(*positional, **{key: value for key, value in kwargs.items() if key != variable})
    except Exception as error:
        raise ModelSpecError(path, f"cannot be built: {type(error).__name__}: {error}") from error


def _check_seeded(owner: Any, parameters: Mapping[str, inspect.Parameter], path: str) -> None:
    """Refuse an object that a constructor made for itself, to draw from an unseeded generator."""
    base = _river("base")
    for name in parameters:
        value = getattr(owner, name, None)
        if isinstance(value, base.Base) and _is_stochastic(value):
            raise ModelSpecError(
                f"{path}.{name}", f"must be given: the default {_described(value)} has no seed"
            )


def _is_stochastic(value: Any) -> bool:
    try:
        return bool(value._is_stochastic)  # noqa: SLF001 - River's way to ask
    except AttributeError:  # some classes do not keep their parameters
        return False


def _resolve(name: str, path: str) -> Any:
    """Find the class or function of a dotted name."""
    found = _find(name)
    if isinstance(found, ModuleType):
        raise ModelSpecError(path, "is a module; name a class in it")
    if found is None:
        raise ModelSpecError(path, f"there is no {name}{_hint_of(_similar(name))}")
    full_name = _full_name(found)
    for prefix, reason in REFUSED.items():
        if full_name.startswith(prefix):
            raise ModelSpecError(path, f"cannot be used: {reason}")
    return _find(REPLACED[full_name]) if full_name in REPLACED else found


def _exists(name: str) -> bool:
    found = _find(name)
    return found is not None and not isinstance(found, ModuleType)


def _find(name: str) -> Any:
    """Walk a dotted name; None where it ends, or leaves the two packages."""
    found: Any = None
    for part in name.split("."):
        found = importlib.import_module(part) if found is None else _member(found, part)
        if found is None:
            return None
    return found


def _member(owner: Any, name: str) -> Any:
    if not isinstance(owner, ModuleType) or name.startswith("_"):
        return None
    found = getattr(owner, name, None) or _submodule(owner, name)
    origin = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    usable = isinstance(found, ModuleType) or callable(found)
    return found if usable and str(origin or ROOTS[0]).split(".")[0] in ROOTS else None


def _submodule(package: ModuleType, name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"{package.__name__}.{name}")
    except ImportError:
        return None


def _full_name(found: Any) -> str:
    return f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', '')}"


def _similar(name: str) -> list[str]:
    """Return the nearest public name, the same class in another module first."""
    return _namesakes(name) or difflib.get_close_matches(name, _public_names(), n=1)


def _namesakes(name: str) -> list[str]:
    last = name.rpartition(".")[2].lower()
    return [known for known in _public_names() if known.rpartition(".")[2].lower() == last][:1]


@functools.cache
def _public_names() -> tuple[str, ...]:
    """List the classes that River offers for use."""
    river = importlib.import_module("river")
    packages = sorted(info.name for info in pkgutil.iter_modules(river.__path__) if info.name not in HIDDEN)
    parts = [_submodule(river, package) for package in packages if not package.startswith("_")]
    names = [(part, name) for part in parts if part for name in getattr(part, "__all__", ())]
    return tuple(
        f"{part.__name__}.{name}" for part, name in names if inspect.isclass(getattr(part, name, None))
    )


def _hint_of(names: list[str]) -> str:
    return f"; did you mean {names[0]}?" if names else ""


def _yaml_number(raw: object) -> str:
    """Explain why YAML 1.1 reads ``1e-3`` as text."""
    try:
        number = float(raw) if isinstance(raw, str) else math.nan
    except ValueError:
        number = math.nan
    return "" if math.isnan(number) else f" (a text; YAML wants {number!r} without quotes and with a point)"
