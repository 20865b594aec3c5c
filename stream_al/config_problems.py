"""What to tell people whose configuration is wrong: where, which key, what is wrong, what to write instead.

The checks themselves are the classes in ``config``; here their findings become lines. Nothing written here
shows a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stream_al import config_source as source

MASK = "***"

_WIDTH = 60  # of a value in a message

_WRONG = {
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "string_type": "is not text",
    "bool_type": "is neither true nor false",
    "path_type": "is not a path",
    "list_type": "is not a list",
    "tuple_type": "is not a list",
    "dict_type": "is not a mapping",
    "model_type": "is not a mapping",
    "greater_than": "is not above {gt}",
    "greater_than_equal": "is below {ge}",
    "less_than": "is not below {lt}",
    "less_than_equal": "is above {le}",
    "too_short": "has too few entries",
    "string_too_short": "is empty",
    "string_pattern_mismatch": "has other characters than letters, digits, '.', '_' and '-'",
}

_CREDENTIALS = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@:]+(?::\S*)?@")


def lines(error: ValidationError, model: type[BaseModel], tree: source.Tree) -> list[str]:
    """Return one line per problem, those of a file in its order."""
    found = [_Problem(details, model, tree) for details in error.errors(include_url=False)]
    return [str(problem) for problem in sorted(found, key=lambda problem: problem.origin)]


def not_one_of(value: object, names: Sequence[str]) -> str:
    near = get_close_matches(str(value).lower(), names, n=1)
    advice = f"did you mean {near[0]}?" if near else f"write for example {names[0]}"
    return f"{shown(value)} is not one of {', '.join(names)}; {advice}"


def shown(value: object) -> str:
    """Return a value as one would write it in YAML, text in quotes."""
    if isinstance(value, str):
        return repr(masked_url(value))
    return repr(value) if isinstance(value, float) else _flow(masked(value))


def masked(value: Any, key: object = None) -> Any:
    """Return plain values without passwords, tokens and the credentials in addresses."""
    if source.is_secret(key) and value is not None:
        return MASK
    if isinstance(value, dict):
        return {name: masked(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return masked_url(value) if isinstance(value, str) else value


def masked_url(text: str) -> str:
    return _CREDENTIALS.sub(rf"\g<1>{MASK}@", text)


class _Problem:
    """One finding of the checks, and the line about it."""

    def __init__(self, details: ErrorDetails, model: type[BaseModel], tree: source.Tree) -> None:
        self.details = details
        self.model = model
        self.path = _path(details["loc"], tree.value)
        self.origin = source.origin_of(tree.origins, self.path)

    def __str__(self) -> str:
        return f"{self.origin} {source.dotted(self.path)}: {self.complaint()}"

    def complaint(self) -> str:
        kind = self.details["type"]
        if kind == "extra_forbidden":
            return self.unknown()
        if kind == "value_error":
            return str(self.details["ctx"]["error"])
        if kind == "literal_error":
            return not_one_of(self.details["input"], re.findall(r"'(\w+)'", self.details["ctx"]["expected"]))
        if kind == "invalid_key" or self.details["loc"][-1] == "[key]":
            return "not a name; write a name"
        return f"{self.value()} {self.wrong()}; {self.advice()}"

    def value(self) -> str:
        return MASK if any(map(source.is_secret, self.path)) else shown(self.details["input"])

    def wrong(self) -> str:
        limits = {name: _flow(limit) for name, limit in self.details.get("ctx", {}).items()}
        text = _WRONG.get(self.details["type"])
        return text.format(**limits) if text else f"is refused: {self.details['msg']}"

    def advice(self) -> str:
        field = _field(self.model, self.path)
        if field is None or _section(field) is not None:
            return f"write its keys indented below {self.path[-1]}:"
        example = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
        if isinstance(self.path[-1], int) and isinstance(example, Sequence):
            example = example[0]
        if isinstance(example, str) and isinstance(self.details["input"], int | float):
            return f'write it in quotes: "{_flow(self.details["input"])}"'
        return f"write for example {_flow(example)}"

    def unknown(self) -> str:
        *parents, last = self.path
        key = str(last).lower().replace("-", "_")
        section = _section(_field(self.model, tuple(parents))) if parents else self.model
        names = tuple(section.model_fields) if section else ()
        near = get_close_matches(key, names, n=1) or _elsewhere(self.model, key)
        return (
            f"unknown key; did you mean {near[0]}?"
            if near
            else f"unknown key; known here: {', '.join(names)}"
        )


def _path(loc: Sequence[int | str], value: Any) -> source.Path:
    """Return the path as it was written: the checks call both a key ``1:`` and a first entry ``1``."""
    path: list[str | int] = []
    for part in loc:
        if part == "[key]":
            break
        path.append(str(part) if isinstance(value, Mapping) else part)
        value = (
            value.get(part) if isinstance(value, Mapping) else None if isinstance(part, str) else value[part]
        )
    return tuple(path)


def _elsewhere(model: type[BaseModel], key: str) -> list[str]:
    """Find a key that was written at the wrong level."""
    keys = [name for name, field in model.model_fields.items() if _section(field) is None]
    for name, field in model.model_fields.items():
        section = _section(field)
        keys += [f"{name}.{inner}" for inner in section.model_fields] if section else []
    return [path for path in keys if path.rpartition(".")[2] == key]


def _field(model: type[BaseModel], path: source.Path) -> FieldInfo | None:
    """Return the field that a path leads to, or through (``accuracy.windows[0]``, ``broker.client.x``)."""
    section: type[BaseModel] | None = model
    found = None
    for part in path:
        if section is None:
            break
        found = section.model_fields.get(str(part))
        section = _section(found)
    return found


def _section(field: FieldInfo | None) -> type[BaseModel] | None:
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _flow(value: object) -> str:
    """Return a value in one line of YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(_flow, value)) + "]"
    else:
        text = str(value).removesuffix(".0")
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
