"""How a verb ends: exit codes, and what is said about an error on standard error."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

OK, FAILURE, USAGE, CONFIGURATION, INTERRUPTED = 0, 1, 2, 78, 130

_FENCED = (
    "another process has taken over this one's place, so this one ends; nothing was lost."
    " If both are meant to run, give them different groups"
)
NEWER = (
    "the ledger was founded with it: run the stream-al that knows it,"
    " or begin anew with another topics.ledger, topics.labels_requested and group"
)
_GONE = (
    "records were deleted before they were read: raise the retention of that topic;"
    " to go on from what is left, start with another group"
)


class Verb(TyperCommand):
    """Shows flags without a type in the help, and says what is wrong with a value in plain words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as wrong:
            wrong.message = wrong.message.removeprefix("Value error, ")
            raise

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class Verbs(TyperGroup):
    """Turns the errors that a verb may raise into an exit code and one clear message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            quiet()
            raise typer.Exit(OK) from None
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # Rich has let standard output go already
                raise typer.Exit(OK) from None
            raise
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):
                raise
            raise typer.Exit(report(error)) from None


def report(error: Exception) -> int:
    """Say what went wrong; return the exit code."""
    known = explained(error)
    if known is None:
        complain(f"unexpected {type(error).__name__}: {error}; a bug; please report it with what follows")
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        return FAILURE
    code, text = known
    complain(text)
    return code


def explained(error: Exception) -> tuple[int, str] | None:
    """Return exit code and message of an error that is no bug, None for one that is."""
    from stream_al.config import ConfigError
    from stream_al.core.model_spec import ModelSpecError
    from stream_al.core.strategies import UnknownStrategyError
    from stream_al.transport.embedded_file import LogFileError
    from stream_al.transport.port import Fenced, PositionGone, TopicError, TransportError, Unavailable
    from stream_al.whatif.reading import DataError

    text = str(error)
    if isinstance(error, ConfigError | TopicError | LogFileError):
        return CONFIGURATION, text
    if isinstance(error, UnknownStrategyError):
        return CONFIGURATION, f"strategy: {text}\n{NEWER}"
    if isinstance(error, ModelSpecError):
        return CONFIGURATION, "model.spec" + text.removeprefix("model")
    if isinstance(error, Fenced):
        return FAILURE, f"{text}\n{_FENCED}"
    if isinstance(error, PositionGone):
        return FAILURE, f"{text}\n{_GONE}"
    if isinstance(error, Unavailable):
        return FAILURE, f"the broker is away: {text}"
    if isinstance(error, OSError) and error.filename:
        return FAILURE, f"{error.filename}: {error.strerror}"
    return (FAILURE, text) if isinstance(error, TransportError | DataError | OSError) else None


def complain(text: str) -> None:
    """Write an error, which may have several lines, to standard error."""
    for line in text.splitlines():
        typer.echo(f"{styled('error:', fg='red', bold=True)} {line}", err=True)


def styled(text: str, **style: Any) -> str:
    """Return text in colour, unless NO_COLOR asks for none; typer drops colours where there is no terminal."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, **style)


def misuse(text: str) -> typer.Exit:
    """Return what to raise for a command that was called in a wrong way, after having said so."""
    complain(text)
    return typer.Exit(USAGE)


def quiet() -> None:
    """Let nothing more be written to a pipe that nobody reads; Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
