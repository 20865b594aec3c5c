"""Labels as they travel, and their text form as JSON keys and choices.

In regression a label is a number. In classification it is a string, an integer or a boolean and comes back as it
came: ``1``, ``True`` and ``"1"`` are three classes although Python calls the first two equal. Whatever needs a label
as a key (a JSON object, a choice on the label page, a metric) uses ``label_key``, which keeps them apart.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TypeGuard

Label = str | int | bool  # a class
Value = Label | float  # a class, or what a regressor learns

# Deeper JSON makes the parser's answer depend on the interpreter's stack; such a text is no class name.
MAX_DEPTH = 100


def is_number(label: Value) -> TypeGuard[int | float]:
    """Say whether a label is one that a regressor can learn; true and false are none.

    >>> [is_number(label) for label in (1, 2.5, True, "1")]
    [True, True, False, False]
    """
    return isinstance(label, int | float) and not isinstance(label, bool)


def same(one: Value, other: Value) -> bool:
    """Say whether two classes are the same one.

    >>> same("a", "a"), same(1, True), same("1", 1)
    (True, False, False)
    """
    return type(one) is type(other) and one == other


@lru_cache(maxsize=4096, typed=True)  # it is written for each class of each request
def label_key(label: Value) -> str:
    r"""Write a label as a JSON key: a string as itself, any other as its JSON text.

    A string that itself parses as JSON is written with its quotes, so that keys of different labels differ.

    >>> [label_key(label) for label in ("fraud", 1, True, "1", "true", '"fraud"')]
    ['fraud', '1', 'true', '"1"', '"true"', '"\\"fraud\\""']
    """
    if isinstance(label, str) and not _is_json(label):
        return label
    return json.dumps(label, ensure_ascii=False)


def label_of(key: str) -> Label:
    """Read a label back from its key; a text that no label has as its key is read as a string.

    >>> [label_of(key) for key in ("fraud", "1", "true", '"1"', "1.5")]
    ['fraud', 1, True, '1', '1.5']
    """
    label = json.loads(key) if _is_json(key) else key
    return label if isinstance(label, str | int) else key


def _is_json(text: str) -> bool:
    """Say whether a text is JSON by the standard, where NaN and Infinity are not."""
    if text.count("[") + text.count("{") > MAX_DEPTH:
        return False
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)
