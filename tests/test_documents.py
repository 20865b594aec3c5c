"""The documents for other programs - AsyncAPI, OpenAPI, JSON Schema - say what the code does."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from stream_al import asyncapi, config, config_doc
from stream_al.codec import BadRecord
from stream_al.web import openapi
from tests.compat.fixtures import read, records
from tests.outside import npm

ROOT = Path(__file__).parent.parent
DOCUMENT = asyncapi.document()
ASYNCAPI_SPECS = "@asyncapi/specs@6.11.1"

SCHEMAS = DOCUMENT["components"]["schemas"]
RECORDS = {
    schema["properties"]["kind"]["const"]: name
    for name, schema in SCHEMAS.items()
    if "kind" in schema["properties"]
}
# what the examples call it, and the message that it is
MESSAGES = RECORDS | {
    "sample": "SampleMessage", "request": "LabelRequestTask", "answer": "LabelMessage", "number": "LabelMessage",
    "skipped answer": "LabelMessage", "annotation": "LabelStudioAnnotation", "annotated task": "LabelStudioTask",
    "withdrawal": "Withdrawal", "dead letter": "DeadLetter", "prediction": "Prediction",
}  # fmt: skip
OURS = {"request", "prediction", *RECORDS}
NOT_READ = {"schema", "predictions"}  # they are for others

EXAMPLES = [
    pytest.param(kind, record, id=f"{number}-{kind}")
    for number, (kind, record) in enumerate(records())
    if kind in MESSAGES
]


def validator(kind, *, closed=False):
    """Return what checks a message; where closed, also that it has no fields beside those described."""
    schemas = deepcopy(SCHEMAS)
    for schema in schemas.values() if closed else ():
        schema.setdefault("additionalProperties", False)
    payload = DOCUMENT["components"]["messages"][MESSAGES[kind]]["payload"]
    return jsonschema_rs.Draft7Validator({"allOf": [payload], "components": {"schemas": schemas}})


def test_every_message_has_an_example():
    assert {example.values[0] for example in EXAMPLES} == MESSAGES.keys()
    assert set(MESSAGES.values()) == DOCUMENT["components"]["messages"].keys()


@pytest.mark.parametrize(("kind", "record"), EXAMPLES)
def test_what_was_written_is_as_described(kind, record):
    headers = DOCUMENT["components"]["messages"][MESSAGES[kind]].get("headers", {})
    jsonschema_rs.Draft7Validator(headers).validate({name: value.decode() for name, value in record.headers})
    if kind == "dead letter":
        return  # any bytes
    value = None if record.value is None else json.loads(record.value)
    validator(kind).validate(value)
    if kind in OURS:
        validator(kind, closed=True).validate(value)


@pytest.mark.parametrize(("kind", "record"), [f for f in EXAMPLES if f.values[0] in OURS])
def test_what_is_required_cannot_be_left_out(kind, record):
    value = json.loads(record.value)
    required = SCHEMAS[MESSAGES[kind]]["required"]
    for name in required:
        spoiled = {k: v for k, v in value.items() if k != name}
        assert not validator(kind).is_valid(spoiled)
        if name not in NOT_READ:
            with pytest.raises((BadRecord, AssertionError, ValueError)):
                read(kind, record._replace(value=json.dumps(spoiled).encode()))
    for name in value.keys() - required:  # what may be left out is read without it
        read(kind, record._replace(value=json.dumps({k: v for k, v in value.items() if k != name}).encode()))


def test_topics_are_named_and_kept_as_the_service_wants_them():
    settings = config.Settings()
    assert {
        name: channel["address"] for name, channel in DOCUMENT["channels"].items()
    } == settings.topics.model_dump()
    assert DOCUMENT["channels"]["ledger"]["bindings"]["kafka"] == {
        "topicConfiguration": {"retention.ms": -1, "retention.bytes": -1, "cleanup.policy": ["delete"]},
        "partitions": 1,
    }


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("docs/asyncapi.yaml", asyncapi.text),
        ("docs/openapi.json", openapi.text),
        ("docs/config.schema.json", config_doc.schema_text),
    ],
)
def test_the_committed_document_is_the_generated_one(file, text):
    assert (ROOT / file).read_text(encoding="utf-8") == text(), "run make docs"


def editors_files():
    return [
        path
        for place in (ROOT, ROOT / "docker")
        for path in (place.glob("*.yaml") if place == ROOT else place.rglob("config.yaml"))
        if "yaml-language-server" in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("path", editors_files(), ids=str)
def test_editors_find_the_schema_and_it_accepts_the_file(path):
    text = path.read_text(encoding="utf-8")
    [target] = re.findall(r"\A# yaml-language-server: \$schema=(\S+)\n", text)
    schema = jsonschema_rs.Draft202012Validator(
        json.loads((path.parent / target).read_text(encoding="utf-8"))
    )
    schema.validate(yaml.safe_load(text))
    config.load(path, environ={})


@pytest.mark.parametrize(
    "wrong",
    [
        {"budgett": {}},
        {"budget": {"fraction": 2}},
        {"strategy": "best"},
        {"seed": "1"},
        {"model": {"classes": ["one"]}},
    ],
)
def test_the_schema_refuses_what_the_service_refuses(wrong, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(wrong))
    with pytest.raises(config.ConfigError):
        config.load(file, environ={})
    assert not jsonschema_rs.Draft202012Validator(config.schema()).is_valid(wrong)


@pytest.mark.slow
def test_it_is_an_asyncapi_document(tmp_path):
    schemas = npm(tmp_path, ASYNCAPI_SPECS) / "@asyncapi" / "specs" / "schemas"
    published = jsonschema_rs.Draft7Validator(
        json.loads((schemas / "3.0.0.json").read_text(encoding="utf-8"))
    )
    published.validate(json.loads(json.dumps(DOCUMENT)))
    for path in (
        ("info", "title"),
        ("channels", "samples", "messages"),
        ("operations", "send_labels", "action"),
    ):
        spoiled = deepcopy(DOCUMENT)
        place = spoiled
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = 5
        assert not published.is_valid(spoiled), path


def test_a_request_is_described_with_all_that_is_read_of_it():
    from stream_al.asyncapi import RequestMeta
    from stream_al.codec import _Meta

    assert {*_Meta.__struct_fields__} <= {*RequestMeta.__struct_fields__}
