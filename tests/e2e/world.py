"""The service as processes, a feed, a late annotator, and checks that look at the topics only."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from stream_al.codec import answer_bytes, decode_ledger, decode_request
from stream_al.config import load
from stream_al.core.coin import coin
from stream_al.core.fold import Fold
from stream_al.core.messages import Answer, Bucket, Grant, LabelRequest, Learned, Observe
from stream_al.service.learning import wanted_budget
from stream_al.service.loop import open_broker
from stream_al.transport.port import Output, TopicPartition, Unavailable

DEADLINE_S = 90.0
BROKEN = b"{broken"


def read_all(broker, topic):
    """Return every committed record of a topic, in the order of partition and offset."""
    found = []
    begins = broker.begins(topic)
    for p, end in sorted(broker.ends(topic).items()):
        tp = TopicPartition(topic, p)
        with broker.reader({tp: begins[p]}) as reader:
            until = time.monotonic() + DEADLINE_S
            while reader.position(tp) < end:
                assert time.monotonic() < until, f"{tp} does not reach {end}"
                for batch in reader.poll(5000, 0.5).values():
                    found += batch
    return found


def program(world: World, name: str, arguments: list[str]) -> subprocess.Popen:
    """Start ``stream-al`` as a process; its diagnostics go to a file."""
    with world.log(name).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stream_al", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=world.where,
            env={**os.environ, "STREAM_AL_LOG__FORMAT": "json"},
        )  # fmt: skip


class World:
    """One log, its processes, its feed and its annotator.

    Parameters
    ----------
    where
        Directory of everything.
    tree
        The configuration.
    launch
        Starts a process; what it returns is used as a ``Popen``.
    broken
        The share of the samples that nobody can read.
    twice
        The share of the answers that are delivered twice.
    """

    def __init__(
        self,
        where: Path,
        tree: dict,
        seed: int = 0,
        launch: Callable[[World, str, list[str]], Any] = program,
        broken: float = 0.0,
        twice: float = 0.0,
    ) -> None:
        where.mkdir(parents=True, exist_ok=True)
        self.where, self.seed = where, seed
        self.settings_of_processes: list[str] = []  # ``a.b=c`` that are not this world's own
        self.states = where  # where the processes' state directories are
        self.config = where / "config.yaml"
        self.config.write_text(yaml.safe_dump(tree, sort_keys=False))
        self.settings = load(self.config, environ={})
        self.topics = self.settings.topics
        self.launch, self.broken, self.twice = launch, broken, twice
        self.processes: dict[str, Any] = {}
        self.labels: dict[str, str] = {}
        self.sent = 0
        self.random = random.Random(seed)
        self.broker = open_broker(self.settings)
        self.stopping, self.flowing = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []
        self.trouble: list[BaseException] = []

    # --- processes -------------------------------------------------------------------------------------------

    def start(self, name: str, role: str) -> None:
        """Start a role as a process."""
        arguments = ["run", "--role", role, "--config", str(self.config)]
        self.log(name).touch()
        for setting in (f"state_dir={self.states / name}", *self.settings_of_processes):
            arguments += ["--set", setting]
        self.processes[name] = self.launch(self, name, arguments)

    def log(self, name: str) -> Path:
        """Return the file with a process's diagnostics."""
        return self.where / f"{name}.log"

    def told(self, name: str) -> str:
        """Return a process's diagnostics so far."""
        return self.log(name).read_text()

    def url(self, name: str) -> str:
        """Return where a process serves its metrics, once it does."""

        def found():
            for line in self.log(name).read_bytes().splitlines()[::-1]:
                if b"http://" in line and line.startswith(b"{"):
                    text = json.dumps(json.loads(line))
                    return text[text.index("http://") :].split('"')[0].rstrip("/").removesuffix("/metrics")
            return None

        return self.until(found)

    def until(self, true, seconds: float = DEADLINE_S):
        """Wait for something to become true and return it; a dead process ends the wait."""
        deadline = time.monotonic() + seconds
        while not (found := true()):
            for name, process in self.processes.items():
                code = process.poll()
                assert code is None, f"{name} ended with {code}:\n" + self.told(name)[-3000:]
            assert time.monotonic() < deadline, "it did not become true in time\n" + self.logs()
            time.sleep(0.05)
        return found

    def logs(self) -> str:
        return "\n".join(f"--- {n}\n" + self.told(n)[-2000:] for n in self.processes)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """Stop a process as a machine does that pages, or a cluster that moves it: it notices nothing."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def wake(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    def terminate(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=30)

    def ended(self, name: str, seconds: float = 15.0) -> int:
        """Wait for a process to end by itself; return its exit code."""
        return self.processes.pop(name).wait(timeout=seconds)

    def close(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(10)
        for name in list(self.processes):
            self.kill(name)
        self.broker.close()

    # --- the world -------------------------------------------------------------------------------------------

    def lines(self, n: int) -> list[bytes]:
        """Return n samples as JSON; two moons would do, a noisy diagonal does too."""
        found = []
        for _ in range(n):
            x, y = self.random.gauss(0, 1), self.random.gauss(0, 1)
            name = f"s-{self.sent}"
            self.sent += 1
            if self.broken and self.random.random() < self.broken:
                found.append(BROKEN)
                continue
            self.labels[name] = "up" if x + 0.7 * y + self.random.gauss(0, 0.2) > 0 else "down"
            features = {"x": x, "y": y, "noise": self.random.random(), "where": self.random.choice("abc")}
            found.append(msgspec.json.encode({"id": name, "features": features}))
        return found

    def feed(self, n: int) -> None:
        """Write samples through the transport."""
        self.broker.append([Output(self.topics.samples, line) for line in self.lines(n)])

    def feed_by_send(self, n: int) -> None:
        """Write samples as a user does."""
        file = self.where / f"samples-{self.sent}.jsonl"
        file.write_bytes(b"\n".join(self.lines(n)) + b"\n")
        subprocess.run(
            [sys.executable, "-m", "stream_al", "send", self.topics.samples, str(file), "--config", str(self.config)],
            check=True, capture_output=True, cwd=self.where, timeout=60,
        )  # fmt: skip

    def flow(self, n: int, every_s: float) -> None:
        """Let ``n`` samples come every ``every_s``, until ``dry``."""
        self.flowing.set()
        self.in_thread(lambda broker: self._flow(broker, n, every_s))

    def dry(self) -> None:
        """Let no more samples come."""
        self.flowing.clear()
        self.threads.pop().join(DEADLINE_S)
        assert not self.trouble, self.trouble

    def _flow(self, broker: Any, n: int, every_s: float) -> None:
        while self.flowing.is_set() and not self.stopping.is_set():
            with contextlib.suppress(
                Unavailable
            ):  # they may have come or not; once more would be another sample
                broker.append([Output(self.topics.samples, line) for line in self.lines(n)])
            time.sleep(every_s)

    def in_thread(self, work: Callable[[Any], None]) -> None:
        """Let ``work`` go on beside, with a connection of its own, until the world is closed."""

        def run() -> None:
            try:
                with open_broker(self.settings) as broker:
                    work(broker)
            except BaseException as problem:
                self.trouble.append(problem)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def annotate(self, delay_s: float = 0.3) -> None:
        """Answer every request after about ``delay_s``."""
        self.in_thread(lambda broker: self._annotate(broker, delay_s))

    def _annotate(self, broker: Any, delay_s: float) -> None:
        topic = self.settings.topics.labels_requested
        at: dict[TopicPartition, int] = {}
        due: list[tuple[float, Answer]] = []
        dice = random.Random(self.seed)
        reader, looked = broker.reader(at), 0.0
        while not self.stopping.is_set():
            try:
                if time.monotonic() - looked > 1:
                    looked = time.monotonic()
                    tps = {TopicPartition(topic, p) for p in range(broker.partitions(topic))}
                    reader.seek(dict.fromkeys(tps - set(at), 0))
                    at = dict.fromkeys(tps, 0) | at
                for tp, batch in reader.poll(1000, 0.1).items():
                    at[tp] = batch[-1].offset + 1
                    for record in batch:
                        request = decode_request(record)
                        if isinstance(request, LabelRequest):
                            due.append((time.monotonic() + delay_s, self.answer(request)))
                ready = [a for when, a in due if when <= time.monotonic()]
                if ready:
                    again = [a for a in ready if dice.random() < self.twice]
                    broker.append([Output(self.topics.labels, v) for v in answer_bytes(ready + again)])
                    due = due[len(ready) :]
            except Unavailable:
                reader = broker.reader(at)
                time.sleep(0.2)

    def answer(self, request: LabelRequest) -> Answer:
        return Answer(request.id, self.labels[request.id], request_id=request.request_id)

    # --- looking ---------------------------------------------------------------------------------------------

    def records(self, topic: str) -> list:
        return read_all(self.broker, topic)

    def ledger(self) -> list:
        return [decode_ledger(r) for r in self.records(self.topics.ledger)]

    def requests(self) -> list[LabelRequest]:
        return [
            q
            for q in map(decode_request, self.records(self.topics.labels_requested))
            if isinstance(q, LabelRequest)
        ]

    def learned(self) -> int:
        return sum(isinstance(c, Learned) for c in self.ledger())

    def tallies(self) -> list[dict]:
        found = [msgspec.json.decode(r.value) for r in self.records(self.topics.reports)]
        return [t for t in found if t["kind"] == "tally"]

    def decided(self) -> int:
        return sum(t["to_offset"] - t["from_offset"] for t in self.tallies())

    def letters(self) -> list[tuple[str, int, int]]:
        """Return what each dead letter was: topic, partition, offset."""
        found = []
        for record in self.records(self.topics.dead_letters):
            error = {k.removeprefix("stream_al.error."): v.decode() for k, v in record.headers}
            found.append((error["topic"], int(error["partition"]), int(error["offset"])))
        return found

    def unreadable(self) -> list[tuple[str, int, int]]:
        """Return the samples that nobody can read."""
        samples = self.records(self.topics.samples)
        return [(r.topic, r.partition, r.offset) for r in samples if r.value == BROKEN]

    def surplus(self) -> int:
        """Return how many answers were delivered once more."""
        return len(self.records(self.topics.labels)) - len(self.requests())

    def quiet(self) -> bool:
        """Whether every sample is decided, every request closed and every surplus answer rejected."""
        if self.decided() < sum(r for r in self.broker.ends(self.topics.samples).values()):
            return False
        if len(self.requests()) < sum(t["sums"]["requests"] for t in self.tallies()):
            return False  # some are behind an open transaction
        closed = {c.request_id for c in self.ledger() if c is not None and hasattr(c, "request_id")}
        if not closed >= {q.request_id for q in self.requests()}:
            return False
        return len(self.letters()) >= self.surplus() + len(self.unreadable())

    def wait_until_quiet(self, seconds: float = DEADLINE_S) -> None:
        self.until(self.quiet, seconds)
        assert not self.trouble, self.trouble

    def metrics(self, name: str) -> dict[str, float]:
        """Return the samples of /metrics by name and labels."""
        from prometheus_client.parser import text_string_to_metric_families

        text = urllib.request.urlopen(self.url(name) + "/metrics", timeout=5).read().decode()
        return {
            s.name + "".join(f"|{v}" for _, v in sorted(s.labels.items())): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }


# --- what must hold, seen from the topics --------------------------------------------------------------------------


def check_decided_once(world: World) -> None:
    """Tallies tile each partition without gap or overlap."""
    ranges = defaultdict(list)
    for t in world.tallies():
        ranges[t["partition"]].append((t["from_offset"], t["to_offset"]))
    for partition, end in world.broker.ends(world.topics.samples).items():
        tiles = sorted(ranges[partition])
        if not end:
            continue
        assert tiles[0][0] == 0, (partition, tiles[:3])
        assert tiles[-1][1] == end, (partition, tiles[-3:], end)
        gaps = [(a, b) for a, b in itertools.pairwise(tiles) if a[1] != b[0]]
        assert not gaps, (partition, gaps)


def check_requests(world: World) -> None:
    """Each request was made once, and its decision follows from its own record."""
    requests = world.requests()
    assert len({q.request_id for q in requests}) == len(requests)
    for q in requests:
        s = q.source
        assert q.query.coin == coin(world.settings.seed, world.topics.samples, s.partition, s.offset)
        assert q.query.coin < q.query.inclusion_probability <= 1
    assert sum(t["sums"]["requests"] for t in world.tallies()) == len(requests)


def check_budget(world: World) -> None:
    """For every prefix of every partition: requests <= B·n + tokens granted to it; all grants within the allowance."""
    budget = wanted_budget(world.settings)
    granted = Counter()
    for g in world.ledger():
        if isinstance(g, Grant):
            granted[g.partition] += g.tokens
    offsets = defaultdict(list)
    for q in world.requests():
        offsets[q.source.partition].append(q.source.offset)
    for partition, found in offsets.items():
        for i, offset in enumerate(sorted(found), start=1):
            assert i <= budget.fraction * (offset + 1) + granted[partition], (partition, i, offset)
    n, asked = sum(world.broker.ends(world.topics.samples).values()), sum(map(len, offsets.values()))
    assert asked <= budget.fraction * n + budget.allowance
    assert asked >= budget.fraction * n * 0.9 - budget.allowance


def check_learned_once(world: World) -> None:
    """Each request was closed once, with the annotator's label, and learned."""
    closed = [c for c in world.ledger() if isinstance(c, Learned)]
    assert len({c.request_id for c in closed}) == len(closed)
    assert {c.request_id for c in closed} == {q.request_id for q in world.requests()}
    assert all(c.label == world.labels[c.id] and c.learn for c in closed)


def check_ledger(world: World) -> Fold:
    """Nothing in the ledger is unreadable or double; buckets tile what tallies told. Return its fold."""
    fold, records = Fold(), world.records(world.topics.ledger)
    for r in records:
        fold.apply(r.offset, decode_ledger(r))
    assert not fold.errors, fold.errors
    decoded = [decode_ledger(r) for r in records]
    ends: dict[int, int] = {}
    buckets = [b for b in decoded if isinstance(b, Bucket)]
    assert [b.number for b in buckets] == list(range(len(buckets)))
    for b in buckets:
        for p, (start, end) in b.ranges.items():
            assert start == ends.get(p, 0), (p, start, ends)
            ends[p] = end
    grants = [g.number for g in decoded if isinstance(g, Grant)]
    assert grants == list(range(1, len(grants) + 1))
    observed = [o.source for o in decoded if isinstance(o, Observe)]
    assert len({(s.partition, s.offset) for s in observed}) == len(observed)
    return fold


def check_letters(world: World) -> None:
    """What could not be used is a dead letter once: unreadable samples, and answers to what was closed."""
    letters = world.letters()
    assert len(set(letters)) == len(letters), [n for n in Counter(letters).items() if n[1] > 1][:5]
    samples = [found for found in letters if found[0] == world.topics.samples]
    assert sorted(samples) == sorted(world.unreadable())
    assert len(letters) - len(samples) == world.surplus()
    assert {found[0] for found in letters} <= {world.topics.samples, world.topics.labels}


def check_snapshots(world: World, name: str, fold: Fold) -> None:
    """A process that ended left a fold that says the same as a fresh one of the whole ledger."""
    from stream_al.service.snapshot import Snapshots

    snapshot = Snapshots(world.states / name).load(fold.genesis, fold.position)
    assert snapshot is not None, f"{name} left no snapshot"
    found = snapshot.fold
    while_away = [r for r in world.records(world.topics.ledger) if r.offset >= found.position]
    for r in while_away:
        found.apply(r.offset, decode_ledger(r))
    batch = [{"x": x / 4, "y": -x / 7, "noise": 0.5, "where": "b"} for x in range(-8, 9)]
    np.testing.assert_allclose(found.model.predict(batch), fold.model.predict(batch), atol=1e-9)
    assert found.version == fold.version
    assert found.accuracy.window(None) == fold.accuracy.window(None)


CHECKS = (check_decided_once, check_requests, check_budget, check_learned_once, check_letters, check_ledger)


def check_all(world: World) -> Fold:
    for check in CHECKS[:-1]:
        check(world)
    return check_ledger(world)


def broken_promises(world: World) -> set[str]:
    """Return the names of the checks that fail."""
    found = set()
    for check in CHECKS:
        try:
            check(world)
        except AssertionError:
            found.add(check.__name__)
    return found
