"""The query strategies by name."""

from __future__ import annotations

from importlib import import_module

from stream_al.core.strategies import NAMES, UnknownStrategyError
from stream_al.core.strategies.base import QueryStrategy


def _class(name: str) -> type[QueryStrategy]:
    module = import_module(f"stream_al.core.strategies.{name}")
    found: type[QueryStrategy] = getattr(module, name.title().replace("_", ""))
    return found


STRATEGIES: dict[str, type[QueryStrategy]] = {name: _class(name) for name in NAMES}


def create(name: str) -> QueryStrategy:
    """Return a new strategy.

    Raises
    ------
    UnknownStrategyError
        If there is no strategy of this name.

    >>> create("margin")
    Margin()
    """
    if name not in STRATEGIES:
        raise UnknownStrategyError(f"{name!r} is no query strategy; there are {', '.join(STRATEGIES)}")
    return STRATEGIES[name]()
