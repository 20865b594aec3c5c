"""What dashboards and rules ask Prometheus, taken apart so that each piece can be asked for itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "docker" / "prometheus" / "rules.yml"
DASHBOARDS = ROOT / "docker" / "grafana" / "dashboards"
VARIABLES = {"$__rate_interval": "1m", "$namespace": ".*", "$window": "1000"}
COMBINED = re.compile(r"\s(?:and|or|unless)\s(?:on\s*\([^)]*\)\s)?")
COMPARED = re.compile(r"\s(?:==|!=|>=|<=|<|>)\s")
MATCHED = re.compile(r"^(?:on|ignoring)\s*\([^)]*\)\s*(?:group_(?:left|right)\s*\([^)]*\)\s*)?")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))
    }


def panel_expressions() -> dict[str, str]:
    """Return each target of each panel, with the dashboard's variables filled in."""
    return {
        f"{name}: {panel['title']} {target['refId']}": filled(target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel["targets"]
    }


def filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def recorded() -> dict[str, str]:
    return {rule["record"]: rule["record"] for rule in rules() if "record" in rule}


def alert_operands() -> dict[str, str]:
    """Return what each alert compares and combines: an alert that is silent finds nothing, its operands do."""
    return {
        f"{rule['alert']} {n}": operand
        for rule in rules()
        if "alert" in rule
        for n, operand in enumerate(operands(rule["expr"]))
    }


def operands(expression: str) -> Iterator[str]:
    """Yield the operands of an expression, numbers apart.

    >>> list(operands("a > 5 and rate(b[5m]) == 0"))
    ['a', 'rate(b[5m])']
    >>> list(operands("a < on () group_left () b unless count(c == 1)"))
    ['a', 'b', 'count(c == 1)']
    """
    for part in _outside(COMBINED, expression):
        for operand in _outside(COMPARED, part):
            bare = MATCHED.sub("", operand.strip())
            if not re.fullmatch(r"[\d.]+", bare):
                yield bare


def _outside(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """Split where the pattern stands outside all parentheses and braces."""
    begin = 0
    for found in pattern.finditer(text):
        before = text[: found.start()]
        if before.count("(") == before.count(")") and before.count("{") == before.count("}"):
            yield text[begin : found.start()]
            begin = found.end()
    yield text[begin:]
