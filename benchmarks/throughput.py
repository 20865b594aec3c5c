"""How fast is a scorer? CPU time a sample, against the ordinary loop on the same log.

One process, one core: both sides read the same records in turn, round by round, and the medians are compared. What
is compared is CPU time, so that a busy machine does less harm; ratios are what counts, not microseconds. Samples have
30 numeric features of full precision; 5 % of them are asked; the models have learned the same labels.

Each side has the settings it would really run with: the service its own garbage collection, the ordinary loop Python's.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import ordinary
from _harness import ROOT, Bars, parse, parser, table
from ordinary import FEATURES, generated, written

from stream_al import logs
from stream_al.config import DEFAULT_SPEC, Settings, load
from stream_al.core.model_spec import build
from stream_al.service.loop import Service, calm_collector, open_broker
from stream_al.simulate import Annotator, Oracle
from stream_al.transport.port import Broker, Output, TopicPartition
from stream_al.whatif.scenarios import TEXT

WARM, WARM_TURN = 3_000, 100  # samples that are labelled as they are asked for, before anything is measured
ROUND, ROUNDS = 20_000, 7
QUICK_ROUND, QUICK_ROUNDS = 16_000, 3
SETTLED = 5_000  # samples before a measurement on Kafka begins
MODELS: dict[str, list[Any]] = {
    "logistic": ["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegression"],
    "bayesian": ["stream_al.models.BayesianClassifier"],  # on random Fourier features
    "mixture": DEFAULT_SPEC,
}
LABELS_PER_S = {"logistic": 8_000, "bayesian": 4_000, "mixture": 1_000}
LABELS, QUICK_LABELS = 5_000, 1_000
SLACK = 0.8  # of a bar, in a quick run


def settings_of(url: str, spec: Sequence[Any], *more: str) -> Settings:
    """Return the service's settings; what is not said is as delivered."""
    own = [
        f"broker.url={url}",
        "broker.partitions=1",
        "budget.fraction=0.05",
        "samples.start=earliest",
        "state_dir=null",
        "http.port=null",
        f"model.spec={json.dumps(spec)}",
        "model.classes=[false,true]",
        *more,
    ]
    return load(None, own, environ={})


Labelled = tuple[dict[str, Any], bool]
Make = Callable[[int, int], Iterator[Labelled]]  # of how many, and a seed


def numbers(features: int) -> Make:
    """Return what makes samples of so many numeric features."""
    return lambda n, seed: generated(n, features, seed)


usual = numbers(FEATURES)


def texts(n: int, seed: int) -> Iterator[Labelled]:
    """Yield texts of 20 words, as common as words are (Zipf); the label is which of two kinds are more."""
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(5_000)]
    shares = list(itertools.accumulate(1 / (i + 1) for i in range(len(words))))
    for _ in range(n):
        found = rng.choices(range(len(words)), cum_weights=shares, k=20)
        yield {"text": " ".join(words[i] for i in found)}, sum(i % 2 for i in found) > 10


@dataclass
class Stage:
    """A broker with a stream on it, and a service that has learned from its beginning."""

    settings: Settings
    broker: Broker
    make: Make = usual
    wait_s: float = 0.0  # for a broker that takes its time
    number: int = 0
    labels: list[Labelled] = field(default_factory=list)

    def feed(self, n: int) -> list[Labelled]:
        """Write the next samples."""
        made = list(self.make(n, self.number + 1))
        outputs = [
            Output(self.settings.topics.samples, written(self.number + i, x)) for i, (x, _) in enumerate(made)
        ]
        self.broker.append(outputs)
        self.number += n
        return made

    def warm(self) -> None:
        """Let the whole service learn from the first samples."""
        truth: dict[str, bool] = {}
        annotator = Annotator(self.broker, self.settings, truth, Oracle())
        with Service(self.broker, self.settings, "all", slot="warm") as service:
            assert service.scorer is not None
            idle = 0
            while idle < 20:
                if len(truth) < WARM:  # a little at a time: so that enough is observed
                    first, made = self.number, self.feed(WARM_TURN)
                    truth |= {f"s-{first + i}": label for i, (_, label) in enumerate(made)}
                    self.labels += made
                done = service.turn(self.wait_s)
                service.scorer.drain()
                annotator.turn(0)
                idle = 0 if done else idle + 1
            assert not service.follower.fold.warming
            self.labels = self.labels[: service.follower.fold.learned]


class Side:
    """One of what is compared: takes n samples and returns the seconds of CPU that took."""

    def __init__(self, name: str, take: Callable[[int], object], *, calm: bool) -> None:
        self.name, self.take, self.calm = name, take, calm
        self.us: list[float] = []

    def run(self, n: int) -> None:
        """Take n samples."""
        gc.collect()
        usual = gc.get_threshold()
        if self.calm:
            calm_collector()
        started = time.process_time()
        self.take(n)
        took = time.process_time() - started
        gc.set_threshold(*usual)
        gc.unfreeze()
        self.us.append(1e6 * took / n)

    @property
    def median(self) -> float:
        """Microseconds a sample."""
        return median(self.us)


def scorer_side(name: str, stage: Stage) -> tuple[Side, Service]:
    """Return a scorer process that has joined, ready to be measured."""
    service = Service(stage.broker, stage.settings, "scorer", slot="measured")
    scorer = service.scorer
    assert scorer is not None
    while not scorer.ready or not scorer.machine.partitions:
        service.turn(stage.wait_s)

    def take(n: int) -> None:
        done = 0
        while done < n:
            done += service.turn(stage.wait_s)
        scorer.drain()

    return Side(name, take, calm=True), service


def ordinary_side(stage: Stage, model: Any = None) -> tuple[Side, ordinary.OnLog]:
    """Return the ordinary loop on the same log; its model has learned the same, and it has read what the service had."""
    topics = stage.settings.topics
    edge = ordinary.OnLog(stage.broker, topics.samples, topics.dead_letters, "ordinary")
    model = ordinary.learned(stage.labels, model)
    ordinary.loop(edge.poll, edge.send, model, WARM)
    return Side("ordinary loop", lambda n: ordinary.loop(edge.poll, edge.send, model, n), calm=False), edge


def poll_side(name: str, stage: Stage) -> tuple[Side, Any]:
    """Return the transport's poll of the same records, and nothing else."""
    samples = stage.settings.topics.samples
    reader = stage.broker.reader({TopicPartition(samples, 0): WARM})

    def take(n: int) -> None:
        done = 0
        while done < n:
            done += sum(map(len, reader.poll(2_000, 1.0).values()))

    return Side(name, take, calm=True), reader


def compare(stages: Sequence[Stage], sides: Sequence[Side], rounds: int, n: int) -> None:
    """Let every side take each round's samples, in turn; the first round only warms up."""
    for i in range(rounds + 1):
        for stage in stages:
            stage.feed(n)
        for side in sides if i % 2 else sides[::-1]:
            side.run(n)
    for side in sides:
        del side.us[0]


def embedded(rounds: int, n: int, bars: Bars, slack: float) -> None:
    """Compare scorers on the embedded log with the ordinary loop there."""
    with tempfile.TemporaryDirectory() as directory:
        stages: dict[str, Stage] = {}
        for name, spec in MODELS.items():
            settings = settings_of(f"embedded://{directory}/{name}.db", spec)
            stages[name] = Stage(settings, open_broker(settings))
            stages[name].warm()
        first = stages["logistic"]
        plain, _ = ordinary_side(first)
        poll, reader = poll_side("bare poll", first)
        scorers = [scorer_side(f"scorer, {name}", stage) for name, stage in stages.items()]
        sides = [plain, poll, *(side for side, _ in scorers)]
        compare(list(stages.values()), sides, rounds, n)
        show("Embedded log: CPU time a sample", sides, plain)
        by = {name: plain.median / side.median for name, (side, _) in zip(stages, scorers, strict=True)}
        bars.add("embedded: ordinary loop / scorer, LogisticRegression", by["logistic"], low=3.5 * slack)
        best = max(by["bayesian"], by["mixture"])
        bars.add("embedded: ordinary loop / scorer, random Fourier features", best, low=2.0 * slack)
        for _, service in scorers:
            service.close()
        reader.close()
        for stage in stages.values():
            stage.broker.close()


WIDTHS = (10, 30, 100, 1_000)  # features


def widths(rounds: int, n: int) -> None:
    """Say how a scorer and the ordinary loop fare with few features, many, and text."""
    cases: list[tuple[str, Make, list[Any], int]] = [
        (
            f"{width:,} features",
            numbers(width),
            MODELS["logistic"],
            max(1_000, n * FEATURES // max(FEATURES, width)),
        )
        for width in WIDTHS
    ]
    cases.append(("a text of 20 words", texts, TEXT, n // 4))
    rows = []
    for name, make, spec, size in cases:
        with tempfile.TemporaryDirectory() as directory:
            settings = settings_of(f"embedded://{directory}/log.db", spec)
            with open_broker(settings) as broker:
                stage = Stage(settings, broker, make)
                stage.warm()
                plain, edge = ordinary_side(stage, build(spec, seed=1))
                side, service = scorer_side(name, stage)
                compare([stage], [plain, side], rounds, size)
                service.close()
                edge.close()
        ratio = plain.median / side.median
        rows.append((name, f"{1e6 / side.median:,.0f}", f"{1e6 / plain.median:,.0f}", f"{ratio:.2f}"))
    table("Samples/s of CPU on the embedded log", ("", "scorer", "ordinary loop", "ratio"), rows)


# The learner


def learners(rounds: int, n: int, bars: Bars, slack: float) -> None:
    """Say how many labels a second the learner takes in, from requests and answers to the ledger."""
    rates: dict[str, list[float]] = {name: [] for name in MODELS}
    for _ in range(rounds):
        for name, spec in MODELS.items():
            rates[name].append(_labels_per_s(spec, n))
    rows = [(name, f"{median(r):,.0f}", f"{min(r):,.0f}", f"{max(r):,.0f}") for name, r in rates.items()]
    table("Learner on the embedded log: labels a second of CPU", ("", "labels/s", "lowest", "highest"), rows)
    for name, low in LABELS_PER_S.items():
        bars.add(f"labels/s, {name}", median(rates[name]), low=low * slack)


def _labels_per_s(spec: Sequence[Any], n: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        settings = settings_of(f"embedded://{directory}/log.db", spec, "budget.fraction=1")
        with open_broker(settings) as broker:
            stage = Stage(settings, broker)
            with Service(broker, settings, "all", slot="first") as service:
                for _ in range(5):  # found the ledger, deal what is dealt once
                    service.turn(0.0)
            made = stage.feed(n)
            side, service = scorer_side("scorer", stage)
            side.run(n)
            service.close()
            annotator = Annotator(broker, settings, {f"s-{i}": y for i, (_, y) in enumerate(made)}, Oracle())
            while not annotator.answered or annotator.answered < service.scorer.machine.outcomes["requested"]:
                annotator.turn(n)
            with Service(broker, settings, "learner") as service:

                def take(_: int) -> None:
                    while service.follower.fold.learned < annotator.answered:
                        service.turn(0.0)

                learner = Side("learner", take, calm=True)
                learner.run(annotator.answered)
    return 1e6 / learner.us[0]


# Apache Kafka: a process of its own for each measurement, because clients fetch in the background


def kafka(url: str, rounds: int, n: int, bars: Bars, slack: float, quix: str | None = None) -> None:
    """Compare scorer, ordinary loop, bare poll, and Quix Streams where there is a Python for it, on Apache Kafka."""
    settings = settings_of(url, MODELS["logistic"])
    with open_broker(settings) as broker:
        stage = Stage(settings, broker, wait_s=0.05)
        stage.warm()
        for _ in range(0, 2 * SETTLED + n, 5_000):  # more than are measured: whole polls are taken
            stage.feed(5_000)
    sides = [Side(name, lambda _: None, calm=True) for name in (*KAFKA, *([QUIX] if quix else []))]
    for i in range(rounds):
        for side in sides if i % 2 else sides[::-1]:
            group = f"round-{i}-{sides.index(side)}"
            if side.name == QUIX:
                side.us.append(with_quix(str(quix), url, group, n))
                continue
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                side.us.append(pool.submit(measured, side.name, url, group, n).result())
    plain, poll, scorer, confluent, *others = sides
    show("Apache Kafka: CPU time a sample", sides, plain)
    bars.add("Kafka: ordinary loop / scorer", plain.median / scorer.median, low=2.2 * slack)
    bars.add("Kafka: ordinary loop / scorer with confluent", plain.median / confluent.median, low=5.5 * slack)
    bars.add("Kafka: scorer / bare poll", scorer.median / poll.median, high=2.1 / slack)
    for other in others:
        # both read by librdkafka
        bars.add(
            f"Kafka: {other.name} / scorer with confluent", other.median / confluent.median, low=3 * slack
        )


def with_quix(python: str, url: str, group: str, n: int) -> float:
    """Return the microseconds of CPU a sample that Quix Streams takes."""
    labels = "".join(json.dumps(one) + "\n" for one in generated(WARM // 20, FEATURES))
    servers, samples = url.removeprefix("kafka://"), settings_of(url, MODELS["logistic"]).topics.samples
    with tempfile.TemporaryDirectory() as directory:  # it keeps its state where it is started
        done = subprocess.run(
            [python, str(ROOT / "benchmarks/quix.py"), servers, samples, group, str(WARM + SETTLED), str(n)],
            cwd=directory,
            input=labels,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
    return float(done.stdout.split()[-1])


def measured(name: str, url: str, group: str, n: int) -> float:
    """Return the microseconds of CPU a sample that one of ``KAFKA`` takes; a process of its own."""
    logs.configure("error")
    # reports of its own: what another scorer has tallied would be passed over
    settings = settings_of(url, MODELS["logistic"], f"group={group}", f"topics.reports={group}-reports")
    with contextlib.ExitStack() as stack:
        side = KAFKA[name](settings, stack)
        side.take(
            WARM + SETTLED if not name.startswith("scorer") else SETTLED
        )  # the scorer knows what was decided
        side.run(n)
    return side.us[0]


def _ordinary_on_kafka(settings: Settings, stack: contextlib.ExitStack) -> Side:
    servers = settings.broker.url.removeprefix("kafka://").split(",")
    topics = settings.topics
    edge = ordinary.OnKafka(servers, topics.samples, topics.dead_letters, f"{settings.group}-ordinary")
    stack.callback(edge.close)
    model = ordinary.learned(generated(WARM // 20, FEATURES))
    return Side("ordinary", lambda n: ordinary.loop(edge.poll, edge.send, model, n), calm=False)


def _poll_on_kafka(settings: Settings, stack: contextlib.ExitStack) -> Side:
    servers = settings.broker.url.removeprefix("kafka://").split(",")
    edge = ordinary.OnKafka(
        servers, settings.topics.samples, settings.topics.dead_letters, f"{settings.group}-poll"
    )
    stack.callback(edge.close)

    def take(n: int) -> None:
        while n > 0:
            n -= sum(map(len, edge.consumer.poll(timeout_ms=1000).values()))

    return Side("poll", take, calm=True)


def _scorer_on_kafka(settings: Settings, stack: contextlib.ExitStack) -> Side:
    broker = stack.enter_context(open_broker(settings))
    side, service = scorer_side("scorer", Stage(settings, broker, wait_s=0.05))
    stack.callback(service.close)
    return side


def _confluent_on_kafka(settings: Settings, stack: contextlib.ExitStack) -> Side:
    chosen = settings.broker.model_copy(update={"client": {"library": "confluent"}})
    return _scorer_on_kafka(settings.model_copy(update={"broker": chosen}), stack)


QUIX = "Quix Streams"
KAFKA: dict[str, Callable[[Settings, contextlib.ExitStack], Side]] = {
    "ordinary loop": _ordinary_on_kafka,
    "bare poll": _poll_on_kafka,
    "scorer, logistic": _scorer_on_kafka,
    "scorer, confluent": _confluent_on_kafka,
}


@contextlib.contextmanager
def node(url: str) -> Iterator[str]:
    """Give the broker's address; start one of the tests where none is named."""
    if url != "start":
        yield url
        return
    sys.path.insert(0, str(ROOT))
    from tests.kafka.broker import KafkaNode

    with KafkaNode() as started:
        yield f"kafka://{started.bootstrap}"


def show(title: str, sides: Sequence[Side], against: Side) -> None:
    """Print a table of medians."""
    table(
        title,
        ("", "us", "lowest", "highest", "samples/s", "ratio"),
        [
            (
                side.name,
                f"{side.median:.2f}",
                f"{min(side.us):.2f}",
                f"{max(side.us):.2f}",
                f"{1e6 / side.median:,.0f}",
                f"{against.median / side.median:.2f}",
            )
            for side in sides
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparisons."""
    made = parser(__doc__ or "", seeds=1)
    made.add_argument("--rounds", type=int, metavar="N", help=f"default {ROUNDS}, quick {QUICK_ROUNDS}")
    made.add_argument(
        "--kafka",
        nargs="?",
        const="start",
        metavar="URL",
        help="on Apache Kafka; without an address, on one of its own",
    )
    made.add_argument("--widths", action="store_true", help="with 10 to 1,000 features, and with text")
    made.add_argument(
        "--quix",
        metavar="PYTHON",
        help="on Kafka: compare with Quix Streams, too, in this Python's environment",
    )
    chosen = parse(made, argv)
    logs.configure("error")
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else ROUNDS)
    n = chosen.samples or (QUICK_ROUND if chosen.quick else ROUND)
    bars, slack = Bars(), SLACK if chosen.quick else 1.0
    if chosen.widths:
        widths(min(rounds, 5), n)
        return 0
    if chosen.kafka is None:
        embedded(rounds, n, bars, slack)
        learners(min(rounds, 3), chosen.samples or (QUICK_LABELS if chosen.quick else LABELS), bars, slack)
    else:
        with node(chosen.kafka) as url:
            kafka(url, rounds, n, bars, slack, chosen.quix)
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
