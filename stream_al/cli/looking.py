"""``status`` and ``top``: how a service is doing, once and live."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, attach, examples, settings_of
from stream_al.cli.outcome import misuse
from stream_al.cli.printing import print_json

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from stream_al.config import Settings
    from stream_al.core.accuracy import Interval
    from stream_al.core.challenger import Standing
    from stream_al.core.classification import ClassReport, Known
    from stream_al.core.regression import Errors
    from stream_al.status import Lag, Spending, Status
    from stream_al.status_reading import Observer

STATUS_EXAMPLES = examples("stream-al status", "stream-al status --json | jq .accuracy.all.dr")
TOP_EXAMPLES = examples("stream-al top", "stream-al top --every 5")


def status(as_json: Json = False, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Print how the service is doing, and which link of the chain is silent.

    Everything is read from the topics, so that it can be asked from any machine, also of a service that is
    down: rates, budget, open requests, lag, and the accuracy over all samples (doubly robust, with its 95 %
    interval) with the naive one beside it; in regression, MAE and RMSE. The exit code is 0 whatever is found;
    use --json and the list silent for alarms.
    """
    settings = settings_of(config, overrides)
    with _observed(settings) as observer:
        found = observer.look()
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    Console(highlight=False).print(view(found))


def top(
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Show the status live; Ctrl-C ends it."""
    if as_json:
        raise misuse("top is a live picture; for machines there is stream-al status --json")
    from rich.console import Console
    from rich.live import Live

    settings = settings_of(config, overrides)
    with (
        _observed(settings) as observer,
        Live(console=Console(highlight=False), auto_refresh=False, screen=True) as live,
    ):
        try:
            while True:
                live.update(view(observer.look()), refresh=True)
                time.sleep(every)
        except KeyboardInterrupt:
            return


@contextmanager
def _observed(settings: Settings) -> Iterator[Observer]:
    from stream_al.status_reading import Observer

    with attach(settings) as broker, Observer(broker, settings) as observer:
        yield observer


def view(s: Status) -> Group:
    """Return a status for people."""
    from rich.console import Group
    from rich.text import Text

    from stream_al.wording import duration

    parts: list[RenderableType] = [_head(s)]
    for finding in s.silent:
        said = Text.assemble(("✗ ", "bold red"), (f"{finding.link}: ", "bold"), finding.message)
        parts += [Text(), said, Text(f"  {finding.todo}", style="dim")]
    if not s.silent:
        age = s.rates.last_bucket_age_s
        counted = f"; samples were last counted {duration(age)} ago" if age is not None else ""
        parts += [Text(), Text.assemble(("✓ ", "bold green"), f"no link is silent{counted}")]
    quality = _errors(s.errors) if s.task == "regression" else _accuracy(s)
    return Group(*parts, Text(), quality, Text(), _lags(s.lags))


def _head(s: Status) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _rows(s):
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _rows(s: Status) -> list[tuple[str, str]]:
    from stream_al.status import paced
    from stream_al.wording import duration, shortened

    b, open_ = s.budget, s.pending
    promoted = (
        f", promoted {s.promotions} times" if s.promotions > 1 else ", promoted" if s.promotions else ""
    )
    epoch = f"; rebuilt at {s.epoch.until} from {s.epoch.begin} on" if s.epoch.until else ""
    oldest = f", the oldest for {duration(open_.oldest_s)} ({shortened(open_.ids[0])})" if open_.ids else ""
    most = f" of at most {b.max_outstanding:,}" if b.max_outstanding is not None else ""
    letters = ", ".join(f"{reason} {n}" for reason, n in sorted(s.dead_letters.reasons.items()))
    errors = ", ".join(f"{error} {n}" for error, n in sorted(s.fold_errors.items()))
    numbers, pace = s.task == "regression", paced(b, open_.requests)
    classes = (f"by class, latest {s.by_class_window:,}", _by_class(s.by_class)), ("drift", _drift(s))
    return [
        (
            "model",
            f"{s.model}{promoted}, version {s.version}{', warming up' if s.warming else ''}; asks by {s.strategy}",
        ),
        (
            "ledger",
            f"{s.ledger_id} since {s.founded_at}, position {s.position}{epoch}"
            if s.ledger_id
            else "none yet",
        ),
        *((("start", f"takes {duration(s.replay_s)} without a snapshot"),) if s.ledger_id else ()),
        *(() if numbers else (("classes", ", ".join(s.classes) or "none yet"),)),
        (
            "samples",
            f"{b.samples:,}{_speed(s.rates.samples_per_s)}; invalid {b.invalid:,}, uncovered {b.uncovered:,}",
        ),
        ("requests", f"{b.requests:,}{_speed(s.rates.requests_per_s)}"),
        ("budget", _budget(b)),
        *((("pace", pace),) if pace else ()),
        ("labels", ", ".join(f"{name} {n:,}" for name, n in s.labels.items())),
        ("open", f"{open_.requests:,}{most}{oldest}"),
        *(() if numbers else classes),
        *((f"challenger {c.name}", f"{c}{_unlearned(c)}") for c in s.challengers),
        *((("labels saved", str(s.labels_saved)),) if s.labels_saved is not None else ()),
        *((("pseudo-labels", _pseudo_labels(s)),) if s.cooperative != "off" else ()),
        ("dead letters", f"{s.dead_letters.records:,}{f' (latest: {letters})' if letters else ''}"),
        ("fold errors", errors or "0"),
    ]


def _by_class(found: ClassReport) -> str:
    named = {"macro F1": found.macro_f1, "kappa": found.kappa, "log loss": found.log_loss}
    return ", ".join(f"{name} {_known(known)}" for name, known in named.items())


def _known(known: Known) -> str:
    from stream_al.core.accuracy import Interval

    if isinstance(known, Interval):
        return f"{known.value:.2f} ({known.low:.2f} to {known.high:.2f})"
    return str(known)


def _drift(s: Status) -> str:
    last = s.last_drift_alarm
    if last is None:
        return "no alarm"
    counts = ", ".join(f"{signal} {n}" for signal, n in sorted(s.drift_alarms.items()))
    return f"alarms: {counts}; the last one after {last.samples:,} samples"


def _unlearned(c: Standing) -> str:
    errors = ", ".join(f"{error} {n}" for error, n in sorted(c.errors.items()))
    return f"; could not learn: {errors}" if errors else ""


def _pseudo_labels(s: Status) -> str:
    ended = "; they did harm, and the model without them has taken over" if s.cooperative == "stopped" else ""
    return f"{s.pseudo_labels:,}{ended}"


def _speed(per_s: float | None) -> str:
    return "" if per_s is None else f" ({per_s:,.0f}/s)" if per_s >= 10 else f" ({per_s:.2g}/s)"


def _budget(b: Spending) -> str:
    limits = []
    if b.fraction is not None:
        rate = "no rate yet" if b.query_rate is None else f"{b.query_rate:.2%}"
        limits.append(
            f"{rate} of {b.fraction:.2%}, up to {b.fraction * b.samples + b.allowance:,.0f} requests by now"
        )
    if b.per_hour is not None:
        limits.append(f"{b.requests_last_hour:,} of {b.per_hour:,} this hour")
    if b.per_day is not None:
        limits.append(f"{b.requests_last_day:,} of {b.per_day:,} this day")
    return "; ".join(limits) or "none yet"


def _accuracy(s: Status) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("accuracy", overflow="fold")
    for name in ("doubly robust", "Hájek", "naive", "labels", "samples"):
        table.add_column(name, justify="right", overflow="fold")
    for window, e in s.accuracy.items():
        naive = "-" if e.naive is None else f"{e.naive.value:.1%}"
        table.add_row(
            Text(_named(window)),
            _interval(e.dr),
            _interval(e.hajek),
            naive,
            f"{e.labels:,}",
            f"{e.samples:,}",
        )
    return table


def _errors(found: Mapping[str, Errors]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("error", overflow="fold")
    for name in ("MAE", "RMSE", "naive MAE", "labels", "samples"):
        table.add_column(name, justify="right", overflow="fold")
    for window, e in found.items():
        naive = "-" if e.naive_mae is None else f"{e.naive_mae:.4g}"
        table.add_row(
            Text(_named(window)), _off(e.mae), _off(e.rmse), naive, f"{e.labels:,}", f"{e.samples:,}"
        )
    return table


def _off(known: Known) -> str:
    from stream_al.core.accuracy import Interval

    if not isinstance(known, Interval):
        return str(known) if known.effective else "-"
    return f"{known.value:.4g} {known.low:.3g}–{known.high:.3g}"


def _named(window: str) -> str:
    return f"latest {int(window):,}" if window.isdigit() else window


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.1%} {interval.low:.0%}–{interval.high:.0%}"


def _lags(lags: tuple[Lag, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("group", "topic", "behind", "by partition"):
        table.add_column(name, justify="right" if name == "behind" else "left", overflow="fold")
    for group, topic in dict.fromkeys((lag.group, lag.topic) for lag in lags):
        each = [lag for lag in lags if (lag.group, lag.topic) == (group, topic)]
        behind = sum(lag.records for lag in each)
        shown = " ".join(str(lag.records) for lag in each) if behind else ""
        table.add_row(Text(group), Text(topic), f"{behind:,}", shown)
    return table
