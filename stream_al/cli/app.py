"""The Typer application: which verbs there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from stream_al import __version__
from stream_al.cli import (
    bridging,
    checking,
    config_verbs,
    dead,
    demo,
    inspecting,
    looking,
    rebuilding,
    running,
    sending,
    simulating,
    tapping,
)
from stream_al.cli.outcome import Verb, Verbs

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"stream-al {__version__}")
        raise typer.Exit


@app.callback()
def stream_al(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Spend exactly the label budget you have, and know the accuracy of your model on a live stream.

    Settings come from --set, then STREAM_AL_* variables (STREAM_AL_BROKER__URL sets broker.url), then the
    file, then the defaults. Results go to standard output, everything else to standard error. Exit codes: 0
    done, 1 failed, 2 called in a wrong way, 78 wrong configuration.
    """


def _add(to: typer.Typer, verb: Callable[..., Any], examples: str, name: str | None = None) -> None:
    """Register a verb; its docstring is the help, without the line breaks that only the source needs."""
    paragraphs = inspect.cleandoc(verb.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    to.command(name, cls=Verb, help=text, epilog=examples)(verb)


_add(app, running.run, running.RUN_EXAMPLES)
_add(app, bridging.label_studio, bridging.LABEL_STUDIO_EXAMPLES, "label-studio")
_add(app, demo.demo, demo.DEMO_EXAMPLES)
_add(app, simulating.simulate, simulating.SIMULATE_EXAMPLES)
_add(app, checking.check, checking.CHECK_EXAMPLES)
_add(app, sending.send, sending.SEND_EXAMPLES)
_add(app, tapping.tap, tapping.TAP_EXAMPLES)
_add(app, looking.status, looking.STATUS_EXAMPLES)
_add(app, looking.top, looking.TOP_EXAMPLES)
_add(app, inspecting.inspect, inspecting.INSPECT_EXAMPLES)
_add(app, rebuilding.rebuild, rebuilding.REBUILD_EXAMPLES)
_add(app, rebuilding.promote, rebuilding.PROMOTE_EXAMPLES)

dead_letters = typer.Typer(help="List and replay the records that could not be used.", no_args_is_help=True)
_add(dead_letters, dead.list_, dead.LIST_EXAMPLES, "list")
_add(dead_letters, dead.replay, dead.REPLAY_EXAMPLES)
app.add_typer(dead_letters, name="dead-letters")

config = typer.Typer(help="Show the settings in force, and what can be set.", no_args_is_help=True)
_add(config, config_verbs.show, config_verbs.SHOW_EXAMPLES)
_add(config, config_verbs.schema, config_verbs.SCHEMA_EXAMPLES)
app.add_typer(config, name="config")
