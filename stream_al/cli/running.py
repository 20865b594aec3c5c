"""``run``: the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream_al.cli.options import ConfigFile, Overrides, examples, settings_of
from stream_al.cli.outcome import FAILURE, explained, misuse

if TYPE_CHECKING:
    from stream_al.config import Settings
    from stream_al.service.desk import DeskRoom
    from stream_al.service.figures import Figures
    from stream_al.service.loop import Loop
    from stream_al.web.server import HttpServer

Role = Literal["scorer", "learner", "desk", "all"]

# The thread that answers people waits so long for one that scores, ten times less than usual.
SWITCH_S = 0.0005

RUN_EXAMPLES = examples(
    "stream-al run",
    "stream-al run --role scorer --config /etc/stream-al/config.yaml",
    "stream-al run --role scorer --workers 4",
    "STREAM_AL_BROKER__URL=kafka://broker:9092 stream-al run --set http.host=0.0.0.0",
)


def run(
    role: Annotated[
        Role,
        typer.Option(
            "--role",
            help="What this process does: read and score samples, learn, let people answer, or all of it.",
        ),
    ] = "all",
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, metavar="N", help="Be N scorer processes; only with --role scorer."),
    ] = 1,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Run the service until it is told to stop.

    Any number of scorers share the samples; of several learners one works and the others stand by. Metrics
    and health are on http.port, and with the role desk, or all, /label, the page where people answer. The log
    goes to standard error. SIGTERM and Ctrl-C end the process cleanly, after a last commit; a process that is
    killed loses nothing either.

    A process that gets nothing for a minute although records wait joins its group anew; after another minute
    it ends with exit code 1, so let something start it again: systemd, Docker or Kubernetes.

    With --workers N, N scorers of one group run as processes that start and end together; more than samples has
    partitions are of no use. Each has its own metrics and health, the first on http.port, the next on the ports after
    it: Prometheus scrapes all of them. One that ends ends all, with its exit code.
    """
    if workers > 1 and role != "scorer":
        raise misuse(
            f"--workers is for --role scorer, not for {role}: one learner learns, whatever their number"
        )
    settings = settings_of(config, overrides, level="settings")
    if workers > 1:
        from stream_al.cli.workers import supervise

        raise typer.Exit(supervise(settings, workers))
    from stream_al.service.loop import Loop

    serve(settings, role, Loop.install_signals)


def serve(settings: Settings, role: Role, prepare: Callable[[Loop], None]) -> None:
    """Run the service in this process until it is told to stop; ``prepare`` says how it is told."""
    import sys

    import structlog

    from stream_al.service.loop import Loop, calm_collector

    room = _room(settings, role)
    loop = Loop(settings, role, _nowhere, room)
    calm_collector()
    if room is not None:
        sys.setswitchinterval(SWITCH_S)
    prepare(loop)
    server = _listen(settings, room)
    loop.publish = server.publish if server is not None else _nowhere
    try:
        loop.run()
    except Exception as error:
        if explained(error) is not None:
            raise
        log = structlog.get_logger("stream_al")
        log.critical(
            "ended by an unexpected error; this is a bug, please report it", error=repr(error), exc_info=True
        )
        raise typer.Exit(FAILURE) from None
    finally:
        if server is not None:
            server.stop()
        if room is not None:
            room.close()


def _room(settings: Settings, role: Role) -> DeskRoom | None:
    """Return where people answer; None where nobody could reach it."""
    if role not in ("desk", "all"):
        return None
    if settings.http.port is None:
        if role == "all":
            return None
        from stream_al.config import ConfigError

        raise ConfigError(
            f"{settings.where('http.port')} http.port: the desk needs one; write for example 9108"
        )
    from stream_al.service.desk import DeskRoom
    from stream_al.service.loop import now_ms

    return DeskRoom(settings, now_ms)


def _listen(settings: Settings, room: DeskRoom | None) -> HttpServer | None:
    if settings.http.port is None:
        return None
    from stream_al.web.server import HttpServer

    server = HttpServer(settings.http.host, settings.http.port, room=room)
    server.start()
    return server


def _nowhere(_: Figures) -> None:
    """Publish nothing: there is no port to publish it on."""
