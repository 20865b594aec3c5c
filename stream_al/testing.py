"""Test feeds, annotators and settings against the real service: no broker, no network, a clock that you move.

What runs is the production code of scorer and learner, from bytes to bytes, on a log in memory. What is *not* there: a
broker and its faults, other processes, the desk and its pages, and real time - whatever a test does happens in no time,
in the order in which it does it, and the same test does the same again.

The service logs as it always does, with structlog; ``structlog.testing.capture_logs`` keeps that for a test to look at.

>>> from structlog.testing import capture_logs
>>> from stream_al.testing import Driver
>>> bayes = "model.spec=[river.naive_bayes.GaussianNB]"
>>> with capture_logs() as logs, Driver("budget.fraction=0.5", bayes) as driver:
...     for i in range(200):
...         driver.send({"id": f"s-{i}", "features": {"x": i % 10}})
...         for request in driver.open:
...             driver.label(request, "high" if request.features["x"] > 4 else "low")
...     driver.advance(60)
...     driver.metric("stream_al_labels_total", "learned") == len(driver.requests) > 50
...     driver.predict({"x": 9}).label
True
'high'
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_al.codec import answer_bytes, decode_ledger, decode_request
from stream_al.config import Settings, load
from stream_al.core.fold import Fold
from stream_al.core.labels import Value
from stream_al.core.messages import Answer, Features, LabelRequest, LedgerRecord, Shown
from stream_al.metrics import METRICS
from stream_al.scan import scan
from stream_al.service.figures import Figures, Histogram
from stream_al.service.loop import Service, topic_specs
from stream_al.simulate import IDLE_TURNS, VirtualClock
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Closeable, Output, Record

__all__ = ["DeadLetter", "Driver"]

STEP_S = 5.0  # a grant lives 30 s: whoever leaps over it would find it gone
BENEATH = ("state_dir=null", "samples.start=earliest", "broker.partitions=1")
ERROR = "stream_al.error."


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be used, as it came, and why."""

    reason: str
    message: str
    topic: str
    value: bytes | None


class Driver(Closeable):
    """Scorer and learner on a log in memory.

    Whatever is sent is worked off at once: after each call the service has nothing left to do at that moment of its
    clock. Things that take time - buckets of samples, caps by the hour, requests that expire - happen in ``advance``.

    Parameters
    ----------
    overrides
        Settings as after ``--set``; the broker's address does not matter. Samples are read from the first on, there is
        one partition and no state directory, unless they say otherwise.
    config
        A file of settings. The environment is not read.
    start_ms
        What the clock shows at first, in milliseconds since the epoch; None: the beginning of 2026.

    Raises
    ------
    ConfigError
        The settings are wrong.
    """

    def __init__(
        self, *overrides: str, config: Path | str | None = None, start_ms: int | None = None
    ) -> None:
        written = [*BENEATH, *overrides] if config is None else [*_beneath(config), *overrides]
        self.settings: Settings = load(None if config is None else Path(config), written, environ={})
        self.clock = VirtualClock() if start_ms is None else VirtualClock(start_ms)
        self._broker = EmbeddedBroker(":memory:", clock=self.clock.seconds)
        self._broker.ensure(topic_specs(self.settings), create=True)
        self._service = self._started()
        self._settle()

    # --- what goes in ----------------------------------------------------------------------------------------

    def send(self, *samples: Mapping[str, Any] | bytes, partition: int | None = None) -> None:
        """Write samples, as JSON objects or as bytes, which may be anything."""
        self.write(self.settings.topics.samples, *samples, partition=partition)

    def label(self, asked: LabelRequest | str, label: Value, annotator: str | None = None) -> None:
        """Answer a request, or whatever is open of a sample's id."""
        self._answer(asked, label=label, annotator=annotator)

    def skip(self, asked: LabelRequest | str, annotator: str | None = None) -> None:
        """Decline to answer."""
        self._answer(asked, skip=True, annotator=annotator)

    def write(
        self, topic: str, *values: Mapping[str, Any] | bytes | None, partition: int | None = None
    ) -> None:
        """Write records to any topic, and let the service work them off; None is a tombstone."""
        outputs = [Output(topic, _encoded(value), partition=partition) for value in values]
        self._broker.append(outputs)
        self._settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps of at most five seconds, as it does for a service that runs."""
        left_ms = round(seconds * 1000)
        while left_ms > 0:
            step = min(left_ms, round(STEP_S * 1000))
            self.clock.ms += step
            left_ms -= step
            self._settle()

    def restart(self) -> None:
        """End the service and start it anew: what it knows then comes from its topics alone."""
        self._service.close()
        self._service = self._started()
        self._settle()

    # --- what comes out --------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[LabelRequest]:
        """All requests so far."""
        found = map(decode_request, self.records(self.settings.topics.labels_requested))
        return [request for request in found if isinstance(request, LabelRequest)]

    @property
    def open(self) -> list[LabelRequest]:
        """The requests that wait for an answer, the oldest first."""
        learner = self._service.learner
        assert learner is not None
        return [] if learner.machine is None else list(learner.machine.pending.values())

    @property
    def ledger(self) -> list[LedgerRecord]:
        """All records of the ledger."""
        found = map(decode_ledger, self.records(self.settings.topics.ledger))
        return [record for record in found if record is not None]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """All records that could not be used."""
        return [_letter(record) for record in self.records(self.settings.topics.dead_letters)]

    def records(self, topic: str) -> Iterator[Record]:
        """Yield all records of a topic, as bytes."""
        return scan(self._broker, topic)

    @property
    def fold(self) -> Fold:
        """The state that the ledger makes: the model, estimates, alarms. To be read, not changed."""
        return self._service.follower.fold

    def predict(self, features: Features) -> Shown:
        """Return what the model says of a sample now; nothing is recorded."""
        return self.fold.shown(self.fold.score([features]), 0)

    def metric(self, name: str, *labels: str) -> float:
        """Return a metric by its name and the values of its labels in the order of docs/metrics.md.

        Of a histogram it is the number of observations.

        Raises
        ------
        KeyError
            There is none of these labels now.
        """
        return self.metrics[(name, *labels)]

    @property
    def metrics(self) -> dict[tuple[str, ...], float]:
        """All metrics as a scrape would find them now, by name and values of labels."""
        figures = Figures.of(self._service)
        return {
            (entry.name, *labels): float(sum(value.counts)) if isinstance(value, Histogram) else float(value)
            for entry in METRICS
            for labels, value in entry.read(figures)
            if entry.type != "info"
        }

    # --- within ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the service and forget the log."""
        self._service.close()
        self._broker.close()

    def _started(self) -> Service:
        return Service(self._broker, self.settings, "all", clock=self.clock, slot="driver")

    def _answer(self, asked: LabelRequest | str, **said: Any) -> None:
        name, request_id = (asked, None) if isinstance(asked, str) else (asked.id, asked.request_id)
        [value] = answer_bytes([Answer(name, request_id=request_id, **said)])
        self.write(self.settings.topics.labels, value)

    def _settle(self) -> None:
        """Let the service work until it has nothing to do: what one turn writes is read in the next."""
        scorer, idle = self._service.scorer, 0
        assert scorer is not None
        while idle < IDLE_TURNS:
            handled = self._service.turn()
            scorer.drain()
            idle = 0 if handled else idle + 1


def _beneath(config: Path | str) -> list[str]:
    """Return what stands beneath a file: only what it does not say itself."""
    written = load(Path(config), environ={}).written
    return [assignment for assignment in BENEATH if assignment.partition("=")[0] not in written]


def _encoded(value: Mapping[str, Any] | bytes | None) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else json.dumps(value).encode()


def _letter(record: Record) -> DeadLetter:
    said = {k.removeprefix(ERROR): (v or b"").decode("utf-8", "replace") for k, v in record.headers}
    return DeadLetter(said.get("reason", ""), said.get("message", ""), said.get("topic", ""), record.value)
