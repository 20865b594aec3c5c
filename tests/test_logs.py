"""Diagnostics: one JSON object a line off a terminal, readable at one, and never a payload."""

import json
import logging
import math
import re
import sys
import warnings

import pytest
import structlog

from stream_al.logs import configure


@pytest.fixture(autouse=True)
def restored():
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys):
    """Return what was logged since the last call, parsed."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def pretend_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_line_says_when_how_bad_who_and_what_first(lines):
    configure()
    structlog.get_logger("stream_al.scorer").info("partition assigned", partition=3, offset=91_823)
    (line,) = lines()
    assert list(line) == ["timestamp", "level", "logger", "event", "partition", "offset"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "logger": "stream_al.scorer",
        "event": "partition assigned",
        "partition": 3,
        "offset": 91_823,
    }


def test_a_logger_made_before_the_configuration_obeys_it(lines):
    early = structlog.get_logger("early")
    configure("warning")
    early.info("quiet")
    early.warning("loud")
    assert [line["event"] for line in lines()] == ["loud"]
    configure("debug")
    early.debug("quiet no more")
    assert [(line["logger"], line["event"]) for line in lines()] == [("early", "quiet no more")]


def test_other_libraries_speak_through_the_same_renderer(lines):
    configure("debug")
    logging.getLogger("uvicorn.error").warning("port %d", 9108)
    logging.getLogger("kafka.client").warning("no node")  # the loop says it better, and once
    logging.getLogger("kafka.client").critical("gone")
    assert [(x["logger"], x["level"], x["event"]) for x in lines()] == [
        ("uvicorn.error", "warning", "port 9108"),
        ("kafka.client", "critical", "gone"),
    ]


def test_kafka_never_speaks_below_warning(lines):
    configure("debug")
    logging.getLogger("kafka.conn").debug("bytes of a record")
    logging.getLogger("kafka.consumer.fetcher").info("bytes of a record")
    assert lines() == []


def test_an_exception_is_a_structure_without_the_values_of_variables(lines):
    configure()
    payload = "card number 4711"
    try:
        len(payload) / 0
    except ZeroDivisionError:
        structlog.get_logger("x").exception("failed", partition=1)
    (line,) = lines()
    (raised,) = line["exception"]
    assert (line["level"], line["event"], line["partition"]) == ("error", "failed", 1)
    assert (raised["exc_type"], raised["exc_value"]) == ("ZeroDivisionError", "division by zero")
    assert raised["frames"][0]["name"] == "test_an_exception_is_a_structure_without_the_values_of_variables"
    assert "4711" not in json.dumps(line)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1, 2}, b"\xff", object, ("a", 1), "two\nlines", "\ud800"]
)
def test_whatever_is_logged_is_one_line_of_valid_json(capsys, value):
    configure()
    structlog.get_logger("x").info("odd", value=value)
    (text,) = capsys.readouterr().err.splitlines()
    assert json.loads(text, parse_constant=pytest.fail)["event"] == "odd"


def test_warnings_are_lines_too(lines):
    configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logging._showwarning  # what pytest replaced
        warnings.warn("the end is near", stacklevel=1)
    assert [(line["logger"], line["level"]) for line in lines()] == [("py.warnings", "warning")]


def test_configuring_again_does_not_double_the_lines(lines):
    configure()
    configure()
    structlog.get_logger("x").info("once")
    assert len(lines()) == 1


def test_a_terminal_is_written_to_for_people(capsys, monkeypatch):
    pretend_terminal(monkeypatch)
    configure()
    structlog.get_logger("stream_al.http").info("listening", url="http://localhost:9108")
    text = capsys.readouterr().err
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "[info" in plain
    assert "listening" in plain
    assert "[stream_al.http]" in plain
    assert "url=http://localhost:9108" in plain


def test_colours_are_for_terminals_that_want_them(capsys, monkeypatch):
    pretend_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    configure()
    structlog.get_logger("x").info("plain")
    assert "\x1b[" not in capsys.readouterr().err


def test_the_format_may_be_fixed(capsys, monkeypatch):
    pretend_terminal(monkeypatch)
    configure("info", "json")
    structlog.get_logger("x").info("for machines")
    assert json.loads(capsys.readouterr().err)["event"] == "for machines"


def test_off_a_terminal_the_readable_format_has_no_colours_and_no_variables(capsys):
    configure("info", "console")
    payload = "card number 4711"
    try:
        len(payload) / 0
    except ZeroDivisionError:
        structlog.get_logger("x").exception("failed")
    text = capsys.readouterr().err
    assert "ZeroDivisionError" in text
    assert "4711" not in text
    assert "\x1b[" not in text
