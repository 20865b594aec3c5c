"""``check``: will it run, and if not, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, attach, examples, log_file, settings_of
from stream_al.cli.outcome import CONFIGURATION, FAILURE, NEWER, OK, styled
from stream_al.cli.printing import print_json, print_line

if TYPE_CHECKING:
    from stream_al.config import Settings
    from stream_al.core.labels import Value
    from stream_al.core.messages import Features, Sample
    from stream_al.transport.port import Broker, TopicSpec

LATEST = 500
LEARNED = 100
MOST_CLASSES = 5
ROUNDS = 4
SIGNS = {"ok": "✓", "warning": "!", "error": "✗", "away": "✗"}
COLOURS = {"ok": "green", "warning": "yellow", "error": "red", "away": "red"}

CHECK_EXAMPLES = examples(
    "stream-al check",
    "stream-al check --no-broker --deny-warnings",
    "stream-al check --config staging.yaml --json",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was checked. ``away`` is an error of the surroundings, not of the configuration."""

    level: Literal["ok", "warning", "error", "away"]
    what: str
    message: str
    todo: str = ""


def check(
    no_broker: Annotated[bool, typer.Option("--no-broker", help="Check what needs no broker only.")] = False,
    deny_warnings: Annotated[bool, typer.Option("--deny-warnings", help="Let warnings fail too.")] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Check everything that could keep the service from running or learning, and say what to do.

    The settings, the model (it learns made-up samples with features of each type), the broker, its topics,
    the latest samples in them, and whether the settings fit the ledger. Nothing is created. The exit code
    is 0, or 78 for what the configuration must mend, or 1 if the broker is away.
    """
    from stream_al.config import ConfigError

    lines: list[Line] = []
    try:
        settings = settings_of(config, overrides)
        lines.append(Line("ok", "config", f"{_sources(config)} can be used"))
    except ConfigError as error:
        lines += [Line("error", "config", problem) for problem in error.problems]
    else:
        lines += [*_model(settings), *_challengers(settings)]
        if not no_broker:
            lines += _broker(settings)
    _tell(lines, as_json=as_json)
    raise typer.Exit(_code(lines, deny_warnings=deny_warnings))


def _sources(config: Path | None) -> str:
    from stream_al.cli.options import CONFIG

    return str(config) if config is not None else str(CONFIG) if CONFIG.exists() else "the defaults"


def _code(lines: Sequence[Line], *, deny_warnings: bool) -> int:
    levels = {line.level for line in lines}
    if "error" in levels or (deny_warnings and "warning" in levels):
        return CONFIGURATION
    return FAILURE if "away" in levels else OK


def _tell(lines: Sequence[Line], *, as_json: bool) -> None:
    if as_json:
        print_json(lines)
        return
    for line in lines:
        first, *rest = f"{line.what}: {line.message}\n{line.todo}".splitlines()
        typer.echo(f"{styled(SIGNS[line.level], fg=COLOURS[line.level])} ", nl=False)
        print_line(first)
        for text in rest:
            print_line(f"    {text}")


# the model


def _model(settings: Settings) -> Iterator[Line]:
    """Build the model and let it learn made-up samples of each type of feature, each by a fresh one."""
    from stream_al.core.model import Model
    from stream_al.core.model_spec import LAST, ModelSpecError
    from stream_al.service.learning import spec_problem

    spec, seed, classes = settings.model.spec, settings.seed, settings.model.classes
    task = settings.model.task
    where = settings.where("model.spec")
    try:
        Model(spec, classes=classes, seed=seed, task=task)
    except ModelSpecError as error:
        todo = "correct model.spec; river's documentation lists its classes"
        yield Line("error", "model", spec_problem(settings, error), todo)
        return
    labels = _made_up_labels(settings)
    wrong = {
        kind: _trial(settings, samples, labels) for kind, samples in _made_up(len(labels) * ROUNDS).items()
    }
    wrong = {kind: problem for kind, problem in wrong.items() if problem}
    if len(wrong) == len(_KINDS):
        yield Line(
            "error",
            "model",
            f"{where} learns nothing: {next(iter(wrong.values()))}",
            f"name another {LAST[task]}",
        )
        return
    fine = [kind for kind in _KINDS if kind not in wrong]
    yield Line("ok", "model", f"{_named(spec)} is built, learns and answers: {', '.join(fine)}")
    for kind, problem in wrong.items():
        todo = "no matter if your samples have none; else such labels count as fold errors, and teach nothing"
        yield Line("warning", "model", f"samples with {kind} only: {problem}", todo)


def _challengers(settings: Settings) -> Iterator[Line]:
    """Build the challengers, if there are any."""
    from stream_al.config import ConfigError
    from stream_al.service.learning import check_challengers

    try:
        check_challengers(settings)
    except ConfigError as error:
        for problem in error.problems:
            yield Line(
                "error", "challengers", problem, "correct its spec; river's documentation lists its classes"
            )
        return
    if settings.challengers:
        yield Line("ok", "challengers", f"{', '.join(c.name for c in settings.challengers)}: all are built")


_KINDS = ("numbers", "negative numbers", "texts", "booleans", "missing values", "embeddings")


def _made_up_labels(settings: Settings) -> list[Value]:
    if settings.model.task == "regression":
        return [1.5, -2.0, 40.0]
    classes: Sequence[Value] = settings.model.classes or ("one", "two")
    return list(classes[:MOST_CLASSES])


def _made_up(n: int) -> dict[str, list[Features]]:
    """Return n samples with features of one type each, the classes apart where that is possible."""
    kinds: tuple[list[Features], ...] = (
        [{"a": 1.5 * i, "b": i % 7} for i in range(n)],
        [{"a": -1.5 * i, "b": -(i % 7)} for i in range(n)],
        [{"a": f"word{i % 3}", "b": "red" if i % 2 else "blue"} for i in range(n)],
        [{"a": bool(i % 2), "b": bool(i % 3)} for i in range(n)],
        [{"a": None, "b": float(i)} if i % 2 else {"a": 1.0, "b": None} for i in range(n)],
        [{"e": [0.1 * i, 1.0, 0.5 * i]} for i in range(n)],
    )
    return dict(zip(_KINDS, kinds, strict=True))


def _trial(settings: Settings, samples: Sequence[Features], labels: Sequence[Value]) -> str:
    """Return what goes wrong when a fresh model learns the samples, or nothing."""
    from stream_al.core.model import Model

    m = settings.model
    model = Model(m.spec, classes=m.classes, seed=settings.seed, task=m.task)
    pairs = zip(samples, cycle(labels), strict=False)
    errors = Counter(error for features, label in pairs if (error := model.learn(features, label)))
    if errors:
        name, count = errors.most_common(1)[0]
        return f"{count} of {len(samples)} cannot be learned ({name})"
    answered = int(model.assess(samples).answered.sum())
    return "" if answered == len(samples) else f"{len(samples) - answered} of {len(samples)} get no answer"


def _named(spec: Any) -> str:
    names = (step if isinstance(step, str) else next(iter(step)) for step in spec)
    return " | ".join(name.rpartition(".")[2] for name in names)


# the broker


def _broker(settings: Settings) -> Iterator[Line]:
    from stream_al.transport.embedded_file import LogFileError, unusable
    from stream_al.transport.port import TopicError, TransportError

    where = f"{settings.where('broker.url')} broker.url"
    file = log_file(settings)
    problem = unusable(file) if file is not None else ""
    if problem:
        yield Line("error", "broker", f"{where}: {problem}")
        return
    if file is not None and not file.exists():
        yield Line("ok", "broker", f"{file} does not exist yet; run and send create it")
        return
    try:
        with attach(settings) as broker:
            broker.probe(settings.group)
            yield Line("ok", "broker", f"{settings.broker.url} answers and keeps the state of positions")
            yield from _topics(broker, settings)
            yield from _samples(broker, settings)
            yield from _ledger(broker, settings)
    except LogFileError as error:
        yield Line("error", "broker", f"{where}: {error}")
    except TopicError as error:
        yield Line("error", "broker", str(error))
    except TransportError as error:
        yield Line(
            "away", "broker", f"{settings.broker.url}: {error}", "see broker.url and whether the broker is up"
        )


def _topics(broker: Broker, settings: Settings) -> Iterator[Line]:
    from stream_al.service.loop import topic_specs

    for spec in topic_specs(settings, broker.partitions(settings.topics.samples)):
        if broker.partitions(spec.name):
            yield _existing(broker, spec)
        elif settings.broker.create_topics:
            yield Line("ok", "topic", f"{spec.name} does not exist yet; run and send create it")
        else:
            yield _missing(broker, spec)


def _existing(broker: Broker, spec: TopicSpec) -> Line:
    problem = _ensured(broker, spec)
    if problem:
        return Line("error", "topic", f"{spec.name} is not configured as it must be", problem)
    return Line("ok", "topic", f"{spec.name}, partitions: {broker.partitions(spec.name)}")


def _missing(broker: Broker, spec: TopicSpec) -> Line:
    todo = f"{_ensured(broker, spec)}\nor set broker.create_topics=true"
    return Line("error", "topic", f"{spec.name} does not exist, and broker.create_topics is false", todo)


def _ensured(broker: Broker, spec: TopicSpec) -> str:
    from stream_al.transport.port import TopicError

    try:
        broker.ensure([spec], create=False)
    except TopicError as error:
        return str(error)
    return ""


# samples and ledger


def _samples(broker: Broker, settings: Settings) -> Iterator[Line]:
    """Read the latest samples as a scorer would."""
    from stream_al.codec import BadRecord, SampleDecoder
    from stream_al.scan import scan

    s = settings.samples
    decode = SampleDecoder(s.id, s.features, s.timestamp, s.max_bytes)
    good: list[Sample] = []
    bad: list[str] = []
    for record in scan(broker, settings.topics.samples, LATEST):
        try:
            good.append(decode(record))
        except BadRecord as problem:
            bad.append(f"{record.topic}-{record.partition}@{record.offset} {problem.reason}: {problem}")
    if not good and not bad:
        yield Line("ok", "samples", "there are none yet")
        return
    yield from _readable(good, bad)
    if good:
        yield from _usable(settings, good)


def _readable(good: Sequence[Sample], bad: Sequence[str]) -> Iterator[Line]:
    total = len(good) + len(bad)
    if bad:
        todo = f"for example {bad[-1]}\nthey go to the dead letters; see samples.id and samples.features"
        yield Line("warning", "samples", f"{len(bad)} of the latest {total} cannot be read", todo)
    if good:
        yield Line(
            "ok", "samples", f"{len(good)} of the latest {total} can be read; features: {_features(good)}"
        )


def _features(samples: Sequence[Sample]) -> str:
    kinds = Counter(_kind(value) for sample in samples[-1:] for value in sample.features.values())
    return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) or "none"


def _kind(value: object) -> str:
    kinds = {bool: "booleans", int: "numbers", float: "numbers", str: "texts", list: "embeddings"}
    return kinds.get(type(value), "missing values")


def _usable(settings: Settings, samples: Sequence[Sample]) -> Iterator[Line]:
    from stream_al.status import returning_finding

    finding = returning_finding([sample.id for sample in samples])
    if finding is not None:
        yield Line("warning", "samples", finding.message, finding.todo)
    labels = _made_up_labels(settings)
    try:
        problem = _trial(settings, [sample.features for sample in islice(samples, LEARNED)], labels)
    except ValueError:
        return  # the model cannot be built, which was said above
    if problem:
        yield Line("warning", "samples", f"the model and your samples: {problem}", "name another model.spec")
    else:
        yield Line("ok", "samples", "the model learns them, with made-up labels")


def _ledger(broker: Broker, settings: Settings) -> Iterator[Line]:
    """Compare the settings with the first record of the ledger."""
    from stream_al.codec import decode_ledger
    from stream_al.config import ConfigError
    from stream_al.core.messages import Genesis
    from stream_al.core.strategies import NAMES
    from stream_al.scan import begins, ends, read
    from stream_al.service.learning import compare

    topic = settings.topics.ledger
    start, end = begins(broker, topic).get(0, 0), ends(broker, topic).get(0, 0)
    first = next((decode_ledger(r) for r in read(broker, topic, {0: start}, {0: end})), None)
    if not end:
        yield Line(
            "ok", "ledger", f"there is none yet; reading begins at samples.start: {settings.samples.start}"
        )
    elif not isinstance(first, Genesis):
        todo = "restore the topic, or name another topics.ledger to begin anew"
        yield Line(
            "error", "ledger", f"{topic} does not begin with its first record (it begins at {start})", todo
        )
    elif first.strategy not in NAMES:
        yield Line("error", "ledger", f"its strategy {first.strategy!r} is not known to this version", NEWER)
    else:
        try:
            compare(first, settings)
            yield Line("ok", "ledger", f"{first.ledger_id} since {first.created_at} fits the settings")
        except ConfigError as error:
            for problem in error.problems:
                yield Line("error", "ledger", problem)
