"""The settings: every key, its meaning, its default, and what is wrong with a configuration.

Theory of operation
-------------------
``load`` lays the sources over each other - defaults, the file, ``STREAM_AL_*`` variables, ``--set`` - and
checks the result strictly: no unknown keys, no conversions (``"1"`` is not ``1``). Every problem becomes one
line with the place where it was written. The classes below are the only list of keys; the annotated
``config.yaml``, the reference in ``docs/configuration.md`` and the JSON Schema are generated from them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from stream_al import config_problems as problems
from stream_al import config_source as source
from stream_al.config_source import ConfigError
from stream_al.core.strategies import CLASSIFICATION, REGRESSION
from stream_al.core.strategies import NAMES as STRATEGIES

__all__ = ["STRATEGIES", "ConfigError", "Settings", "load", "schema", "show"]

DEFAULT_SPEC: list[Any] = ["stream_al.models.MixtureClassifier"]
REGRESSION_SPEC: list[Any] = [
    "river.preprocessing.StandardScaler",
    {
        "river.preprocessing.TargetStandardScaler": {
            "regressor": {
                "river.tree.HoeffdingTreeRegressor": {"grace_period": 20, "leaf_prediction": "adaptive"}
            }
        }
    },
]

USUAL_BYTES = 256_000  # of a sample; what comes of it fits into a message as large as Kafka allows by default
LIBRARIES = ("kafka-python", "confluent")  # Kafka clients
USUAL_REQUEST_BYTES = 5 * 1024 * 1024  # that a Kafka client may send at once


def largest_message(sample_bytes: int) -> int:
    """Return how large a message with the features of a sample may be, in bytes."""
    return 4 * sample_bytes + 24_000


# Client settings that stream-al decides itself, and what to write instead.
_RESERVED = {
    "bootstrap_servers": "write broker.url",
    "group_id": "write group",
    "session_timeout_ms": "write broker.session_timeout_ms",
    "transaction_timeout_ms": "write broker.transaction_timeout_ms",
    "auto_offset_reset": "write samples.start",
    **dict.fromkeys(
        ("transactional_id", "enable_idempotence", "acks", "isolation_level", "enable_auto_commit"),
        "leave it out: exactly-once processing depends on it",
    ),
}


def _topic_name(name: str) -> str:
    if re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name) and name not in {".", ".."}:
        return name
    raise ValueError(f"{name!r} is not a topic name; use letters, digits, '.', '_' and '-', at most 249")


def _field_path(path: str) -> str:
    if all(path.split(".")):
        return path
    raise ValueError(f"{path!r} is not a path; write for example payload.id")


def _broker_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"embedded", "kafka"}:
        raise ValueError(
            f"{problems.masked_url(url)!r} is not a broker; write for example kafka://localhost:9092 or embedded://log.db"
        )
    if scheme == "kafka" and "@" in rest:
        raise ValueError("credentials do not belong in the address; write sasl_* keys below broker.client")
    if scheme == "kafka" and not all(_HOST.fullmatch(host) for host in rest.split(",")):
        raise ValueError(f"{url!r} is not a list of hosts; write for example kafka://one:9092,two:9092")
    if scheme == "embedded" and (not rest or rest.endswith("/")):
        raise ValueError(f"{url!r} names no file; write for example embedded://.stream-al/log.db")
    return url


_HOST = re.compile(r"(?:[a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?")


def _class_label(label: object) -> object:
    if isinstance(label, str | int):  # bool is an int
        return label
    raise ValueError(f"{problems.shown(label)} is not a class; write text, a whole number, true or false")


def _client_key(key: str) -> str:
    if key in _RESERVED:
        raise ValueError(f"cannot be set here; {_RESERVED[key]}")
    return key


def _or_library(schema: dict[str, Any]) -> None:
    """Let editors know that a library's name may stand in place of the mapping."""
    mapping = {
        key: schema.pop(key) for key in ("type", "additionalProperties", "propertyNames") if key in schema
    }
    schema["anyOf"] = [mapping, {"enum": list(LIBRARIES)}]


ClientKey = Annotated[str, AfterValidator(_client_key)]
TopicName = Annotated[str, AfterValidator(_topic_name)]
FieldPath = Annotated[str, AfterValidator(_field_path)]
FeatureName = Annotated[str, Field(min_length=1)]
ClassLabel = Annotated[str | int | bool, BeforeValidator(_class_label)]


class Section(BaseModel):
    """A group of keys: no unknown ones, no conversions, no changes after loading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        """Read a section whose keys are all commented out as one that is not there."""
        return {} if value is None else value


class Broker(Section):
    """The log that everything is read from and written to."""

    url: Annotated[str, AfterValidator(_broker_url)] = Field(
        default="embedded://.stream-al/log.db",
        description="kafka://host:9092,host:9092, or a log in one file on this machine: "
        "embedded://relative/log.db (from the current directory), "
        "embedded:///absolute/log.db or, for tests, 'embedded://:memory:'.",
    )
    create_topics: bool = Field(
        default=True, description="Create missing topics at start; existing ones are never changed."
    )
    partitions: int = Field(default=4, ge=1, description="Partitions of the topics that stream-al creates.")
    replication_factor: int = Field(
        default=-1,
        ge=-1,
        description="Copies of the topics that stream-al creates; -1 is the broker's default.",
    )
    session_timeout_ms: int = Field(
        default=15_000,
        ge=100,
        le=15_000,
        description="A process that is silent for so long loses its partitions to the others.",
    )
    transaction_timeout_ms: int = Field(
        default=10_000,
        ge=100,
        le=10_000,
        description="The broker gives up an unfinished commit after so long; readers wait for it.",
    )
    client: dict[ClientKey, Any] = Field(
        default_factory=dict,
        description="Settings passed to the Kafka client as they are: security_protocol, sasl_mechanism, "
        "ssl_cafile, ... With library: confluent (stream-al[confluent]), or just confluent in place of the mapping, "
        "samples are read and commits written by librdkafka; the settings keep their names.",
        examples=[{"security_protocol": "SSL"}],
        json_schema_extra=_or_library,
    )

    @field_validator("replication_factor")
    @classmethod
    def _replication(cls, factor: int) -> int:
        if factor == 0:
            raise ValueError("0 copies hold nothing; write -1 for the broker's default, or for example 3")
        return factor

    @field_validator("client", mode="before")
    @classmethod
    def _empty_client(cls, client: object) -> object:
        if isinstance(client, str):
            return {"library": client}
        return {} if client is None else client

    @field_validator("client")
    @classmethod
    def _known_library(cls, client: dict[str, Any]) -> dict[str, Any]:
        library = client.get("library", LIBRARIES[0])
        if library not in LIBRARIES:
            raise ValueError(
                f"{library!r} is no client library; write {' or '.join(LIBRARIES)}, or a mapping of settings"
            )
        return client


class Topics(Section):
    """Names of the topics."""

    samples: TopicName = Field(
        default="samples", description="Input: the stream; it belongs to you and is only read."
    )
    labels_requested: TopicName = Field(
        default="labels-requested",
        description="Output: the samples chosen for labelling, as Label Studio tasks.",
    )
    labels: TopicName = Field(default="labels", description="Input: the answers of people and tools.")
    reports: TopicName = Field(default="reports", description="Internal: what scorers tell the learner.")
    ledger: TopicName = Field(
        default="ledger", description="Internal: the one record of all that was learned; keep it for ever."
    )
    dead_letters: TopicName = Field(
        default="dead-letters", description="Output: records that could not be read, with the reason."
    )
    predictions: TopicName = Field(
        default="predictions", description="Output: every score, if scorer.predictions is true."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [getattr(self, key) for key in type(self).model_fields]
        shared = sorted({name for name in names if names.count(name) > 1})
        if shared:
            raise ValueError(f"{', '.join(shared)} is used for more than one topic; write different names")
        return self


class Samples(Section):
    """How to read a sample. Paths have dots: payload.id."""

    id: FieldPath = Field(
        default="id", description="Path of the id; a sample without one is named topic-partition-offset."
    )
    features: FieldPath | None = Field(
        default="features", description="Path of the features; null: all other top-level fields are features."
    )
    timestamp: FieldPath | None = Field(
        default="timestamp",
        description="Path of the time, which is shown and never used; null: the record's own.",
    )
    max_bytes: int = Field(
        default=USUAL_BYTES,
        ge=1,
        description="A larger sample goes to the dead letters. Its request may be four times as large (1e15 becomes "
        "1000000000000000.0): on Kafka more than the default needs topics with a larger max.message.bytes, which "
        "stream-al makes and checks, and above 1,295,000 a larger broker.client.max_request_size.",
    )
    most_unreadable: float | None = Field(
        default=0.5,
        gt=0,
        le=1,
        description="If more than this share of the last 1,000 samples is unreadable, or each of the first 300, the "
        "mapping above is wrong: the service ends and says so. null or 1: never.",
        examples=[0.5],
    )
    start: Literal["latest", "earliest"] = Field(
        default="latest",
        description="Where the first start begins to read: only new samples, or all that are kept.",
    )
    text: FeatureName | None = Field(
        default=None,
        description="A feature that is text to be shown to annotators as such.",
        examples=["comment"],
    )
    image: FeatureName | None = Field(
        default=None,
        description="A feature that is the address of an image to be shown to annotators.",
        examples=["picture"],
    )


class Model(Section):
    """What learns."""

    task: Literal["classification", "regression"] = Field(
        default="classification",
        description="What a label is: a class, or in regression a number. In regression the defaults are another "
        "spec (StandardScaler, then TargetStandardScaler around a HoeffdingTreeRegressor) and strategy: random.",
    )
    spec: list[Any] = Field(
        default=DEFAULT_SPEC,
        min_length=1,
        examples=[["river.naive_bayes.GaussianNB"]],
        description="Steps of a River pipeline, the last one a classifier, or a regressor where that is the task. A "
        "step is the name of a class, or a mapping from the name to its parameters; a parameter may be such a "
        "mapping again.",
    )
    classes: Annotated[tuple[ClassLabel, ...], Field(strict=False)] | None = Field(
        default=None,
        description="The classes, if they are known and fixed: texts, whole numbers, true and false, which "
        "stay what they are (1, true and '1' are three classes). null: a class appears with its first label.",
        examples=[["fraud", "ok"]],
        json_schema_extra={"minItems": 2},
    )
    cooperative: bool = Field(
        default=False,
        description="Cooperative learning: what the classifier is sure of teaches it, too, with half the weight of "
        "a label. A twin without it watches and takes over where that does harm. It costs a second model, and "
        "no gain was measured.",
    )

    @field_validator("cooperative")
    @classmethod
    def _cooperative(cls, cooperative: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - as pydantic calls it
        if cooperative and info.data.get("task") == "regression":
            raise ValueError(
                "a number is never sure; in regression leave it out, or write model.task: classification"
            )
        return cooperative

    @field_validator("classes")
    @classmethod
    def _distinct(
        cls, classes: tuple[str | int | bool, ...] | None, info: ValidationInfo
    ) -> tuple[str | int | bool, ...] | None:
        if classes is not None and info.data.get("task") == "regression":
            raise ValueError(
                "there are no classes in regression; leave it out, or write model.task: classification"
            )
        typed = [(type(label), label) for label in classes or ()]
        twice = next((label for kind, label in typed if typed.count((kind, label)) > 1), None)
        if twice is not None:
            raise ValueError(f"{problems.shown(twice)} is named twice; write each class once")
        if classes is not None and len(classes) < 2:
            raise ValueError(f"{problems.shown(classes)} leaves no choice; write for example [fraud, ok]")
        return classes

    @model_validator(mode="after")
    def _spec_of_task(self) -> Self:
        if self.task == "regression" and "spec" not in self.model_fields_set:
            self.__dict__["spec"] = REGRESSION_SPEC  # not assigned: a default does not count as written
        return self


class Budget(Section):
    """How many labels may be asked for. The tightest limit holds; one of the first three is required."""

    fraction: float | None = Field(
        default=0.05, gt=0, le=1, description="Share of all samples; null: no such limit.", examples=[0.05]
    )
    per_hour: int | None = Field(
        default=None, ge=1, description="Requests in any hour; null: no such limit.", examples=[10]
    )
    per_day: int | None = Field(
        default=None, ge=1, description="Requests in any 24 hours; null: no such limit.", examples=[100]
    )
    max_outstanding: int | None = Field(
        default=None,
        ge=1,
        description="Requests that wait for an answer at the same time; null: no such limit.",
        examples=[50],
    )
    exploration: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the budget spent by lot on all samples; it keeps the accuracy estimate honest.",
    )
    novelty: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the labels for samples unlike everything learned, so that new classes are found; "
        "0: off. It needs a model that shows its features, as those of stream_al.models do.",
    )

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.fraction is None and self.per_hour is None and self.per_day is None:
            raise ValueError(
                "no limit at all; write one of fraction, per_hour, per_day, for example fraction: 0.05"
            )
        return self


class Labels(Section):
    """How long to wait for answers, and how many make a label."""

    ttl_s: float = Field(
        default=604_800.0, gt=0, description="A request without an answer expires after so many seconds."
    )
    wait_unknown_s: float = Field(
        default=60.0,
        ge=0,
        description="A label that comes before its request waits so many seconds, then it is a dead letter.",
    )
    unsolicited: Literal["reject", "train"] = Field(
        default="reject",
        description="What happens to a label that nobody asked for, when it has waited: a dead letter, or train the "
        "model with it, if it brings the features of its sample. It never enters the accuracy estimate.",
    )
    votes: int = Field(
        default=1,
        ge=1,
        le=9,
        description="How many people answer each question; above 1 the label follows from their votes, by agreement. "
        "They are told apart by annotator: answers without one are one person's. In regression only 1.",
    )
    agreement: Literal["first", "majority", "dawid_skene"] = Field(
        default="majority",
        description="When votes agree: the first one counts and the others are compared; more than half of them; or "
        "by who was right before (Dawid and Skene, 1979), which asks fewer people. Where they do not agree the owner "
        "decides on the desk page.",
    )
    certainty: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="With dawid_skene nobody else is asked once a class has this probability.",
    )
    near_duplicates: Literal["each", "once"] = Field(
        default="each",
        description="once: of open questions whose samples have the same features (numbers to seven digits) one is "
        "asked; the answer serves all, is learned once and counts for each. The accuracy stays unbiased, but where "
        "rows repeat often and the same row has now this label, now that, its interval is too narrow.",
    )


class Ledger(Section):
    """The record of all that was learned."""

    bucket_s: float = Field(
        default=10.0, gt=0, description="Counts are written in steps of at least so many seconds."
    )


class Accuracy(Section):
    """The estimate of the model's accuracy."""

    windows: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = Field(
        default=(1_000, 5_000),
        json_schema_extra={"minItems": 1},
        description="Lengths, in samples, of the latest stretches whose accuracy is estimated.",
    )

    random_twin: bool = Field(
        default=False,
        description="Let a twin of the model learn only what exploration asked for, at random, so that the labels that "
        "asking saves are known. A label then takes the learner about four times as long. In classification only.",
    )

    @field_validator("windows")
    @classmethod
    def _distinct(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if not windows:
            raise ValueError("[] has no window; write for example [1000, 5000]")
        if len(set(windows)) < len(windows):
            raise ValueError(f"{problems.shown(windows)} names a window twice; write each length once")
        return windows


def _not_the_twin(name: str) -> str:
    if name == "random":
        raise ValueError("'random' is the name of the twin that learns at random; write another one")
    return name


class Challenger(Section):
    """Another model that learns the same labels, to be compared and perhaps promoted."""

    name: str = Field(
        pattern=r"^[a-zA-Z0-9._-]{1,64}$",
        description="What it is called in metrics and for stream-al promote.",
        examples=["forest"],
    )
    spec: list[Any] | None = Field(
        default=None,
        min_length=1,
        description="As model.spec; null: the same.",
        examples=[["river.naive_bayes.GaussianNB"]],
    )
    strategy: str | None = Field(
        default=None,
        description="The query strategy that comes with it when it is promoted; null: the one in use stays.",
        examples=["entropy"],
        json_schema_extra={"enum": [*CLASSIFICATION, None]},
    )

    _free = field_validator("name")(_not_the_twin)

    @field_validator("strategy")
    @classmethod
    def _strategy(cls, name: str | None) -> str | None:
        if name is not None and name not in CLASSIFICATION:
            raise ValueError(problems.not_one_of(name, CLASSIFICATION))
        return name


class Scorer(Section):
    """How scorers work. They join the group <group>-scorer."""

    commit_samples: int = Field(default=4_000, ge=1, description="Commit after so many samples, ...")
    commit_ms: int = Field(
        default=100, ge=1, le=2_000, description="... or after so many milliseconds, whichever comes first."
    )
    predictions: bool = Field(default=False, description="Write every score to the topic predictions.")


class Learner(Section):
    """How the learner works. Learners join the group <group>-learner; one works, the others stand by."""

    commit_labels: int = Field(default=500, ge=1, description="Commit after at most so many labels.")


class Person(Section):
    """Somebody who may use the label page."""

    token: str = Field(min_length=16, max_length=200, description="What this person shows as a password.")
    role: Literal["annotator", "owner"] = Field(
        default="annotator", description="An owner also sees the desk page and decides on new classes."
    )


class Desk(Section):
    """The label page for people, on http.port. Unless somebody is named in people, it is for this machine only."""

    people: dict[Annotated[str, Field(pattern=r"^[a-zA-Z0-9._@-]{1,64}$")], Person] = Field(
        default_factory=dict,
        description="Who may answer, by name: {ann: {token: ..., role: annotator}}, a token of at least 16 "
        "characters. Nobody: whoever can reach the port from this machine may do everything.",
    )
    blind: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the questions at which the model's guess is hidden, so that its influence is known.",
    )
    second_opinion: float = Field(
        default=0.0, ge=0, le=1, description="Share of the questions that two people answer, to compare them."
    )
    grace_s: float = Field(
        default=10.0,
        ge=0,
        le=3_600,
        description="An answer is published after so many seconds; until then it can be taken back.",
    )
    lease_s: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="For so many seconds nobody else gets a question that somebody is looking at.",
    )

    @field_validator("people", mode="before")
    @classmethod
    def _nobody(cls, people: object) -> object:
        return {} if people is None else people


def _studio_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if scheme not in {"http", "https"} or not separator or not rest.strip("/"):
        raise ValueError(
            f"{problems.masked_url(url)!r} is not an address; write for example http://127.0.0.1:8080"
        )
    if "@" in rest.partition("/")[0]:
        raise ValueError("credentials do not belong in the address; write label_studio.token")
    if not re.fullmatch(r"[!-~]+", rest) or "?" in rest or "#" in rest:
        raise ValueError(f"{url!r} is more than an address; write for example http://127.0.0.1:8080")
    return url.rstrip("/")


def _studio_project(project: object) -> object:
    if isinstance(project, bool) or not isinstance(project, str | int):
        raise ValueError(f"{problems.shown(project)} is no project; write its title, or its number")  # noqa: TRY004
    if isinstance(project, int) and project < 1:
        raise ValueError(f"{project} is not the number of a project; the first is 1")
    if isinstance(project, str) and not 3 <= len(project) <= 50:
        raise ValueError(f"{project!r} is no title; Label Studio allows 3 to 50 characters")
    return project


class LabelStudio(Section):
    """The bridge to Label Studio (stream-al label-studio)."""

    url: Annotated[str, AfterValidator(_studio_url)] | None = Field(
        default=None, description="Where Label Studio is; null: nowhere.", examples=["http://127.0.0.1:8080"]
    )
    token: str | None = Field(
        default=None,
        min_length=1,
        description="A token of Label Studio (Account & Settings), of either kind; best written as "
        "STREAM_AL_LABEL_STUDIO__TOKEN in the environment.",
        examples=["eyJ..."],
    )
    token_file: Annotated[Path, Field(strict=False)] | None = Field(
        default=None,
        description="A file that holds the token, read at the start; for secrets that are mounted.",
        examples=["/run/secrets/label-studio"],
    )
    project: Annotated[str | int, BeforeValidator(_studio_project)] = Field(
        default="stream-al",
        description="Title of the project, which is made where there is none; or the number of one that is there.",
        examples=["stream-al"],
    )
    batch: int = Field(default=100, ge=1, le=10_000, description="Import at most so many tasks at once.")
    poll_s: float = Field(
        default=5.0, ge=0.1, le=3_600, description="Ask Label Studio for new answers every so many seconds."
    )
    guess: bool = Field(
        default=True,
        description="Show the model's guess to annotators, where a request is not blind (desk.blind).",
    )
    port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Port of the bridge's own metrics and health, on http.host; 0: any free one; null: off.",
        examples=[9109],
    )

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both written; keep one of them")
        return self


class Http(Section):
    """Metrics, health and the label page, on one port."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; 0.0.0.0 opens it to the network, without a password.",
    )
    port: int | None = Field(
        default=9108,
        ge=0,
        le=65_535,
        description="Port to listen on; 0: any free one; null: off.",
        examples=[9108],
    )


class Log(Section):
    """Diagnostics on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is written."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json, console, or auto: console at a terminal, json elsewhere."
    )


class Settings(Section):
    """Settings of stream-al."""

    name: str = Field(
        default="default", min_length=1, description="Name of the model in messages and metrics."
    )
    seed: int = Field(
        default=1, ge=0, lt=2**32, description="Decides every coin and every random number of the model."
    )
    broker: Broker = Broker()
    topics: Topics = Topics()
    group: str = Field(
        default="stream-al",
        pattern=r"^[a-zA-Z0-9._-]+$",
        description="Name shared by the processes that work together; scorers join <group>-scorer, "
        "learners <group>-learner.",
    )
    samples: Samples = Samples()
    model: Model = Model()
    strategy: str = Field(
        default="margin",
        description=f"What makes a sample worth asking for: {', '.join(CLASSIFICATION)}. "
        f"In regression: {', '.join(REGRESSION)}, and the default is {REGRESSION[0]}.",
        json_schema_extra={"enum": list(STRATEGIES)},
    )
    budget: Budget = Budget()
    labels: Labels = Labels()
    ledger: Ledger = Ledger()
    accuracy: Accuracy = Accuracy()
    challengers: Annotated[tuple[Challenger, ...], Field(strict=False)] = Field(
        default=(),
        description="Models that learn beside the one in use: [{name: forest, spec: [...], strategy: entropy}]. "
        "Each is compared with it on every label, and stream-al promote lets it take over. What is added later knows "
        "nothing before stream-al rebuild.",
        examples=[[{"name": "bayes", "spec": ["river.naive_bayes.GaussianNB"]}]],
    )
    scorer: Scorer = Scorer()
    learner: Learner = Learner()
    desk: Desk = Desk()
    label_studio: LabelStudio = LabelStudio()
    state_dir: Annotated[Path, Field(strict=False)] | None = Field(
        default=Path(".stream-al/state"),
        description="Directory of snapshots, a cache that may be deleted at any time; null: none, the ledger "
        "is replayed at each start.",
        examples=[".stream-al/state"],
    )
    snapshot_every_s: float = Field(default=60.0, gt=0, description="Seconds between two snapshots.")
    http: Http = Http()
    log: Log = Log()

    _origins: dict[source.Path, source.Origin] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Compare the values; where they were written does not matter."""
        return isinstance(other, Settings) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def model_post_init(self, context: Any, /) -> None:
        self._origins = dict(context or {})

    @property
    def written(self) -> frozenset[str]:
        """The dotted keys that somebody wrote (``budget.fraction``, ``seed``), whatever their value."""
        return frozenset(_written(self))

    def where(self, key: str) -> str:
        """Say where a dotted key was written, for messages: ``config.yaml:12``, ``--set`` or ``defaults``.

        The key may name an entry of a list, as in ``model.spec[1]``.
        """
        parts = re.findall(r"[^.\[\]]+", key)
        path = tuple(int(part) if part.isdigit() else part for part in parts)
        return str(source.origin_of(self._origins, path))

    @field_validator("strategy")
    @classmethod
    def _strategy(cls, name: str, info: ValidationInfo) -> str:
        if "model" not in info.data:  # it is wrong, and says so itself
            return name
        task = info.data["model"].task
        usable = REGRESSION if task == "regression" else CLASSIFICATION
        if name in STRATEGIES and name not in usable:
            both = ": model.task, model.spec (a regressor, or leave it out) and strategy change together"
            raise ValueError(
                f"{name!r} cannot be used in {task}; write one of {', '.join(usable)}"
                + (both if task == "regression" else "")
            )
        if name not in usable:
            raise ValueError(problems.not_one_of(name, usable))
        return name

    @model_validator(mode="after")
    def _strategy_of_task(self) -> Self:
        if self.model.task == "regression" and "strategy" not in self.model_fields_set:
            self.__dict__["strategy"] = REGRESSION[0]  # not assigned: a default does not count as written
        return self

    _free = field_validator("name")(_not_the_twin)

    @field_validator("challengers", mode="before")
    @classmethod
    def _nobody(cls, challengers: object) -> object:
        return () if challengers is None else challengers

    @field_validator("challengers")
    @classmethod
    def _challengers(
        cls, challengers: tuple[Challenger, ...], info: ValidationInfo
    ) -> tuple[Challenger, ...]:
        names = [info.data.get("name", ""), *(c.name for c in challengers)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} names two models; write another name")
        if challengers and _of_numbers(info):
            raise ValueError("models are compared in classification; in regression leave it out")
        return challengers

    @field_validator("accuracy")
    @classmethod
    def _twin(cls, accuracy: Accuracy, info: ValidationInfo) -> Accuracy:
        if accuracy.random_twin and _of_numbers(info):
            raise ValueError("random_twin is for classification; in regression leave it out")
        return accuracy

    @model_validator(mode="after")
    def _votes_of_task(self) -> Self:
        if self.model.task == "regression" and self.labels.votes > 1:
            raise ValueError(
                "labels.votes: numbers of several people are no votes; in regression write 1 or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _votes_of_bridge(self) -> Self:
        if self.label_studio.url is not None and self.labels.votes > 1 and self.labels.agreement != "first":
            raise ValueError(
                "labels.votes: the bridge to Label Studio brings one answer of each task, so several would never agree;"
                " write 1, or leave label_studio.url out"
            )
        return self

    @model_validator(mode="after")
    def _messages_fit(self) -> Self:
        most = self.broker.client.get("max_request_size", USUAL_REQUEST_BYTES)
        needed = largest_message(self.samples.max_bytes)
        if not isinstance(most, int):
            raise ValueError(f"broker.client.max_request_size: {most!r} is no whole number")  # noqa: TRY004  pydantic's
        if self.broker.url.startswith("kafka:") and needed > most:
            raise ValueError(
                f"requests for samples of {self.samples.max_bytes} bytes (samples.max_bytes) may have {needed}, and"
                f" broker.client.max_request_size is {most}; write a larger one, or a smaller samples.max_bytes"
            )
        return self

    @field_validator("state_dir", mode="before")
    @classmethod
    def _state_dir(cls, path: object) -> object:
        if path == "":
            raise ValueError("'' is not a directory; write for example .stream-al/state, or null for none")
        return path


def _of_numbers(info: ValidationInfo) -> bool:
    return "model" in info.data and info.data["model"].task == "regression"


def load(
    path: Path | None, overrides: Sequence[str] = (), *, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings: ``overrides`` (``a.b=c``) over the environment over the file over the defaults.

    Parameters
    ----------
    path
        A YAML file, or None for none.
    overrides
        The arguments of ``--set``; the last one wins.
    environ
        Read instead of the process environment.

    Raises
    ------
    ConfigError
        With one line per problem: where, which key, what is wrong, what to write.
    """
    tree = source.Tree()
    wrong: list[str] = []
    for read in _sources(path, overrides, os.environ if environ is None else environ):
        try:
            tree = _library_written_out(read()).over(tree)
        except ConfigError as error:
            wrong += error.problems
    if wrong:
        raise ConfigError(*wrong)
    return _validated(tree)


def _library_written_out(tree: source.Tree) -> source.Tree:
    """Let ``broker.client: confluent`` of one source and a password of another be one mapping."""
    broker = tree.value.get("broker")
    if not isinstance(broker, Mapping) or not isinstance(library := broker.get("client"), str):
        return tree
    return source.Tree({**tree.value, "broker": {**broker, "client": {"library": library}}}, tree.origins)


def show(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values that can be printed: secrets are masked."""
    shown: dict[str, Any] = problems.masked(settings.model_dump(mode="json"))
    return shown


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def _sources(path: Path | None, overrides: Sequence[str], environ: Mapping[str, str]) -> Iterator[Any]:
    if path is not None:
        yield lambda: source.from_file(path)
    yield lambda: source.from_environment(environ, Settings.model_fields)
    for text in overrides:
        yield lambda text=text: source.from_assignment(text)


def _validated(tree: source.Tree) -> Settings:
    try:
        return Settings.model_validate(tree.value, context=tree.origins)
    except ValidationError as error:
        raise ConfigError(*problems.lines(error, Settings, tree)) from None


def _written(section: Section, prefix: str = "") -> Iterator[str]:
    for key in section.model_fields_set:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _written(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
