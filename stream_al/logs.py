"""Diagnostics on standard error: a JSON object a line for machines, readable lines for people at a terminal.

Everything goes through one renderer, the standard library's loggers (kafka, uvicorn) and warnings included.
No line holds a payload: tracebacks are written without local variables, and kafka, which shows bytes below
WARNING, never speaks below it.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import structlog

FIRST = ("timestamp", "level", "logger", "event")
QUIET = {"kafka": logging.CRITICAL, "asyncio": logging.WARNING}


def configure(level: str = "info", format: str = "auto", **named: object) -> None:  # noqa: A002  the name of the key
    """Send all diagnostics to standard error; may be called again.

    Parameters
    ----------
    level
        The least that is written: ``debug``, ``info``, ``warning`` or ``error``.
    format
        ``json``, ``console``, or ``auto``: console at a terminal, JSON elsewhere.
    named
        What every line of this process says besides, as ``worker=2``.
    """
    terminal = sys.stderr.isatty()
    readable = format == "console" or (format == "auto" and terminal)
    render = _console(colors=terminal and not os.environ.get("NO_COLOR")) if readable else _json()
    _install(
        _StandardError(
            structlog.stdlib.ProcessorFormatter(processors=render, foreign_pre_chain=_common(named))
        )
    )
    logging.getLogger().setLevel(level.upper())
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(named),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # the loggers of all modules exist before the level is known
    )


class _StandardError(logging.Handler):
    """Writes to what ``sys.stderr`` is at the time: a live view replaces it while it runs."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001  a broken log line must not end the service
            self.handleError(record)


def _install(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _StandardError)]:
        root.removeHandler(old)
    root.addHandler(handler)


def _common(named: Mapping[str, object]) -> list[structlog.typing.Processor]:
    """Return what every line passes, whoever wrote it."""
    return [
        lambda _, __, event: {**named, **event},
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _json() -> list[structlog.typing.Processor]:
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.ExceptionRenderer(tracebacks),
        _ordered,
        structlog.processors.JSONRenderer(),
    ]


def _console(*, colors: bool) -> list[structlog.typing.Processor]:
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
    ]


def _ordered(_: object, __: str, event: structlog.typing.EventDict) -> Mapping[str, Any]:
    """Put what every line has before what only this one has; JSON knows no NaN and no infinity."""
    ordered = {key: event[key] for key in FIRST if key in event} | dict(event)
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in ordered.items()}
