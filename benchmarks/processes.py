"""What the service takes as processes on the embedded log: on a quiet stream, by two scorers, after millions of samples.

* quiet: one process of all roles, 200 samples a second; its CPU time against the clock;
* two: n samples by one scorer, and by two on a log of their own, in turn. What is compared is CPU time, so that whatever
  else these cores do is counted out: n samples take as long as the process that works most;
* memory: one scorer is fed as fast as it decides, and people answer as fast as people could; its resident memory at the end,
  and how much that is above what it was after the first third. About .5 kB is kept of each label, and is meant to be.

Samples have 30 numeric features; the model is LogisticRegression, in the memory run the default model.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from _harness import ROOT, Bars, parse, parser, table
from ordinary import FEATURES, generated, written
from throughput import MODELS, SLACK

from stream_al import logs
from stream_al.config import DEFAULT_SPEC
from stream_al.transport.port import Output, TopicPartition

sys.path.insert(0, str(ROOT))
from tests.e2e.world import World
from tests.soak.__main__ import LABELS_PER_HOUR, resident_mb

QUIET_PER_S, QUIET_S, QUICK_QUIET_S = 200, 30.0, 6.0
ROUND, ROUNDS = 60_000, 5
QUICK_ROUND, QUICK_ROUNDS = 8_000, 3
MILLIONS, QUICK_MILLIONS = 5_000_000, 400_000
KINDS = 2_000
AT_ONCE, MOST_UNREAD = 2_000, 20_000
MOST_SHARE, LEAST_SPEEDUP, MOST_MB, MOST_RISE_MB = 0.25, 1.7, 300.0, 8.0
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Named(dict[str, bool]):
    """Labels that stand in the ids."""

    def __missing__(self, name: str) -> bool:
        return name.endswith("-true")


class Stream(World):
    """A world with samples that are cheap to make: their features come over and over."""

    def __init__(
        self, where: Path, spec: Sequence[Any], partitions: int, per_hour: int | None = None
    ) -> None:
        tree = {
            "broker": {"url": f"embedded://{where}/log.db", "partitions": partitions},
            "model": {"spec": list(spec), "classes": [False, True]},
            "budget": {"fraction": 0.05, "per_hour": per_hour},
            "samples": {"start": "earliest"},
            "http": {"port": None},
        }  # fmt: skip
        super().__init__(where, tree)
        self.labels = Named()
        self.bodies = [
            b"-%b%b" % (str(label).lower().encode(), written(0, features).partition(b"s-0")[2])
            for features, label in generated(KINDS, FEATURES)
        ]

    def feed(self, n: int) -> None:
        """Write the next n samples, to the partitions in turn."""
        first, self.sent = self.sent, self.sent + n
        partitions = self.settings.broker.partitions
        lines = [b'{"id": "s-%d%b' % (i, self.bodies[i % KINDS]) for i in range(first, first + n)]
        self.broker.append(
            [Output(self.topics.samples, line, partition=i % partitions) for i, line in enumerate(lines)]
        )

    def unread(self) -> int:
        """Return how many samples no scorer has decided yet."""
        topic = self.topics.samples
        ends = self.broker.ends(topic)
        at = self.broker.positions(f"{self.settings.group}-scorer", [TopicPartition(topic, p) for p in ends])
        return sum(ends[tp.partition] - (position.offset if position else 0) for tp, position in at.items())

    def read(self) -> None:
        """Wait until every sample is decided."""
        self.until(lambda: self.unread() == 0)

    def cpu_s(self, name: str) -> float:
        """Return the seconds of CPU that a process has taken."""
        after_name = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rpartition(")")[2].split()
        return TICK_S * (int(after_name[11]) + int(after_name[12]))


def quiet(where: Path, seconds: float) -> float:
    """Return the share of a core that all roles in one process take."""
    world = Stream(where, MODELS["logistic"], 4)
    try:
        world.start("all", "all")
        world.feed(QUIET_PER_S)
        world.read()
        before, began = world.cpu_s("all"), time.monotonic()
        fed = 0
        while (now := time.monotonic() - began) < seconds:
            due = int(now * QUIET_PER_S)
            if due > fed:
                world.feed(due - fed)
                fed = due
            time.sleep(0.02)
        return (world.cpu_s("all") - before) / (time.monotonic() - began)
    finally:
        world.close()


def two(where: Path, rounds: int, n: int) -> list[tuple[float, float]]:
    """Return, by round, the CPU seconds of one scorer and of the busier of two."""
    worlds = {
        1: Stream(where / "one", MODELS["logistic"], 2),
        2: Stream(where / "two", MODELS["logistic"], 2),
    }
    try:
        for count, world in worlds.items():
            world.start("learner", "learner")
            for i in range(count):
                world.start(f"scorer-{i}", "scorer")
            for _ in range(3):  # joined, warm and dealt its grants
                world.feed(AT_ONCE)
                world.read()
                time.sleep(1.0)
        found: list[tuple[float, float]] = []
        for i in range(rounds):
            took: dict[int, float] = {}
            for count, world in list(worlds.items())[:: 1 if i % 2 else -1]:
                names = [f"scorer-{k}" for k in range(count)]
                before = [world.cpu_s(name) for name in names]
                world.feed(n)
                world.read()
                took[count] = max(world.cpu_s(name) - b for name, b in zip(names, before, strict=True))
            found.append((took[1], took[2]))
        return found
    finally:
        for world in worlds.values():
            world.close()


def memory(where: Path, n: int) -> tuple[float, float, float]:
    """Return a scorer's resident memory in MB after a third of n samples, the most since then, and at the end."""
    world = Stream(where, DEFAULT_SPEC, 4, LABELS_PER_HOUR)
    looked_every = AT_ONCE * max(1, n // AT_ONCE // 200)
    try:
        world.start("learner", "learner")
        world.start("scorer", "scorer")
        world.annotate()
        seen: list[tuple[int, float]] = []
        while world.sent < n:
            if world.unread() < MOST_UNREAD:
                world.feed(AT_ONCE)
            else:
                time.sleep(0.005)
                continue
            if world.sent % looked_every == 0:
                seen.append((world.sent, resident_mb(world.processes["scorer"].pid)))
        world.read()
        end = resident_mb(world.processes["scorer"].pid)
        late = [mb for sent, mb in seen if sent >= n / 3]
        return late[0], max(late), end
    finally:
        world.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the three measurements."""
    made = parser(__doc__ or "", seeds=1)
    made.add_argument("--only", choices=["quiet", "two", "memory"], help="one of them")
    chosen = parse(made, argv)
    logs.configure("error")
    bars, quick = Bars(), chosen.quick
    slack = SLACK if quick else 1.0
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        if chosen.only in (None, "quiet"):
            share = quiet(where / "quiet", QUICK_QUIET_S if quick else QUIET_S)
            bars.add(f"share of a core at {QUIET_PER_S} samples/s", share, high=MOST_SHARE / slack)
        if chosen.only in (None, "two"):
            n = chosen.samples or (QUICK_ROUND if quick else ROUND)
            found = two(where, QUICK_ROUNDS if quick else ROUNDS, n)
            rows = [
                (f"round {i}", f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}") for i, (a, b) in enumerate(found, 1)
            ]
            table(f"{n:,} samples: seconds of CPU", ("", "one scorer", "busier of two", "ratio"), rows)
            bars.add("two scorers against one", median(a / b for a, b in found), low=LEAST_SPEEDUP * slack)
        if chosen.only in (None, "memory"):
            n = chosen.samples or (QUICK_MILLIONS if quick else MILLIONS)
            third, most, end = memory(where / "memory", n)
            rows = [(f"{n:,}", f"{third:.0f}", f"{most:.0f}", f"{end:.0f}")]
            table("A scorer's memory, MB", ("samples", "after a third", "most since", "at the end"), rows)
            bars.add("MB at the end", end, high=MOST_MB)
            bars.add("MB above a third of the way", end - third, high=MOST_RISE_MB / slack)
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
