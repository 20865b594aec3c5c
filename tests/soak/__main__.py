"""Full speed for long: ``python -m tests.soak --seconds 600``; on Kafka too, one that ``STREAM_AL_TEST_KAFKA`` names or the tests' own.

One process plays all roles, is fed as fast as it decides and answered as fast as people could. Held is: its memory is flat
after the first third (a line through its resident size rises by at most ``MOST_MB_PER_MIN``, or ``NOISE_MB`` in all), every
sample is decided once, nothing in the ledger is unreadable.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream_al.transport.port import Output, TopicPartition
from tests.e2e.world import World, check_decided_once, check_ledger
from tests.kafka.broker import KafkaNode, MissingError

MOST_MB_PER_MIN = 1.0
NOISE_MB = 8.0  # between two collections of garbage
AT_ONCE, MOST_UNREAD = 2_000, 20_000
LABELS_PER_HOUR = 3_600
KINDS = 5_000
GIVEN = os.environ.get("STREAM_AL_TEST_KAFKA")


class Named(dict):
    """Labels that stand in the ids: a long run has no room for others."""

    def __missing__(self, name: str) -> str:
        return name.rsplit("-", 1)[1]


class Stream(World):
    """A world whose samples are cheap to make."""

    def __init__(self, where: Path, tree: dict) -> None:
        super().__init__(where, tree)
        self.labels = Named()
        self.bodies = []
        for _ in range(KINDS):
            x, y = self.random.gauss(0, 1), self.random.gauss(0, 1)
            label = "up" if x + 0.7 * y + self.random.gauss(0, 0.2) > 0 else "down"
            body = f'-{label}", "features": {{"x": {x}, "y": {y}, "where": "{self.random.choice("abc")}"}}}}'
            self.bodies.append(body.encode())

    def lines(self, n: int) -> list[bytes]:
        first, self.sent = self.sent, self.sent + n
        return [b'{"id": "s-%d%b' % (i, self.bodies[i % KINDS]) for i in range(first, first + n)]

    def unread(self) -> int:
        topic = self.topics.samples
        ends = self.broker.ends(topic)
        tps = [TopicPartition(topic, p) for p in ends]
        positions = self.broker.positions(f"{self.settings.group}-scorer", tps)
        return sum(ends[tp.partition] - (at.offset if at else 0) for tp, at in positions.items())

    def feed(self, n: int) -> None:
        partitions = self.settings.broker.partitions
        lines = self.lines(n)
        self.broker.append(
            [Output(self.topics.samples, v, partition=i % partitions) for i, v in enumerate(lines)]
        )


@dataclass(frozen=True)
class Result:
    """What a run came to; memory in MB, the slope by least squares over the last two thirds."""

    samples_per_s: float
    labels: int
    started_mb: float
    ended_mb: float
    mb_per_min: float
    minutes: float

    @property
    def flat(self) -> bool:
        return self.mb_per_min <= max(MOST_MB_PER_MIN, NOISE_MB / self.minutes)

    def __str__(self) -> str:
        return (
            f"{self.samples_per_s:,.0f} samples/s, {self.labels:,} labels; memory {self.started_mb:.1f} MB after a third,"
            f" {self.ended_mb:.1f} MB at the end, {self.mb_per_min:+.2f} MB/min: {'flat' if self.flat else 'NOT FLAT'}"
        )


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def soak(url: str, seconds: float, where: Path) -> Result:
    name = uuid.uuid4().hex[:8]
    topics = ("samples", "labels_requested", "labels", "reports", "ledger", "dead_letters", "predictions")
    tree = {
        "broker": {"url": url, "partitions": 4},
        "topics": {t: f"{t.replace('_', '-')}-{name}" for t in topics},
        "group": f"soak-{name}",
        "budget": {"fraction": None, "per_hour": LABELS_PER_HOUR},
        "samples": {"start": "earliest"},
        "http": {"port": 0},
    }  # fmt: skip
    world = Stream(where, tree)
    try:
        world.start("all", "all")
        world.annotate()
        world.feed(AT_ONCE)
        world.until(lambda: world.unread() == 0)
        return _measured(world, seconds)
    finally:
        world.close()


def _measured(world: Stream, seconds: float) -> Result:
    pid = world.processes["all"].pid
    began, first, memory = time.monotonic(), world.sent, []
    while (now := time.monotonic() - began) < seconds:
        if world.unread() < MOST_UNREAD:
            world.feed(AT_ONCE)
        else:
            time.sleep(0.01)
        if not memory or now - memory[-1][0] >= 0.5:
            memory.append((now, resident_mb(pid)))
            assert world.processes["all"].poll() is None, world.logs()
    speed = (world.sent - first - world.unread()) / (time.monotonic() - began)
    late = np.array([(t, mb) for t, mb in memory if t > seconds / 3])
    slope = float(np.polyfit(late[:, 0] / 60, late[:, 1], 1)[0])
    world.until(lambda: world.unread() == 0)
    assert not world.trouble, world.trouble
    assert world.terminate("all") == 0
    check_decided_once(world)
    fold = check_ledger(world)
    return Result(speed, fold.learned, late[0, 1], late[-1, 1], slope, (late[-1, 0] - late[0, 0]) / 60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument(
        "--kafka", help="host:port; none: without Kafka. Otherwise a broker is started", default=GIVEN
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        urls = {"embedded log": f"embedded://{directory}/log.db"}
        if chosen.kafka != "none":
            try:
                urls["Kafka"] = f"kafka://{chosen.kafka or stack.enter_context(KafkaNode()).bootstrap}"
            except MissingError as reason:
                print(f"without Kafka: {reason}")
        flat = True
        for name, url in urls.items():
            found = soak(url, chosen.seconds, Path(directory) / name.split()[0])
            print(f"{name}, {chosen.seconds:.0f} s: {found}", flush=True)
            flat = flat and found.flat
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main())
