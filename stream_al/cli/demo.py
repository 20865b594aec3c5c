"""``demo``: the real machines on a real data set, with annotators who answer late, and the truth beside.

The labels of the data set are hidden from the service, so that what it says of itself can be held against
what is true. Everything lives in memory and in virtual time: nothing is written, nothing else has to run.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, examples, settings_of
from stream_al.cli.outcome import INTERRUPTED
from stream_al.cli.printing import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from stream_al.cli.demo_view import Watcher
    from stream_al.config import Settings
    from stream_al.service.desk import DeskRoom
    from stream_al.service.figures import Figures
    from stream_al.simulate import Simulation
    from stream_al.web.demo_run import DemoRun
    from stream_al.web.server import HttpServer

Dataset = Literal["phishing", "bananas", "segments", "shuttle"]
Strategy = Literal["margin", "least_confidence", "entropy", "random"]

STREAMS = {
    "phishing": (5_000, "web pages, phishing or not"),
    "bananas": (5_300, "two banana-shaped clouds"),
    "segments": (5_000, "patches of outdoor photos, seven kinds"),
    "shuttle": (20_000, "space shuttle sensors, 7 % anomalies"),
}
DELAY = 100
COMPARE_WITHIN_S = 12.0  # a run that took longer is not run a second time without being asked to
PUBLISH_S, TURN_S = 1.0, 0.05
FEW_QUESTIONS, MOST_MORE = 20, 1_000_000

# Under what the user sets; the last two make a short stream show something often enough.
BENEATH = (
    "log.level=warning",
    "broker.partitions=1",
    "state_dir=null",
    "samples.id=id",
    "samples.features=features",
    "samples.timestamp=null",
    "model.classes=null",
    "ledger.bucket_s=1",
    "scorer.commit_samples=64",
)

DEMO_EXAMPLES = examples(
    "stream-al demo",
    "stream-al demo --dataset phishing --budget 0.1 --report out",
    "stream-al demo --samples 5000 --seed 2 --no-compare --json",
)


def _share(value: float | None) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value:g} is no share of the samples; write for example 0.05")
    return value


Publish = Callable[["Simulation"], None]


def demo(
    *,
    dataset: Annotated[
        Dataset, typer.Option("--dataset", help="The labelled data set that is streamed.")
    ] = "bananas",
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="How many samples; a data set that is too short is repeated."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            callback=_share,
            help="Share of the samples that may be asked for; without it budget.fraction.",
        ),
    ] = None,
    delay: Annotated[
        int, typer.Option("--delay", min=0, help="How many samples later an answer comes.")
    ] = DELAY,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=2**32 - 1,
            help="Decides the order of the stream and every coin; without it seed.",
        ),
    ] = None,
    strategy: Annotated[
        Strategy | None,
        typer.Option("--strategy", help="What makes a sample worth asking for; without it strategy."),
    ] = None,
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare", help="Run again, asking at random; without it if it is quick."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write DIR/report.html: the curves on one page."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve metrics and the label page on http.port, until Ctrl-C.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """See the whole loop work on this machine, in seconds.

    The service reads a real data set as a stream, asks simulated annotators for a few labels, and learns. The
    end shows what it spent, how good it thinks it is, and how good it really is. Ctrl-C ends it with what is
    known by then and exit code 130, or with 0 where only --serve keeps it running.
    """
    from stream_al.cli.demo_view import watching
    from stream_al.config import ConfigError

    chosen = {"budget.fraction": budget, "strategy": strategy, "seed": seed}
    written = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    settings = settings_of(config, [*BENEATH, *written, *(overrides or ())], level="settings")
    if settings.model.task == "regression":
        raise ConfigError(
            f"{settings.where('model.task')} model.task: the demo's data sets have classes, no numbers"
        )
    stream = Stream(dataset, samples or STREAMS[dataset][0], delay)
    with interruptible() as stop, ExitStack() as stack:
        room = stack.enter_context(_room(settings)) if serve else None
        server = stack.enter_context(_server(settings, room)) if serve else None
        shown = stack.enter_context(watching(stream.words, stream.samples, stream.delay))
        simulation = stack.enter_context(_simulation(stream, settings))  # open as long as it is served
        run = _run(stream, simulation, shown, stop, _publisher(server))
        if not stop.is_set() and _worthwhile(compare, settings, run):
            run = _with_comparison(stream, run, shown, stop)
        shown.end()
        _tell(run, report, json=json)
        if stop.is_set():
            raise typer.Exit(INTERRUPTED)
        if server is not None and room is not None:
            _keep_serving(server, room, stream, simulation, stop)


class Stream:
    """What is streamed to whom: a data set's name, how many samples of it, and how late answers are."""

    def __init__(self, dataset: str, samples: int, delay: int) -> None:
        self.dataset, self.samples, self.delay = dataset, samples, delay

    @property
    def words(self) -> str:
        """Describe it to people."""
        from stream_al.datasets import size

        again = (
            f", {size(self.dataset):,} of them in ever new orders"
            if self.samples > size(self.dataset)
            else ""
        )
        return f"{self.dataset} ({STREAMS[self.dataset][1]}){again}"


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no turn is cut in two; the second one ends at once."""
    stop = threading.Event()

    def heard(_signum: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


# Running


def _with_comparison(stream: Stream, run: DemoRun, shown: Watcher, stop: threading.Event) -> DemoRun:
    """Run the same samples again, asking at random; a comparison that was stopped is none."""
    from dataclasses import replace

    settings = run.settings.model_copy(update={"strategy": "random"})
    with _simulation(stream, settings) as simulation:
        other = _run(stream, simulation, shown, stop, lambda _: None)
    return replace(run, comparison=other) if other.complete else run


def _worthwhile(compare: bool | None, settings: Settings, run: DemoRun) -> bool:
    if settings.strategy == "random":
        return False
    return run.seconds <= COMPARE_WITHIN_S if compare is None else compare


def _simulation(stream: Stream, settings: Settings) -> Simulation:
    from stream_al import datasets
    from stream_al.simulate import Simulation

    samples = datasets.stream(stream.dataset, stream.samples, settings.seed)
    return Simulation(settings, samples, delay=stream.delay)


def _run(
    stream: Stream, simulation: Simulation, shown: Watcher, stop: threading.Event, publish: Publish
) -> DemoRun:
    from stream_al.web.demo_run import DemoRun

    began = time.perf_counter()
    shown.begin(simulation.settings)
    progress = [simulation.progress()]
    for now in simulation.run():
        progress.append(now)
        shown.turn(now)
        publish(simulation)
        if stop.is_set():
            break
    return DemoRun(
        stream=stream.words,
        settings=simulation.settings,
        delay=stream.delay,
        planned=stream.samples,
        progress=tuple(progress),
        allowance=simulation.fold.budget.allowance,
        dead_letters=_dead_letters(simulation),
        seconds=time.perf_counter() - began,
    )


def _dead_letters(simulation: Simulation) -> int:
    scorer, learner = simulation.service.scorer, simulation.service.learner
    assert scorer is not None
    assert learner is not None
    return sum(sum(c.values()) for c in (scorer.dead_letters, learner.dead_letters, learner.rejections))


# Serving


def _room(settings: Settings) -> DeskRoom:
    from stream_al.service.desk import DeskRoom
    from stream_al.service.loop import now_ms

    room = DeskRoom(settings, now_ms)
    room.why_not = "simulated annotators answer until the demo's result is known"
    return room


def _server(settings: Settings, room: DeskRoom | None) -> HttpServer:
    from stream_al.web.server import HttpServer

    return HttpServer(settings.http.host, settings.http.port or 0, room=room).start()


def _publisher(server: HttpServer | None) -> Publish:
    """Return what shows the figures of a simulation, once a second."""
    told = 0.0

    def publish(simulation: Simulation) -> None:
        nonlocal told
        if server is not None and time.monotonic() - told >= PUBLISH_S:
            told = time.monotonic()
            server.publish(_figures(simulation))
            time.sleep(0)  # the server's thread has its turn

    return publish


def _figures(simulation: Simulation) -> Figures:
    from stream_al.service.figures import Figures

    return Figures.of(simulation.service)


def _keep_serving(
    server: HttpServer, room: DeskRoom, stream: Stream, simulation: Simulation, stop: threading.Event
) -> None:
    """Let whoever looks at the demo be its annotator; the stream goes on while there is little left to answer."""
    from stream_al import datasets

    more = datasets.stream(stream.dataset, MOST_MORE, simulation.settings.seed + 1)
    simulation.open_desk(room, more)
    while not room.ready:
        simulation.live(0, feed=False)
    server.publish(_figures(simulation))
    typer.echo(
        f"Serving {server.url}/metrics, /healthz and /readyz. Answer the next questions yourself: {server.url}/label,"
        " and see how it goes: /desk. Ctrl-C ends it.",
        err=True,
    )
    told = last = time.monotonic()
    while not stop.wait(TURN_S):
        now = time.monotonic()
        simulation.live(round(1000 * (now - last)), feed=len(room.machine.questions) < FEW_QUESTIONS)
        last = now
        if now - told >= PUBLISH_S:
            told = now
            server.publish(_figures(simulation))


# Telling


def _tell(run: DemoRun, report: Path | None, *, json: bool) -> None:
    from stream_al.web.report import write_report

    path = write_report(report, run) if report is not None else None
    if json:
        if path is not None:
            typer.echo(f"Report: {path}", err=True)
        print_json(run.figures())
        return
    _summarise(run)
    typer.echo(f"\nReport: {path}\n" if path is not None else "")
    if path is None:
        typer.echo("stream-al demo --report DIR   the curves, on one page")
    typer.echo("stream-al run                 your own stream: see README.md")


def _summarise(run: DemoRun) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print()
    console.print(_table(run))
    for sentence in run.sentences():
        console.print(sentence, soft_wrap=not console.is_terminal)


def _table(run: DemoRun) -> Table:
    from rich import box
    from rich.table import Table

    from stream_al.web.demo_run import asking, between, percent

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for name in ("labels", "rate", "honest", "95 % interval", "true", "labelled only"):
        table.add_column(name, justify="right", overflow="fold")
    for one in (run, *([run.comparison] if run.comparison else [])):
        last, estimate = one.last, one.last.estimate
        table.add_row(
            asking(one.settings.strategy),
            f"{last.requests:,}",
            percent(one.query_rate),
            percent(estimate.dr),
            between(estimate.dr),
            percent(last.true),
            percent(estimate.naive),
        )
    return table
