"""Spoils payloads: from one that is right, by a seed, to one that no honest peer would send."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

# JSON text, or what passes for it, that may stand in the place of any value.
HOSTILE = (
    b"null", b"true", b"false", b"0", b"-0", b"-1", b"1.5", b"1e999", b"-1e999", b"1e-400", b"1e308", b"NaN", b"Infinity",
    b"9007199254740993", b"18446744073709551616", b"-9223372036854775809", b"9" * 400, b"1" + b"0" * 5_000, b"0" * 50,
    b'""', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xed\xa0\x80"', b'"\\u0000\\u001b[2J"', b'"\x00\x07"', b'"\xff\xfe"',
    b'"' + b"a" * 2_000 + b'"', b'"' + "é\u202e\U0001f600".encode() * 50 + b'"', b'"-0"', b'"0-0-0"', b'"1e5"',
    b'"2026-13-45T99:99:99Z"', b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59Z"', b'"tally"', b'"genesis"',
    b"[]", b"{}", b"[[]]", b"[{}]", b"[null]", b'{"": null}', b'{"0": {}}', b'[1, "a", null, 2.5]', b"[" * 600, b'{"a":' * 600,
    b"[" * 300 + b"]" * 300, b'{"a":' * 300 + b"1" + b"}" * 300, b"[" + b"1e15," * 400 + b"1]", b"\xef\xbb\xbf", b"//", b"'a'",
)  # fmt: skip
DEEP = (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 50_000 + b"]" * 50_000)
DEEP_ONE_IN = 5_000  # they take long
MARK = "\u2603mark"
MARKED = json.dumps(MARK).encode()


class Mutator:
    """Draws spoiled payloads; the same seed draws the same ones.

    Parameters
    ----------
    seeds
        Payloads that are right; what they hold is spliced into each other.
    """

    def __init__(self, seed: int, seeds: Sequence[bytes]) -> None:
        self.random = random.Random(seed)
        self.seeds = list(seeds)
        self.trees = [tree for seed in self.seeds if (tree := _tree(seed)) is not None]
        self.bytes_ways: list[Callable[[bytes], bytes]] = [
            self._flip, self._splice, self._cut, self._insert, self._drop, self._repeat,
        ]  # fmt: skip

    def payload(self) -> bytes:
        """Return the next payload."""
        draw = self.random.random()
        if draw < 1 / DEEP_ONE_IN:
            return self._deep()
        if draw < 0.55 and self.trees:
            value = self._shape(self.random.choice(self.trees))
            if draw < 0.45:
                return value
        else:
            value = self.random.choice(self.seeds)
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            value = self.random.choice(self.bytes_ways)(value)
        return value

    # --- of bytes --------------------------------------------------------------------------------------------

    def _at(self, value: bytes) -> int:
        return self.random.randrange(len(value) + 1)

    def _flip(self, value: bytes) -> bytes:
        if not value:
            return b"\x00"
        at, bit = self.random.randrange(len(value)), 1 << self.random.randrange(8)
        return value[:at] + bytes([value[at] ^ bit]) + value[at + 1 :]

    def _splice(self, value: bytes) -> bytes:
        other = self.random.choice(self.seeds)
        return value[: self._at(value)] + other[self._at(other) :]

    def _cut(self, value: bytes) -> bytes:
        return value[: self._at(value)]

    def _insert(self, value: bytes) -> bytes:
        at = self._at(value)
        return value[:at] + self.random.choice(HOSTILE) + value[at:]

    def _drop(self, value: bytes) -> bytes:
        at = self._at(value)
        return value[:at] + value[at + self.random.randrange(1, 20) :]

    def _repeat(self, value: bytes) -> bytes:
        at = self._at(value)
        end = at + self.random.randrange(1, 40)
        return value[:end] + value[at:end] * self.random.choice((1, 1, 2, 50)) + value[end:]

    def _deep(self) -> bytes:
        deep, seed = self.random.choice(DEEP), self.random.choice(self.seeds)
        at = seed.find(b":") + 1 if self.random.random() < 0.7 else 0
        return seed[:at] + deep + seed[at:]

    # --- of JSON ---------------------------------------------------------------------------------------------

    def _shape(self, tree: object) -> bytes:
        """Change one place of a tree: another type, another's value, a key gone, renamed, or there twice."""
        path = self._place(tree)
        how = self.random.random()
        if how < 0.1 and path and isinstance(path[-1], str):
            value = json.dumps(_changed(tree, path, _GONE)).encode()
        elif how < 0.2 and path and isinstance(path[-1], str):
            name = json.dumps(path[-1]).encode() + b":"
            value = json.dumps(tree, separators=(",", ":")).encode()
            at = value.find(name)
            value = value[:at] + name + self.random.choice(HOSTILE) + b"," + value[at:]
        elif how < 0.35:
            other = self.random.choice(self.trees)
            value = json.dumps(_changed(tree, path, _value(other, self._place(other)))).encode()
        else:
            value = json.dumps(_changed(tree, path, MARK)).encode()
            return value.replace(MARKED, self.random.choice(HOSTILE))
        return value

    def _place(self, tree: object) -> list[str | int]:
        """Draw a path into a tree."""
        path: list[str | int] = []
        while isinstance(tree, dict | list) and tree and self.random.random() < 0.85:
            key = (
                self.random.choice(list(tree)) if isinstance(tree, dict) else self.random.randrange(len(tree))
            )
            path.append(key)
            tree = tree[key]
        return path


_GONE = object()


def _tree(value: bytes) -> object:
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _value(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def _changed(tree, path, value):
    """Return a copy with another value at a path; what is not on the path is shared."""
    if not path:
        return value
    copy = tree.copy()
    if len(path) == 1 and value is _GONE:
        del copy[path[0]]
    else:
        copy[path[0]] = _changed(tree[path[0]], path[1:], value)
    return copy
