"""The messages and topics as an AsyncAPI 3 document, written from the message types and the topics' settings.

``python -m stream_al.asyncapi`` writes ``docs/asyncapi.yaml``; a test holds the committed copy equal, and another holds
every recorded message against it. What stream-al writes itself is described by the very types that are encoded; the
types below describe what passes the edge in a form of its own: samples, answers, and requests as Label Studio's tasks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml
from msgspec import UNSET, UnsetType

from stream_al import __version__
from stream_al.codec import BadRecord, dead_letter
from stream_al.config import Settings
from stream_al.core.messages import (
    REQUEST_ID_HEADER,
    REQUEST_SCHEMA,
    AtDesk,
    Feature,
    LedgerRecord,
    Prediction,
    Query,
    Report,
    Shown,
    Source,
)
from stream_al.service.loop import topic_specs
from stream_al.transport.embedded_log import EmbeddedRecord

_ROOT = Path(__file__).parent.parent
_HEADER = "# Written by python -m stream_al.asyncapi; do not edit.\n"
_SCHEMAS = "#/components/schemas/"
_ANY = EmbeddedRecord("", 0, 0, 0, None, None, ())


class SampleMessage(msgspec.Struct):
    """One member of the stream, in its default form; ``samples`` in the configuration maps any other."""

    features: dict[str, Feature]
    id: str | int | None = None
    timestamp: str | int | float | None = None


class RequestData(msgspec.Struct):
    """What an annotator is shown: no lists of numbers, which are in ``meta.vectors``."""

    id: str
    features: dict[str, float | int | bool | str | None]
    text: str | UnsetType = UNSET
    image: str | UnsetType = UNSET


class RequestMeta(msgspec.Struct):
    """Where the sample stands, why its label is asked for, and what the model said."""

    id: str
    request_id: str
    source: Source
    query: Query
    model: Shown
    requested_at: str
    expires_at: str
    schema: str = REQUEST_SCHEMA
    vectors: dict[str, list[float]] | UnsetType = UNSET
    blind: bool | UnsetType = UNSET


class Suggestion(msgspec.Struct):
    """What the model would answer, as Label Studio shows it."""

    model_version: str
    result: list[dict[str, Any]]
    score: float | UnsetType = UNSET


class LabelRequestTask(msgspec.Struct):
    """A sample that was chosen, as a Label Studio task."""

    data: RequestData
    meta: RequestMeta
    predictions: list[Suggestion]


class LabelMessage(msgspec.Struct):
    """An answer: a label, or ``skip``. In regression the label is a number."""

    id: str | int
    label: str | int | bool | float | None = None
    skip: bool = False
    request_id: str | None = None
    annotator: str | None = None
    labeled_at: str | None = None
    features: dict[str, Feature] | None = None
    desk: AtDesk | None = None


class LabelStudioAnnotation(msgspec.Struct):
    """Label Studio's webhook payload."""

    annotation: dict[str, Any]
    task: dict[str, Any]


class LabelStudioTask(msgspec.Struct):
    """A task as Label Studio exports it."""

    annotations: list[dict[str, Any]]
    data: dict[str, Any]
    meta: dict[str, Any]


_REQUESTS = (
    "The samples chosen for labelling. Read it with isolation.level=read_committed. A message without a value withdraws"
    " the request that its header names, or all open ones of the id that is its key."
)

# channel: what it is for, the messages, whether stream-al receives or sends them
_CHANNELS: dict[str, tuple[str, tuple[type, ...], tuple[str, ...]]] = {
    "samples": ("The stream. It belongs to its producers and is only read.", (SampleMessage,), ("receive",)),
    "labels_requested": (
        _REQUESTS,
        (LabelRequestTask,),
        ("send",),
    ),
    "labels": (
        "The answers of people and tools.",
        (LabelMessage, LabelStudioAnnotation, LabelStudioTask),
        ("receive", "send"),
    ),
    "reports": ("Internal: what scorers tell the learner.", get_args(Report), ("receive", "send")),
    "ledger": (
        "Internal: the one record of all that was learned, kept for ever. One writer; the model is a fold of it.",
        get_args(LedgerRecord),
        ("receive", "send"),
    ),
    "dead_letters": ("Records that could not be used: bytes, key and headers as they came.", (), ("send",)),
    "predictions": ("Every score, if scorer.predictions is true.", (Prediction,), ("send",)),
}
_KINDS = tuple({kind.__name__: kind for _, kinds, _ in _CHANNELS.values() for kind in kinds}.values())


def document() -> dict[str, Any]:
    """Return the AsyncAPI document of the default configuration."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "stream-al",
            "version": __version__,
            "description": "UTF-8 JSON on Kafka or the embedded log. Unknown fields are ignored; only optional ones are"
            " ever added. The names of the topics are those of the default configuration.",
            "license": {"name": "BSD-3-Clause"},
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(name) for name in _CHANNELS},
        "operations": dict(_operations()),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def text() -> str:
    """Return the document as YAML."""
    return _HEADER + yaml.dump(document(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base class's signature
        return True


def _channel(name: str) -> dict[str, Any]:
    what, kinds, _ = _CHANNELS[name]
    settings = Settings()
    settings = settings.model_copy(
        update={
            "broker": settings.broker.model_copy(update={"url": "kafka://localhost:9092"}),
            "scorer": settings.scorer.model_copy(update={"predictions": True}),
        }
    )
    address: str = getattr(settings.topics, name)
    [spec] = [spec for spec in topic_specs(settings) if spec.name == address]
    config = {k: [v] if k == "cleanup.policy" else v for k, v in spec.config.items()}
    kafka: dict[str, Any] = {"topicConfiguration": config} if config else {}
    if spec.exact_partitions:
        kafka["partitions"] = spec.partitions
    names = [kind.__name__ for kind in kinds] or ["DeadLetter"]
    names += ["Withdrawal"] if name == "labels_requested" else []
    channel = {
        "address": address,
        "description": what,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    return {**channel, "bindings": {"kafka": kafka}} if kafka else channel


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (_, _, actions) in _CHANNELS.items():
        for action in actions:
            yield f"{action}_{name}", {"action": action, "channel": {"$ref": f"#/channels/{name}"}}


def _messages() -> dict[str, Any]:
    found: dict[str, Any] = {
        kind.__name__: {
            "name": kind.__name__,
            "summary": _summary(kind),
            "payload": {"$ref": _SCHEMAS + kind.__name__},
        }
        for kind in _KINDS
    }
    found["Withdrawal"] = {
        "name": "Withdrawal",
        "summary": "A message without a value: the request is no longer open.",
        "headers": {"type": "object", "properties": {REQUEST_ID_HEADER: {"type": "string"}}},
        "payload": {"type": "null"},
    }
    headers = [name for name, _ in dead_letter("", _ANY, BadRecord("", ""), "").headers]
    found["DeadLetter"] = {
        "name": "DeadLetter",
        "summary": "A record that could not be used, with the reason.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": headers,
            "properties": {name: {"type": "string"} for name in headers},
        },
        "payload": {"description": "The bytes as they came."},
    }
    return found


def _schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components(
        _KINDS, schema_hook=lambda _: {"description": "any JSON"}, ref_template=_SCHEMAS + "{name}"
    )
    return {name: _draft_7(schema) for name, schema in sorted(found.items())}


def _draft_7(schema: Any) -> Any:
    """Return a schema in the dialect of AsyncAPI, with short descriptions and the fields that are always written."""
    if isinstance(schema, list):
        return [_draft_7(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _draft_7(one) for name, one in schema.items()}
    if "prefixItems" in found:
        found["items"] = found.pop("prefixItems")
    if isinstance(found.get("description"), str):
        found["description"] = _first(found["description"])
    properties = found.get("properties")
    if isinstance(properties, dict):
        fixed = [name for name in ("kind", "schema") if name in properties]
        for name in fixed:
            value = properties[name].pop("default", None)
            properties[name] = {"const": properties[name]["enum"][0] if value is None else value}
        required = fixed + [name for name in found.pop("required", []) if name not in fixed]
        found.update({"required": required} if required else {})
    return found


def _summary(kind: type) -> str:
    return _first(inspect.getdoc(kind) or "")


def _first(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def main() -> None:
    (_ROOT / "docs" / "asyncapi.yaml").write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
