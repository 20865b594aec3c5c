"""``simulate``: what-if on a labelled data set, before anything is spent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream_al.cli.demo import interruptible
from stream_al.cli.options import ConfigFile, Json, Overrides, attach, examples, settings_of
from stream_al.cli.outcome import INTERRUPTED
from stream_al.cli.printing import print_json, print_line

if TYPE_CHECKING:
    from rich.table import Table as Printed

    from stream_al.config import Settings
    from stream_al.whatif.experiment import Findings
    from stream_al.whatif.grid import Model, Plan
    from stream_al.whatif.logged import Choice
    from stream_al.whatif.reading import Data
    from stream_al.whatif.scenarios import Extent, Scenario
    from stream_al.whatif.summary import Summary

Distribution = Literal["constant", "exponential"]

BUDGETS = "0.01,0.05,0.1"
TOPIC = "topic:"  # before the name of one, in place of a file
LINE_EVERY_S = 2.0
# Settings that are of a running service, and those that every cell has its own of.
APART = (
    "challengers",
    "accuracy.random_twin",
    "broker.",
    "http.",
    "log.",
    "topics.",
    "group",
    "name",
    "state_dir",
    "snapshot_every_s",
    "seed",
    "strategy",
)

SIMULATE_EXAMPLES = examples(
    "stream-al simulate tickets.csv --label topic",
    "stream-al simulate tickets.csv --label topic --strategies margin,entropy --models default,logistic --seeds 5",
    "stream-al simulate shuttle --samples 20000 --budgets 0.01,0.02 --delay 300 --noise 0.1 --json",
    "stream-al simulate topic:samples --label topic",
    "stream-al simulate --from-broker --strategies margin,entropy --budgets 0.02,0.05",
    "stream-al simulate --scenario pool-least-confidence",
    "stream-al simulate news.jsonl.gz --label label --scenario text-newsgroups",
)


def _below_one(value: float) -> float:
    if not 0 <= value < 1:
        raise typer.BadParameter(f"{value:g} is not from 0 to below 1; write for example 0.1")
    return value


def simulate(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A labelled file (.csv, .jsonl, both also .gz, or .parquet), topic:NAME for samples on the broker that"
            " hold their label, or one of River's data sets: phishing, bananas, segments, shuttle.",
        ),
    ] = None,
    *,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="COLUMN", help="The column of the file that holds the label."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="COLUMN", help="A column that is no feature; may be repeated."),
    ] = None,
    strategies: Annotated[
        str, typer.Option("--strategies", metavar="A,B", help="Ways of asking to compare.")
    ] = "margin,random",
    models: Annotated[
        str,
        typer.Option(
            "--models",
            metavar="A,B",
            help="Models to compare: default (that of the configuration), mixture, bayes, logistic, naive_bayes, tree,"
            " forest, mondrian, neighbours, or the path of a config.yaml.",
        ),
    ] = "default",
    budgets: Annotated[
        str, typer.Option("--budgets", metavar="X,Y", help="Shares of the samples that may be asked for.")
    ] = BUDGETS,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=1, max=1_000, help="How often each is run, with other coins; without it once."
        ),
    ] = None,
    delay: Annotated[int, typer.Option("--delay", min=0, help="How many samples later an answer comes.")] = 0,
    delay_distribution: Annotated[
        Distribution,
        typer.Option("--delay-distribution", help="The delay is always the same, or that on average."),
    ] = "constant",
    noise: Annotated[
        float, typer.Option("--noise", callback=_below_one, help="Share of the answers that are wrong.")
    ] = 0.0,
    silence: Annotated[
        float, typer.Option("--silence", callback=_below_one, help="Share of the requests never answered.")
    ] = 0.0,
    annotators: Annotated[
        int,
        typer.Option(
            "--annotators", min=1, max=99, help="People who answer each request; the majority decides."
        ),
    ] = 1,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Only the first so many samples.")
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="In an order of each seed's own, not in that of the data.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes; without it as many as there are cores.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where results, report and plots are written.")
    ] = Path("simulation"),
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Take over what an earlier run in DIR has done.")
    ] = True,
    from_broker: Annotated[
        bool,
        typer.Option(
            "--from-broker",
            help="Instead of data, take the labels in the ledger: which of the model's mistakes would other"
            " strategies and budgets have asked for? Only --strategies, --budgets and --json count beside it.",
        ),
    ] = False,
    scenario: Annotated[
        str | None,
        typer.Option(
            "--scenario",
            metavar="NAME",
            help="Repeat an experiment of the literature instead: pool-least-confidence, text-newsgroups, strategies,"
            " cooperative, cooperative-pool, self-supervised, synthesis. Of the other options only DATA, --label,"
            " --seeds, --jobs, --out and --json count.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --scenario: less of everything, to see that it works.")
    ] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Try strategies, models and budgets on data that has labels, before any is spent.

    The real service runs over the data in virtual time, once for each combination and seed, with simulated people who
    answer late, wrong or never. DIR gets results.csv, report.html, plots as PNG (with the extra plots) and a
    config.yaml of the best choice. With --scenario it repeats an experiment of the literature. Ctrl-C ends it with
    exit code 130; the same command goes on where it stopped.
    """
    from stream_al.simulate import Oracle
    from stream_al.whatif.grid import Plan, Stream
    from stream_al.whatif.reading import usable

    settings = settings_of(config, overrides, level="error")
    if scenario is not None:
        _experiment(
            scenario,
            settings,
            data,
            label,
            seeds,
            jobs or os.cpu_count() or 1,
            out,
            quick=quick,
            json=as_json,
        )
        return
    if from_broker:
        _replay(settings, _strategies(strategies), _shares(budgets), json=as_json)
        return
    if data is None:
        raise typer.BadParameter("name a labelled file, or a data set of River", param_hint="DATA")
    _refuse_numbers(settings)
    ways, kinds, shares = _strategies(strategies), _models(models, settings), _shares(budgets)
    read, unordered = _data(settings, data, label, ignore or ())
    held = usable(replace(read, rows=read.rows[:samples]))
    _note(held, shuffled=shuffle or unordered)
    _refuse_unknown(settings, held)
    plan = Plan(
        stream=Stream(held.name, held.digest(), held.rows, shuffle or unordered),
        strategies=ways,
        models=kinds,
        budgets=shares,
        seeds=seeds or 1,
        oracle=Oracle(delay, delay_distribution, noise, silence, annotators, held.classes),
        overrides=_base(settings),
    )
    with interruptible() as stop:
        summary = _run(plan, out, jobs or os.cpu_count() or 1, stop, resume=resume)
    _write(summary, settings, out)
    _tell(summary, out, json=as_json)


# What is to be run


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _shares(text: str) -> tuple[float, ...]:
    """Read shares that are separated by commas."""
    try:
        found = tuple(sorted({float(part) for part in _names(text)}))
    except ValueError:
        found = ()
    if not found or not all(0 < share <= 1 for share in found):
        raise typer.BadParameter(
            f"{text!r} is no list of shares of the samples; write for example {BUDGETS}",
            param_hint="--budgets",
        )
    return found


def _strategies(text: str) -> tuple[str, ...]:
    from stream_al.config_problems import not_one_of
    from stream_al.core.strategies import CLASSIFICATION

    names = tuple(name.replace("-", "_") for name in _names(text))
    wrong = next((name for name in names or ("",) if name not in CLASSIFICATION), None)
    if wrong is not None:
        raise typer.BadParameter(not_one_of(wrong, CLASSIFICATION), param_hint="--strategies")
    return names


def _models(text: str, settings: Settings) -> tuple[Model, ...]:
    from stream_al.whatif.models import UnknownModelError, model

    try:
        return tuple(model(name, settings) for name in _names(text) or ("",))
    except UnknownModelError as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--models") from None


def _data(settings: Settings, data: str, label: str | None, ignore: Sequence[str]) -> tuple[Data, bool]:
    """Return the labelled samples, and whether their order means nothing."""
    from stream_al import datasets
    from stream_al.config_problems import not_one_of
    from stream_al.whatif.reading import ColumnError, Data, DataError, read

    path = Path(data)
    if data.startswith(TOPIC):
        return _recorded(settings, data.removeprefix(TOPIC), label, ignore), False
    if not path.is_file() and data in datasets.NAMES:
        return Data(data, list(datasets.stream(data, None, 0))), True
    if not path.exists():
        raise DataError(
            f"there is no file {data}, and as a data set of River {not_one_of(data, datasets.NAMES)}"
        )
    s = settings.samples
    apart = {*ignore, s.id, s.timestamp or s.id} - {label}
    try:
        return read(path, label, ignore=apart, features=s.features), False
    except ColumnError as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--label") from None


def _recorded(settings: Settings, topic: str, label: str | None, ignore: Sequence[str]) -> Data:
    from stream_al.codec import SampleDecoder
    from stream_al.scan import scan
    from stream_al.whatif.reading import ColumnError, DataError, recorded

    s = settings.samples
    decode = SampleDecoder(s.id, s.features, s.timestamp, s.max_bytes)
    with attach(settings) as broker:
        if not broker.partitions(topic):
            raise DataError(f"there is no topic {topic} on the broker")
        try:
            return recorded(
                topic, scan(broker, topic), decode, label, ignore={*ignore, s.id, s.timestamp or s.id}
            )
        except ColumnError as wrong:
            raise typer.BadParameter(str(wrong), param_hint="--label") from None


def _note(data: Data, *, shuffled: bool) -> None:
    """Tell what may not be meant."""
    if data.unlabelled:
        typer.echo(f"{data.unlabelled:,} rows without a label are left out.", err=True)
    if not shuffled and data.sorted:
        typer.echo(
            "The samples seem to be sorted by their label, as no stream is: --shuffle mixes them.", err=True
        )


def _refuse_numbers(settings: Settings) -> None:
    from stream_al.config import ConfigError

    if settings.model.task == "regression":
        raise ConfigError(f"{settings.where('model.task')} model.task: simulate compares classes, no numbers")


def _refuse_unknown(settings: Settings, data: Data) -> None:
    """Refuse labels that the configuration's classes do not know."""
    from stream_al.config import ConfigError
    from stream_al.core.labels import same

    known = settings.model.classes
    wrong = [c for c in data.classes if not any(same(c, k) for k in known)] if known is not None else []
    if wrong:
        raise ConfigError(
            f"{settings.where('model.classes')} model.classes: {data.name} has the class {wrong[0]!r}, too;"
            " name it, or leave model.classes out"
        )


def _base(settings: Settings) -> tuple[str, ...]:
    """Return what somebody wrote and matters here, as arguments of ``--set``."""
    from stream_al.whatif.advice import written
    from stream_al.whatif.grid import assignments

    found: dict[str, object] = {}
    for name, value in written(settings).items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return tuple(assignments({k: v for k, v in found.items() if not k.startswith(APART)}))


# Running


def _run(plan: Plan, out: Path, jobs: int, stop: threading.Event, *, resume: bool) -> Summary:
    """Run every cell that is not known yet, and keep the results."""
    from stream_al.whatif.grid import run_cell
    from stream_al.whatif.processes import Stopped, answers
    from stream_al.whatif.results import Table
    from stream_al.whatif.summary import summarise

    table = Table(out)
    cells = plan.all
    left = [cell for cell in cells if not resume or plan.digest(cell) not in table.results]
    if len(left) < len(cells):
        typer.echo(f"{len(cells) - len(left)} of {len(cells)} cells are done already.", err=True)
    try:
        with _progress(len(left)) as tell:
            for result, curves in answers(run_cell, plan, left, jobs, stop):
                table.add(result, curves)
                tell()
    except Stopped:
        done = sum(plan.digest(cell) in table.results for cell in cells)
        typer.echo(
            f"Stopped: {done} of {len(cells)} cells are in {table.path}; the same command goes on.", err=True
        )
        raise typer.Exit(INTERRUPTED) from None
    summary = summarise(plan, table.results)
    table.rewrite([*summary.results, *summary.references])
    return summary


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show how many cells are done: a bar at a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not total:
        yield lambda: None
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)
    else:
        yield _lines(total)


def _lines(total: int) -> Callable[[], None]:
    began = told = time.monotonic()
    done = 0

    def tell() -> None:
        nonlocal told, done
        done += 1
        now = time.monotonic()
        if now - told >= LINE_EVERY_S and done < total:
            told = now
            left = (now - began) / done * (total - done)
            typer.echo(f"{done} of {total} cells, about {left:,.0f} s left", err=True)

    return tell


# Telling


def _write(summary: Summary, settings: Settings, out: Path) -> None:
    """Write report, plots and configuration."""
    from stream_al.whatif.advice import configuration
    from stream_al.whatif.figures import charts
    from stream_al.whatif.plots import NoMatplotlibError, write_pngs
    from stream_al.whatif.report import page
    from stream_al.whatif.results import Table

    drawn = charts(summary, Table(out).curves({r.cell for r in summary.results}))
    (out / "report.html").write_text(page(summary, drawn), encoding="utf-8")
    (out / "config.yaml").write_text(configuration(summary, settings), encoding="utf-8")
    try:
        write_pngs(out, drawn)
    except NoMatplotlibError as missing:
        typer.echo(str(missing), err=True)


def _tell(summary: Summary, out: Path, *, json: bool) -> None:
    from stream_al.whatif.advice import sentences
    from stream_al.whatif.report import HEAD, figures, rows

    if json:
        for result in summary.results:
            print_json(figures(result))
        typer.echo(f"Report: {out / 'report.html'}", err=True)
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_printed(HEAD, rows(summary), texts=2))
    for sentence in sentences(summary):
        console.print(sentence, soft_wrap=not console.is_terminal)
    print_line(f"\nReport: {out / 'report.html'}; the best choice, ready to run: {out / 'config.yaml'}")


def _printed(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> Printed:
    """Return a table whose first columns, ``texts`` of them, are to the left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for n, name in enumerate(head):
        table.add_column(name, justify="left" if n < texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


# Scenarios


def _experiment(
    name: str,
    settings: Settings,
    data: str | None,
    label: str | None,
    seeds: int | None,
    jobs: int,
    out: Path,
    *,
    quick: bool,
    json: bool,
) -> None:
    """Repeat an experiment, write what it found, and tell it."""
    from stream_al.config_problems import not_one_of
    from stream_al.whatif.experiment import HEAD, plain, write
    from stream_al.whatif.reading import usable
    from stream_al.whatif.scenarios import SCENARIOS

    if name not in SCENARIOS:
        raise typer.BadParameter(not_one_of(name, list(SCENARIOS)), param_hint="--scenario")
    scenario = SCENARIOS[name]
    read = None if data is None else usable(_data(settings, data, label, ())[0])
    times = seeds or (scenario.quick_seeds if quick else scenario.seeds)
    with interruptible() as stop:
        findings = _found(scenario, read, times, jobs, out, stop, "quick" if quick else "full")
    path = write(out, findings)
    if json:
        for outcome in plain(findings):
            print_json(outcome)
        typer.echo(f"Report: {path}", err=True)
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_printed(HEAD, findings.rows()))
    for sentence in findings.sentences():
        console.print(sentence, soft_wrap=not console.is_terminal)
    print_line(f"\nReport: {path}")


def _found(
    scenario: Scenario,
    data: Data | None,
    seeds: int,
    jobs: int,
    out: Path,
    stop: threading.Event,
    extent: Extent,
) -> Findings:
    from stream_al.whatif.experiment import of_grid, of_pool
    from stream_al.whatif.processes import Stopped, answers
    from stream_al.whatif.results import Table
    from stream_al.whatif.scenarios import Work, run_arm

    if scenario.plan is not None:
        summary = _run(scenario.plan(data, seeds, extent), out, jobs, stop, resume=True)
        return of_grid(scenario, summary, Table(out).curves({r.cell for r in summary.results}))
    assert scenario.task is not None
    task = scenario.task(data, 1, extent)
    work = Work(scenario.name, data, extent)
    tasks = [(arm, seed) for seed in range(1, seeds + 1) for arm in scenario.arms]
    found = {}
    try:
        with _progress(len(tasks)) as tell:
            for arm, seed, curve in answers(run_arm, work, tasks, jobs, stop):
                found[arm, seed] = curve
                tell()
    except Stopped:
        typer.echo(f"Stopped after {len(found)} of {len(tasks)} runs; nothing is written.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    made = "made-up samples" if data is None else data.name
    return of_pool(
        scenario, f"{made}: {len(task.pool):,} in the pool, {len(task.test):,} held back", seeds, found
    )


# What was recorded


def _replay(settings: Settings, strategies: Sequence[str], budgets: Sequence[float], *, json: bool) -> None:
    """Judge other ways of asking by what is in the ledger."""
    from stream_al.scan import scan
    from stream_al.transport.port import TransportError
    from stream_al.whatif.logged import choices, recorded, warnings

    with attach(settings) as broker:
        log = recorded(scan(broker, settings.topics.ledger))
    if not log.labels:
        raise TransportError(
            f"there are no labels in {settings.topics.ledger} yet, so nothing can be told from them"
        )
    found = choices(log, strategies, budgets)
    if json:
        for choice in found:
            print_json(choice)
    else:
        from rich.console import Console

        head = ("strategy", "budget", "labels", "threshold", "mistakes found", "95 % interval", "")
        console = Console(highlight=False)
        console.print(_printed(head, map(_judged, found)))
        print_line(f"{len(log.labels):,} labels, weighted, stand for the stream of {log.samples:,} samples.")
    for warning in warnings(log):
        typer.echo(warning, err=True)


def _judged(choice: Choice) -> tuple[str, ...]:
    from stream_al.core.accuracy import Interval
    from stream_al.web.demo_run import between, percent

    known = choice.mistakes is not None and choice.low is not None and choice.high is not None
    interval = Interval(choice.mistakes, choice.low, choice.high) if known else None  # type: ignore[arg-type]
    threshold = "" if choice.threshold is None else f"{choice.threshold:.3f}"
    share = percent(choice.mistakes)
    budget, labels = percent(choice.budget), f"{choice.labels:,}"
    return choice.strategy, budget, labels, threshold, share, between(interval), choice.warning
