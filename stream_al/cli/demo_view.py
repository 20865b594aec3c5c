"""What a demo shows while it runs, on standard error: a live picture, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stream_al.config import Settings
from stream_al.core.accuracy import Interval
from stream_al.web.demo_run import asking, between, percent

if TYPE_CHECKING:
    from stream_al.simulate import Progress  # brings River, which takes a second to load

REFRESH_S, LINE_EVERY_S = 0.125, 2.0
WIDEST = 88
BLUE, ORANGE, GREEN, GREY = "#56b4e9", "#e69f00", "#009e73", "bright_black"  # Okabe and Ito's
AXES = (0.0, 0.5, 0.8)  # where the scale of accuracies may begin; it ends at 1

Run = tuple[Settings, "Pace", "Progress | None"]


class Watcher(Protocol):
    """Shows runs over the same stream while they go on."""

    def begin(self, settings: Settings) -> None:
        """Start with a new run."""

    def turn(self, now: Progress) -> None:
        """Show where it stands, if it is time to."""

    def end(self) -> None:
        """Stop showing; what was shown last stays."""


@contextmanager
def watching(words: str, samples: int, delay: int) -> Iterator[Watcher]:
    """Show runs over a stream of so many samples; ``words`` describe it."""
    console = Console(stderr=True, highlight=False)
    live = console.is_terminal and not console.is_dumb_terminal
    watcher = Picture(words, samples, delay, console) if live else Lines(samples)
    try:
        yield watcher
    finally:
        watcher.end()


class Pace:
    """Samples a second, and the seconds that are left."""

    def __init__(self, samples: int) -> None:
        self.samples, self.seen, self.first = samples, 0, 0
        self.began = self.now = 0.0

    def see(self, seen: int) -> None:
        """Note how many samples were seen by now.

        The first turn does not count, it loads the data set; neither do those after the last sample.
        """
        if seen > self.seen:
            self.seen, self.now = seen, time.monotonic()
        if not self.first:
            self.first, self.began = self.seen, self.now

    @property
    def rate(self) -> float:
        return (self.seen - self.first) / max(1e-3, self.now - self.began)

    @property
    def left(self) -> str:
        if self.seen == self.samples:
            return "done"
        return f"{(self.samples - self.seen) / self.rate:.0f} s left" if self.rate else ""


class Lines:
    """One line of text every two seconds."""

    def __init__(self, samples: int) -> None:
        self.pace, self.name, self.told = Pace(samples), "", time.monotonic()

    def begin(self, settings: Settings) -> None:
        self.pace, self.name = Pace(self.pace.samples), asking(settings.strategy)

    def turn(self, now: Progress) -> None:
        self.pace.see(now.samples)
        if self.pace.rate and time.monotonic() - self.told >= LINE_EVERY_S:
            self.told = time.monotonic()
            typer.echo(self._line(now), err=True)

    def _line(self, now: Progress) -> str:
        dr = now.estimate.dr
        return (
            f"{self.name}: {now.samples:,} of {self.pace.samples:,} samples, {self.pace.rate:,.0f}/s,"
            f" {self.pace.left}; {now.requests:,} labels asked for,"
            f" accuracy {f'{percent(dr)} {between(dr)}' if dr else 'unknown'}, true {percent(now.true)}"
        )

    def end(self) -> None:
        """Nothing stays open."""


class Picture:
    """The live view of a terminal, drawn anew about eight times a second by the loop itself."""

    def __init__(self, words: str, samples: int, delay: int, console: Console) -> None:
        self.words, self.samples, self.delay, self.console = words, samples, delay, console
        self.runs: list[Run] = []
        self.drawn = 0.0
        self.live = Live(self.render(), console=console, auto_refresh=False)
        self.live.start(refresh=True)

    def begin(self, settings: Settings) -> None:
        self.runs.append((settings, Pace(self.samples), None))
        self._draw()

    def turn(self, now: Progress) -> None:
        settings, pace, _ = self.runs[-1]
        pace.see(now.samples)
        self.runs[-1] = settings, pace, now
        if time.monotonic() - self.drawn >= REFRESH_S:
            self._draw()

    def _draw(self) -> None:
        self.live.update(self.render(), refresh=True)
        self.drawn = time.monotonic()

    def end(self) -> None:
        if self.live.is_started:
            self._draw()
            self.live.stop()

    def render(self) -> RenderableType:
        """Return the picture of this moment."""
        width = min(self.console.width, WIDEST)
        rows: list[Any] = [f"{self.words}; answers {self.delay:,} samples late", ""]
        rows += [_bar(*run) for run in self.runs] or [Text("loading the data set ...", GREY)]
        settings, _, now = self.runs[-1] if self.runs else (None, None, None)
        if settings is not None and now is not None:
            plain = self.console.options.ascii_only
            rows += ["", _facts(settings, now), "", bands(now, width - 4, ASCII if plain else UNICODE)]
        return Panel(Group(*rows), title="stream-al demo", title_align="left", box=box.ROUNDED, width=width)


def _bar(settings: Settings, pace: Pace, _: Progress | None) -> Table:
    """Draw how far a run has come."""
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(width=25, no_wrap=True)
    row.add_column(ratio=1)
    for width in (4, 9, 10):
        row.add_column(width=width, justify="right", no_wrap=True)
    bar = ProgressBar(pace.samples, pace.seen, complete_style=BLUE, finished_style=GREEN)
    rate = f"{pace.rate:,.0f}/s" if pace.rate else ""
    row.add_row(asking(settings.strategy), bar, f"{pace.seen / pace.samples:.0%}", rate, pace.left)
    return row


def _facts(settings: Settings, now: Progress) -> Table:
    """Say what was spent and how the model is."""
    fraction = settings.budget.fraction
    budget = f"budget {percent(fraction)}" if fraction is not None else "budget by the clock"
    allowed = f" of {int(now.allowed):,} allowed so far" if fraction is not None else ""
    state = ("warming up", ORANGE) if now.warming else ("active", GREEN)
    table = Table.grid(padding=(0, 2))
    table.add_column(style=GREY)
    table.add_column()
    table.add_row("labels", f"{now.requests:,} asked for{allowed}, {now.requests - now.labels:,} awaited")
    table.add_row("query rate", f"{percent(now.requests / max(1, now.samples))} ({budget})")
    table.add_row("model", Text.assemble(f"version {now.version:,}, ", state))
    return table


# The accuracies on one scale


UNICODE = {"left": "├", "line": "─", "right": "┤", "honest": "●", "true": "◆", "naive": "○", "empty": "·"}
ASCII = {"left": "[", "line": "-", "right": "]", "honest": "o", "true": "#", "naive": "x", "empty": "."}


def bands(now: Progress, width: int, glyphs: dict[str, str]) -> Table:
    """Draw the accuracies one under the other on a common scale, with their numbers."""
    dr, naive = now.estimate.dr, now.estimate.naive
    least = min([now.true, *([dr.low] if dr else []), *([naive.value] if naive else [])])
    start = max(axis for axis in AXES if axis <= max(0.0, least))
    columns = (13, max(10, width - 13 - 7 - 13 - 3), 7, 13)
    scale = Scale(start, columns[1], glyphs)
    table = Table.grid(padding=(0, 1))
    for column, cells in enumerate(columns):
        table.add_column(width=cells, no_wrap=True, justify="right" if column == 2 else "left")
    table.add_row(Text("accuracy", GREY), scale.words(), "", "")
    rows = (
        ("honest, 95 %", dr, "honest", BLUE),
        ("true", _exact(now.true), "true", "default"),
        ("labelled only", _exact(naive.value) if naive else None, "naive", ORANGE),
    )
    for words, value, name, style in rows:
        number = Text(percent(value) if value else "", style)
        interval = Text(between(value) if value and name == "honest" else "", style)
        table.add_row(Text(words, GREY), scale.mark(value, name, style), number, interval)
    return table


def _exact(value: float) -> Interval:
    return Interval(value, value, value)


@dataclass(frozen=True, slots=True)
class Scale:
    """A row of cells for shares from ``start`` to 1."""

    start: float
    cells: int
    glyphs: dict[str, str]

    def words(self) -> Text:
        """Write the ends and the middle of the scale."""
        line = [" "] * self.cells
        for share in (self.start, (self.start + 1) / 2, 1.0):
            text = percent(share, 0)
            at = min(self._cell(share), self.cells - len(text))
            line[at : at + len(text)] = text
        return Text("".join(line), GREY)

    def mark(self, interval: Interval | None, name: str, style: str) -> Text:
        """Draw a value and, where it has one, its interval."""
        marks = [self.glyphs["empty"]] * self.cells
        if interval is None:
            return Text("".join(marks), GREY)
        low, at, high = (self._cell(share) for share in (interval.low, interval.value, interval.high))
        if high > low:
            line = [self.glyphs["line"]] * (high - low - 1)
            marks[low : high + 1] = [self.glyphs["left"], *line, self.glyphs["right"]]
        marks[at] = self.glyphs[name]
        drawn = Text("".join(marks), GREY)
        drawn.stylize(style, low, high + 1)
        return drawn

    def _cell(self, share: float) -> int:
        place = (share - self.start) / (1 - self.start) * (self.cells - 1)
        return min(self.cells - 1, max(0, round(place)))
