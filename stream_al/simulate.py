"""The real service in virtual time: a labelled stream, simulated annotators that answer late, and the truth beside.

At most 64 samples, or a second's worth, are fed to the embedded log a turn; then scorer, annotator and learner
have their turns, and the clock moves by the time the samples would have taken.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_al.codec import answer_bytes, decode_request
from stream_al.config import Settings
from stream_al.core.accuracy import Estimate
from stream_al.core.budget import Decisions
from stream_al.core.fold import Fold, Scores
from stream_al.core.labels import Value, is_number, same
from stream_al.core.messages import Answer, Features, LabelRequest, Sample
from stream_al.core.regression import UNKNOWN, Errors
from stream_al.service.desk import DeskRoom, DeskTask
from stream_al.service.learning import AT_ONCE
from stream_al.service.loop import Service, topic_specs
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Broker, Closeable, Output, Reader, TopicPartition

BLOCK = 64
SAMPLES_PER_S = 100
START_MS = 1_767_225_600_000  # 2026-01-01: virtual time has to begin somewhere
MOST_DRAIN_TURNS = 10_000
IDLE_TURNS = 3  # what one turn wrote is read in the next


class VirtualClock:
    """A clock that moves when it is told to."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self.ms = start_ms

    def __call__(self) -> int:
        return self.ms

    def seconds(self) -> float:
        """Return the time in seconds, as brokers want it."""
        return self.ms / 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a simulation stands after a turn; all counts since its beginning.

    In regression, ``errors`` is the estimate, and ``true_mae`` and ``true_rmse`` are over all samples that had a
    prediction, 0 without any.
    """

    samples: int
    requests: int
    labels: int
    true: float
    estimate: Estimate
    window: Estimate
    allowed: float
    version: int
    warming: bool
    errors: Errors = UNKNOWN
    true_mae: float = 0.0
    true_rmse: float = 0.0


@dataclass(frozen=True, slots=True)
class Oracle:
    """How the simulated people answer.

    Every request goes to all ``annotators``; the majority of those who answer decides, the first of them where it is a
    tie, and the answer is there when the last of them has answered. What they do follows from the seed and the
    request, whatever else happens.

    Parameters
    ----------
    delay
        How many samples later an annotator answers: exactly, or on average where the distribution is exponential.
    noise
        Share of an annotator's answers that name another of the ``classes``, each as often; in [0, 1).
    silence
        Share of the requests that an annotator never answers, in [0, 1).
    classes
        All there are; only wrong answers need them.
    """

    delay: int = 0
    distribution: Literal["constant", "exponential"] = "constant"
    noise: float = 0.0
    silence: float = 0.0
    annotators: int = 1
    classes: tuple[Value, ...] = ()

    def answer(self, key: str, truth: Value) -> tuple[int, Value, int] | None:
        """Return after how many samples the answer comes, the answer, and how many people gave one; None: never.

        ``key``, the seed and the request, decides everything that is drawn.

        >>> Oracle(delay=30).answer("1 0-7", "fraud")
        (30, 'fraud', 1)
        """
        draw = random.Random(key)  # noqa: S311  simulated people are no secret
        given = [
            (self._wait(draw), self._said(draw, truth))
            for _ in range(self.annotators)
            if draw.random() >= self.silence
        ]
        if not given:
            return None
        votes = Counter((type(label), label) for _, label in given)  # the first of equals comes first
        return max(wait for wait, _ in given), votes.most_common(1)[0][0][1], len(given)

    def _wait(self, draw: random.Random) -> int:
        if self.distribution == "constant" or not self.delay:
            return self.delay
        return round(draw.expovariate(1 / self.delay))

    def _said(self, draw: random.Random, truth: Value) -> Value:
        if draw.random() >= self.noise:
            return truth
        others = [label for label in self.classes if not same(label, truth)]
        return draw.choice(others) if others else truth


@dataclass(slots=True)
class Annotator:
    """The simulated people at work.

    Attributes
    ----------
    answered, silent
        Requests that were answered, and that never will be.
    given
        Answers that people gave; more than one a request where there are more people.
    """

    broker: Broker
    settings: Settings
    truth: dict[str, Value]
    oracle: Oracle
    due: list[tuple[int, LabelRequest, Value]] = field(default_factory=list)
    answered: int = 0
    silent: int = 0
    given: int = 0
    _reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        topic = self.settings.topics.labels_requested
        partitions = self.broker.partitions(topic)
        self._reader = self.broker.reader({TopicPartition(topic, p): 0 for p in range(partitions)})

    def turn(self, seen: int) -> None:
        """Read new requests, answer those whose time has come at the ``seen``-th sample."""
        for batch in self._reader.poll(AT_ONCE, 0.0).values():
            for record in batch:
                request = decode_request(record)
                if isinstance(request, LabelRequest):
                    self._take(seen, request)
        ready = [(r, label) for at, r, label in self.due if at <= seen]
        self.due = [one for one in self.due if one[0] > seen]
        if ready:
            answers = [Answer(r.id, v, request_id=r.request_id, annotator="simulated") for r, v in ready]
            topic = self.settings.topics.labels
            self.broker.append(
                [
                    Output(topic, v, key=a.id.encode())
                    for v, a in zip(answer_bytes(answers), answers, strict=True)
                ]
            )
            self.answered += len(answers)

    def _take(self, seen: int, request: LabelRequest) -> None:
        key = f"{self.settings.seed} {request.request_id}"
        answer = self.oracle.answer(key, self.truth[request.id])
        if answer is None:
            self.silent += 1
            return
        wait, label, given = answer
        self.given += given
        self.due.append((seen + wait, request, label))


class Simulation(Closeable):
    """One run of the real machines over a finite labelled stream.

    Parameters
    ----------
    settings
        As for the service; ``broker.url`` is not used.
    stream
        Features and label of each sample, in order.
    delay
        How many samples later a request is answered; ``oracle`` says more.
    path
        File of the embedded log, or ``:memory:``.
    samples_per_s
        How fast virtual time goes by.
    route
        The partition of the n-th sample; None: one after the other.
    oracle
        How the people answer; None: always, rightly, after ``delay``.
    """

    def __init__(
        self,
        settings: Settings,
        stream: Iterable[tuple[Features, Value]],
        *,
        delay: int = 0,
        path: str = ":memory:",
        samples_per_s: float = SAMPLES_PER_S,
        route: Callable[[int], int | None] = lambda _: None,
        oracle: Oracle | None = None,
    ) -> None:
        self.settings, self.stream = settings, iter(stream)
        self.samples_per_s, self.route = samples_per_s, route
        self.block = max(1, min(BLOCK, int(samples_per_s)))
        self.clock = VirtualClock()
        self.broker = EmbeddedBroker(path, clock=self.clock.seconds)
        self.broker.ensure(topic_specs(settings), create=True)
        self.service = Service(self.broker, settings, "all", clock=self.clock, slot="simulation")
        self.truth: dict[str, Value] = {}
        self.annotator = Annotator(self.broker, settings, self.truth, oracle or Oracle(delay))
        self.samples = self.right = self.predicted = 0
        self.off = self.off_squared = 0.0
        self._encode = msgspec.json.Encoder().encode
        scorer = self.service.scorer
        assert scorer is not None
        scorer.machine.watch = self._watch
        self._settle()

    @property
    def fold(self) -> Fold:
        return self.service.follower.fold

    def _watch(self, samples: Sequence[Sample], scores: Scores, _: Decisions) -> None:
        """Count what the model would have got right, or by how much it would have missed, had all labels been known."""
        if scores.values is not None:
            self._miss(samples, scores.values)
            return
        if not scores.probabilities.shape[1]:
            return
        classes = self.fold.classes
        said = scores.probabilities.argmax(axis=1).tolist()
        for sample, k, confidence in zip(samples, said, scores.confidence.tolist(), strict=True):
            if confidence > 0:
                self.right += same(classes[k], self.truth[sample.id])

    def _miss(self, samples: Sequence[Sample], values: NDArray[np.float64]) -> None:
        for sample, value in zip(samples, values.tolist(), strict=True):
            label = self.truth[sample.id]
            if is_number(label) and math.isfinite(value):
                self.predicted += 1
                self.off += abs(value - label)
                self.off_squared += (value - label) ** 2

    def _settle(self) -> None:
        """Found the ledger, deal the first grants, join the groups."""
        for _ in range(5):
            self.service.turn()

    def _feed(self) -> int:
        batch = list(itertools.islice(self.stream, self.block))
        outputs = []
        for features, label in batch:
            name = f"s-{self.samples}"
            self.truth[name] = label
            value = self._encode({"id": name, "features": features})
            outputs.append(Output(self.settings.topics.samples, value, partition=self.route(self.samples)))
            self.samples += 1
        if outputs:
            self.broker.append(outputs)
            self.clock.ms += round(len(outputs) * 1000 / self.samples_per_s)
        return len(outputs)

    def run(self) -> Iterator[Progress]:
        """Feed the stream, yielding after every turn; at the end drain labels and close the last bucket."""
        while self._feed():
            self.service.turn()
            self.annotator.turn(self.samples)
            yield self.progress()
        self._drain()
        yield self.progress()

    def _drain(self) -> None:
        assert self.service.scorer is not None
        assert self.service.learner is not None
        seen, idle = self.samples, 0
        for _ in range(MOST_DRAIN_TURNS):
            self.clock.ms += round(self.block * 1000 / self.samples_per_s)
            seen += self.block
            handled = self.service.turn()
            self.service.scorer.drain()
            self.annotator.turn(seen)
            machine = self.service.learner.machine
            busy = (
                handled
                or self.annotator.due
                or machine is None
                or len(machine.pending) > self.annotator.silent
            )
            idle = 0 if busy else idle + 1
            if idle >= IDLE_TURNS:
                break
        self.service.learner.flush()

    def open_desk(self, room: DeskRoom, stream: Iterable[tuple[Features, Value]]) -> None:
        """Let people answer from now on, instead of the simulated annotators; ``stream`` goes on where it ended."""
        self.stream, room.clock = iter(stream), self.clock
        self.service.desk = DeskTask(self.broker, self.settings, self.service.follower, self.clock, room)

    def live(self, elapsed_ms: int, *, feed: bool) -> None:
        """Let real time pass for one turn, with more samples or without."""
        self.clock.ms += elapsed_ms
        if feed:
            self._feed()
        self.service.turn()

    def progress(self) -> Progress:
        """Return where the simulation stands."""
        fold, budget = self.fold, self.fold.budget
        scorer = self.service.scorer
        assert scorer is not None
        requests = scorer.machine.outcomes["requested"]
        return Progress(
            samples=self.samples,
            requests=requests,
            labels=fold.outcomes["learned"],
            true=self.right / max(1, self.samples),
            estimate=fold.accuracy.window(None),
            window=fold.accuracy.window(self.settings.accuracy.windows[0]),
            allowed=(budget.fraction or 0.0) * self.samples + budget.allowance,
            version=fold.version,
            warming=fold.warming,
            errors=fold.accuracy.errors(None),
            true_mae=self.off / max(1, self.predicted),
            true_rmse=math.sqrt(self.off_squared / max(1, self.predicted)),
        )

    def close(self) -> None:
        self.service.close()
        self.broker.close()
