"""Which samples are alike: so much so that one answer serves all of them.

Two samples are alike if they have the same features with the same values, where

* a missing value is as good as a feature that is not there;
* a number with a fraction counts to seven significant digits, what a 32-bit number holds; a whole one counts in full,
  because it may be a code or a time, and ``2.0`` is ``2``;
* everything else counts as it is: text to the letter, ``true`` is not ``1``, lists number by number.

Without a single value nothing is known of a sample, and it is like no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from stream_al.core.messages import Feature

DIGITS = 7


def likeness(features: Mapping[str, Feature]) -> bytes | None:
    """Return 16 bytes that samples have in common if they are alike; None for one that is like no other.

    >>> likeness({"a": 0.1, "b": 2}) == likeness({"b": 2.0, "a": 0.100000001, "c": None})
    True
    >>> likeness({"a": 1}) == likeness({"a": True}), likeness({})
    (False, None)
    """
    known = {name: _canonical(value) for name, value in features.items() if value is not None}
    if not known:
        return None
    text = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _canonical(value: Feature) -> object:
    if isinstance(value, list):
        return [_number(x) for x in value]
    if value is None or isinstance(value, bool | str):
        return value
    return _number(value)


def _number(value: float) -> int | float:
    if isinstance(value, int) or value.is_integer():
        return int(value)
    return float(f"{value:.{DIGITS}g}")
