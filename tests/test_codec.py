"""Whatever bytes come, a decoder returns a typed value or raises BadRecord; what is written is read back the same."""

from __future__ import annotations

import contextlib
import json
import re
from collections import namedtuple
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_al.codec import (
    BadRecord,
    SampleDecoder,
    answer_bytes,
    dead_letter,
    decode_answer,
    decode_ledger,
    decode_report,
    decode_request,
    encode,
    encode_request,
)
from stream_al.config import USUAL_BYTES, largest_message
from stream_al.core.labels import label_of
from stream_al.core.learner import Withdrawal
from stream_al.core.messages import (
    Answer,
    AtDesk,
    Budget,
    Genesis,
    Grant,
    LabelRequest,
    Query,
    Shown,
    Source,
    Spent,
    Sums,
    Tally,
    timestamp,
)

Record = namedtuple(
    "Record", "value topic partition offset timestamp key headers", defaults=("samples", 2, 7, 0, None, ())
)
DECODERS = {
    "sample": SampleDecoder(),
    "mapped sample": SampleDecoder("who.id", None, "at"),
    "request": decode_request,
    "answer": decode_answer,
    "number": lambda record: decode_answer(record, "regression"),
    "report": decode_report,
    "ledger": decode_ledger,
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "label", "features", "skip", "kind", "data", "meta", "annotation", "x"]) | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
@given(value=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=1_000, deadline=None)
def test_only_bad_record_comes_out(name, value):
    with contextlib.suppress(BadRecord):
        DECODERS[name](Record(value))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "value",
    [None, b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'"\\ud800"', b"1e999", b'{"features": {"x": 1e999}}',
     b'{"features": {"x": ' + b"9" * 5000 + b"}}", b"\xef\xbb\xbf{}", b'{"id": "\\ud800", "features": {}}'],
)  # fmt: skip
def test_hostile_values(name, value):
    with contextlib.suppress(BadRecord):
        DECODERS[name](Record(value))


def sample(body, decode=DECODERS["sample"]):
    return decode(Record(json.dumps(body).encode() if not isinstance(body, bytes) else body))


def test_a_plain_sample():
    s = sample(
        {
            "id": "a",
            "features": {"n": 1, "f": 2.5, "b": True, "s": "x", "v": [1, 2.5], "none": None},
            "timestamp": "t",
        }
    )
    assert s.id == "a"
    assert s.features == {"n": 1, "f": 2.5, "b": True, "s": "x", "v": [1, 2.5], "none": None}
    assert type(s.features["b"]) is bool
    assert s.source == Source("samples", 2, 7, "t")


def test_a_missing_id_is_the_position():
    assert sample({"features": {}}).id == "samples-2-7"
    assert sample({"id": 12, "features": {}}).id == "12"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"id": "a"}, "wrong_type"),
        ({"features": [1]}, "wrong_type"),
        ({"features": {"x": {"y": 1}}}, "wrong_type"),
        ({"features": {"x": ["a"]}}, "wrong_type"),
        ({"features": {"x": [True]}}, "wrong_type"),
        (b'{"features": {"x": NaN}}', "not_json"),
        (b'{"features": {"x": 1e400}}', "wrong_type"),
        (b'{"features": {"x": ' + b"1" * 310 + b"}}", "wrong_type"),
        (b"not json", "not_json"),
        (b'{"features": {"x": "' + b"a" * 300_000 + b'"}}', "too_large"),
    ],
)
def test_unusable_samples_say_why(body, reason):
    with pytest.raises(BadRecord) as problem:
        sample(body)
    assert problem.value.reason in {reason, "not_json"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"features": {"a": 1, "x3": NaN}}', "sample: feature 'x3' is NaN; leave it out or send null"),
        (b'{"features": {"v": [1, -Infinity]}}', "sample: feature 'v' holds -Infinity; leave it out or send null"),
        (b'{"features": {"x": {"y": 1}}}', "sample: feature 'x' is an object; flatten it or map samples.features"),
        (b'{"features": {"a": 1, "x": 1e400}}', "sample: feature 'x' is too large a number"),
        (b'{"features": {"x": [[1]]}}', "sample: feature 'x' is a list of something else than numbers"),
        (b'{"features": {"x": 1}, "timestamp": []}', "sample: Expected `int | float | str | null`, got `array` - at `$.timestamp`"),
    ],
)  # fmt: skip
def test_the_feature_at_fault_is_named(body, told):
    with pytest.raises(BadRecord) as problem:
        sample(body)
    assert str(problem.value) == told
    flat = body.replace(b'{"features": {', b'{"id": "a", ').replace(b"}}", b"}")
    if b"timestamp" not in body and b'"y"' not in body:
        with pytest.raises(BadRecord) as problem:
            sample(flat, SampleDecoder("id", None, None))
        assert str(problem.value) == told


def test_paths_map_any_other_json():
    decode = SampleDecoder("who.id", "payload.values", "at")
    s = sample({"who": {"id": "u"}, "payload": {"values": {"x": 1}}, "at": 5}, decode)
    assert (s.id, s.features, s.source.timestamp) == ("u", {"x": 1}, "5")
    s = sample({"key": "k", "x": 1, "y": "z", "at": 5}, SampleDecoder("key", None, "at"))
    assert (s.id, s.features) == ("k", {"x": 1, "y": "z"})


@pytest.mark.parametrize("ms", [-(2**63), -1, 0, 2**53, 2**63 - 1])
def test_a_record_s_own_time_may_be_any_number(ms):
    shown = SampleDecoder(timestamp_path=None)(Record(b'{"features": {}}', timestamp=ms)).source.timestamp
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown)


# --- requests ------------------------------------------------------------------------------------------------

REQUEST = LabelRequest(
    "s-123", "3-91823", {"amount": 12.5, "country": "FR", "vector": [0.5, 1.0], "gone": None},
    Source("samples", 3, 91823, "2026-11-21T01:00:00Z"),
    Query("margin", "informative", 0.96, 0.91, 0.31, 0.01, 0.12, 0.61),
    Shown("default", 1742, {"fraud": 0.52, "ok": 0.48}), timestamp(1_800_000_000_000), timestamp(1_800_600_000_000),
)  # fmt: skip
NUMBER_REQUEST = replace(REQUEST, model=Shown("default", 7, value=-2.5))


def test_a_request_is_a_label_studio_task_and_is_read_back_the_same():
    value = encode_request(REQUEST)
    task = json.loads(value)
    assert set(task) == {"data", "meta", "predictions"}
    assert task["data"] == {"id": "s-123", "features": {"amount": 12.5, "country": "FR", "gone": None}}
    assert task["meta"]["schema"] == "stream-al/label-request/1"
    assert task["meta"]["vectors"] == {"vector": [0.5, 1.0]}
    assert task["predictions"] == [
        {"model_version": "default", "score": 0.52,
         "result": [{"from_name": "label", "to_name": "features", "type": "choices", "value": {"choices": ["fraud"]}}]}
    ]  # fmt: skip
    back = decode_request(Record(value))
    assert back == LabelRequest(**{f: getattr(REQUEST, f) for f in REQUEST.__dataclass_fields__})


def test_unknown_fields_are_ignored():
    task = json.loads(encode_request(REQUEST))
    task["later"] = task["meta"]["later"] = task["meta"]["query"]["later"] = 1
    assert decode_request(Record(json.dumps(task).encode())) == REQUEST


def test_no_prediction_while_there_is_no_class():
    cold = LabelRequest(
        **{**{f: getattr(REQUEST, f) for f in REQUEST.__dataclass_fields__}, "model": Shown("default", 0)}
    )
    assert json.loads(encode_request(cold))["predictions"] == []


def test_text_is_shown_only_where_the_config_names_it():
    assert "text" not in json.loads(encode_request(REQUEST))["data"]
    data = json.loads(encode_request(REQUEST, text="country", image="nowhere"))["data"]
    assert (data["text"], data["image"]) == ("FR", "")


def test_a_tombstone_withdraws():
    named = Record(None, key=b"s-1", headers=(("stream_al.request_id", b"0-5"),))
    assert decode_request(named) == Withdrawal("s-1", "0-5")
    assert decode_request(Record(None, key=b"s-1")) == Withdrawal("s-1", None)


# --- answers -------------------------------------------------------------------------------------------------


def answer(body):
    return decode_answer(Record(json.dumps(body).encode()))


@pytest.mark.parametrize("label", ["fraud", "1", "true", 1, 0, -5, True, False, ""])
def test_labels_come_back_as_they_came(label):
    found = answer({"id": "s", "label": label})
    assert found.label == label
    assert type(found.label) is type(label)


@pytest.mark.parametrize("body", [{"id": "s"}, {"label": "a"}, {"id": "s", "label": 1.5}, {"id": "s", "label": None}, {"id": "s", "label": ["a"]}, {"id": "s", "label": "a", "skip": True}, []])  # fmt: skip
def test_unusable_answers(body):
    with pytest.raises(BadRecord):
        answer(body)


def number(body):
    return decode_answer(Record(body if isinstance(body, bytes) else json.dumps(body).encode()), "regression")


@pytest.mark.parametrize("label", [3, -2, 0, 1.5, -1e18, 1e-300])
def test_in_regression_labels_are_numbers(label):
    found = number({"id": "s", "label": label})
    assert found.label == label
    assert type(found.label) is type(label)
    assert number(answer_bytes([found])[0]) == found


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        ({"id": "s", "label": "3"}, "wrong_type", "label: '3' is not a number, and the task is regression"),
        ({"id": "s", "label": True}, "wrong_type", "label: True is not a number, and the task is regression"),
        ({"id": "s", "label": [1]}, "wrong_type", "label: [1] is not a number, and the task is regression"),
        ({"id": "s", "label": 1e19}, "wrong_type", "label: the number is above 1e+18"),
        ({"id": "s", "label": 10**400}, "wrong_type", "label"),
        ({"id": "s"}, "wrong_type", "label: neither label nor skip is given"),
        (b'{"id": "s", "label": NaN}', "not_json", "label is not JSON"),
        (b'{"id": "s", "label": -Infinity}', "not_json", "label is not JSON"),
        (b'{"id": "s", "label": 1e400}', "wrong_type", "label: Number out of range"),
    ],
)
def test_in_regression_whatever_is_no_finite_number_is_refused_with_the_reason(body, reason, said):
    with pytest.raises(BadRecord, match=re.escape(said)) as caught:
        number(body)
    assert caught.value.reason == reason


def test_label_studio_s_numbers_are_labels_in_regression_only():
    task = json.loads(encode_request(NUMBER_REQUEST))
    assert task["predictions"][0]["result"][0] == {
        "from_name": "label", "to_name": "features", "type": "number", "value": {"number": -2.5},
    }  # fmt: skip
    body = {"annotation": {"result": [{"value": {"number": 7.25}}]}, "task": task}
    assert number(body) == Answer("s-123", 7.25, request_id="3-91823")
    with pytest.raises(BadRecord, match="no choice"):
        answer(body)
    for value in ({"choices": ["7"]}, {"number": "7"}, {"number": True}, {"number": 1e300}):
        with pytest.raises(BadRecord):
            number({**body, "annotation": {"result": [{"value": value}]}})
    assert number({**body, "annotation": {"result": [], "was_cancelled": True}}).skip


def test_a_request_shows_a_regressor_s_prediction_and_is_read_back_the_same():
    assert decode_request(Record(encode_request(NUMBER_REQUEST))) == NUMBER_REQUEST
    nothing = replace(NUMBER_REQUEST, model=Shown("default", 0))
    assert json.loads(encode_request(nothing))["predictions"] == []


def test_a_ledger_from_before_there_were_tasks_is_one_of_classification():
    old = Genesis("id", "samples", {0: 5}, "default", ["river.tree.X"], None, "margin", 1, timestamp(0))
    value = json.loads(encode(old))
    del value["task"]
    assert decode_ledger(Record(json.dumps(value).encode())) == old
    assert old.task == "classification"


def test_a_ledger_from_before_cooperative_learning_is_one_without():
    old = Genesis("id", "samples", {0: 5}, "default", ["river.tree.X"], None, "margin", 1, timestamp(0))
    value = json.loads(encode(old))
    del value["cooperative"]
    assert decode_ledger(Record(json.dumps(value).encode())) == old
    assert not old.cooperative


def test_a_skip():
    assert answer({"id": "s", "skip": True}) == Answer("s", skip=True)


def test_label_studio_payloads():
    result = [{"value": {"choices": ['"1"']}, "from_name": "label", "to_name": "features", "type": "choices"}]
    annotation = {
        "result": result,
        "was_cancelled": False,
        "completed_by": {"id": 3, "email": "ann@x"},
        "updated_at": "t",
    }
    task = json.loads(encode_request(REQUEST))
    hook = answer({"action": "ANNOTATION_CREATED", "annotation": annotation, "task": task})
    assert hook == Answer("s-123", "1", request_id="3-91823", annotator="ann@x", labeled_at="t")
    assert answer({**task, "annotations": [annotation]}) == hook
    skipped = answer({"annotation": {**annotation, "result": [], "was_cancelled": True}, "task": task})
    assert skipped.skip
    assert skipped.label is None
    assert label_of("1") == 1


@pytest.mark.parametrize(
    "result",
    [5, "x", None, [3], [{"value": {"choices": ['"\\ud800"']}}], [{"value": {"choices": ["a" * 2000]}}]],
)
def test_odd_annotations_are_bad_records(result):
    with pytest.raises(BadRecord):
        answer({"annotation": {"result": result}, "task": {"meta": {"id": "s-1"}}})


@pytest.mark.parametrize(
    "change", [("inclusion_probability", 1e-200), ("inclusion_probability", 0), ("expected_correct", 1e200)]
)
def test_requests_with_absurd_numbers_are_bad_records(change):
    task = json.loads(encode_request(REQUEST))
    task["meta"]["query"][change[0]] = change[1]
    with pytest.raises(BadRecord):
        decode_request(Record(json.dumps(task).encode()))


@pytest.mark.parametrize(
    "change",
    [
        {"samples": -5},
        {"samples": 10**9},
        {"sum_p": 1e300},
        {"requests": 90},
        {"answered": 86},
        {"answered": -1},
    ],
)
def test_tallies_with_absurd_numbers_are_bad_records(change):
    tally = json.loads(encode(Tally(1, 5, 90, timestamp(0), timestamp(1), Sums(85))))
    tally["sums"] |= change
    with pytest.raises(BadRecord):
        decode_report(Record(json.dumps(tally).encode()))
    with pytest.raises(BadRecord):
        decode_report(Record(encode(Tally(1, 0, 10**16, timestamp(0), timestamp(1), Sums(85)))))


# --- reports and ledger ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        Genesis(
            "id",
            "samples",
            {0: 5, 11: 0},
            "default",
            [{"river.tree.X": {"a": 1}}],
            ["a", 1, True],
            "margin",
            1,
            timestamp(0),
        ),
        Budget(0.05, None, 7, None),
        Grant(3, "cap", 1, 5, timestamp(0), timestamp(30_000), 0.25),
    ],
)
def test_ledger_records_are_read_back_the_same_and_begin_with_their_kind(record):
    value = encode(record)
    assert value.startswith(b'{"kind":"%s","schema":"stream-al/' % record.kind.encode())
    back = decode_ledger(Record(value))
    assert back == record
    if isinstance(record, Genesis):
        assert [type(c) for c in back.classes] == [str, int, bool]


def test_reports_are_read_back_the_same():
    tally = Tally(
        1,
        5,
        90,
        timestamp(0),
        timestamp(1),
        Sums(85, predicted={"a": 3}),
        {7: Spent(2, closed=True)},
        state_lost=True,
    )
    assert decode_report(Record(encode(tally))) == tally
    with pytest.raises(BadRecord):
        decode_report(Record(encode(Budget())))


# --- dead letters ------------------------------------------------------------------------------------------------


def test_a_dead_letter_keeps_what_came():
    record = Record(b"\xff\x00", key=b"k", headers=(("trace", b"1"),))
    letter = dead_letter("dead-letters", record, BadRecord("not_json", "why"), "scorer")
    assert (letter.value, letter.key, letter.headers[0]) == (b"\xff\x00", b"k", ("trace", b"1"))
    assert dict(letter.headers[1:]) == {
        "stream_al.error.reason": b"not_json", "stream_al.error.message": b"why", "stream_al.error.topic": b"samples",
        "stream_al.error.partition": b"2", "stream_al.error.offset": b"7", "stream_al.error.stage": b"scorer",
    }  # fmt: skip


def test_a_huge_dead_letter_keeps_its_beginning():
    letter = dead_letter("d", Record(b"a" * 2_000_000), BadRecord("too_large", "why"), "scorer")
    assert len(letter.value) == 64 * 1024


def test_a_label_larger_than_a_sample_brings_no_features():
    """Written to the ledger, they would be four times as large."""
    record = Record(b'{"id":"u","label":"a","features":{"v":[%s]}}' % b",".join([b"9e15"] * 100))
    assert decode_answer(record, max_bytes=len(record.value)).features == {"v": [9e15] * 100}
    answer = decode_answer(record, max_bytes=len(record.value) - 1)
    assert (answer.label, answer.features) == ("a", None)


def test_messages_do_not_repeat_the_payload():
    with pytest.raises(BadRecord) as problem:
        sample(b'{"features": {"secret-name": "' + b"x" * 400)
    assert "xxxx" not in str(problem.value)
    assert len(str(problem.value)) <= 200


def test_numbers_survive():
    assert msgspec.json.decode(encode(Budget(0.1)))["fraction"] == 0.1


def test_the_request_for_the_worst_sample_fits_into_the_largest_message():
    """Numbers grow when they are written again: 1e15 becomes 1000000000000000.0."""
    value = b'{"id":"s","features":{"v":[%s]}}' % b",".join([b"9e15"] * 51_000)
    assert len(value) < USUAL_BYTES
    sample = SampleDecoder()(Record(value))
    query = Query("margin", "informative", 0.9, 0.8, 0.25, 0.01, 0.1, 0.6)
    shown = Shown("default", 0, {"x" * 200 + str(k): 0.05 for k in range(20)})
    request = LabelRequest(
        "s", "2-7", sample.features, sample.source, query, shown, timestamp(0), timestamp(1)
    )
    length = len(encode_request(request))
    assert 3 * len(value) < length < largest_message(len(value))


def test_an_answer_from_the_desk_comes_back_with_how_it_was_asked():
    answer = Answer(
        "s-1", "ok", False, "0-1", "ann", "2026-01-01T00:00:00.000Z", desk=AtDesk(True, "fraud", 2.5, True)
    )
    assert decode_answer(Record(answer_bytes([answer])[0])) == answer


def test_what_strangers_write_there_does_not_matter():
    assert decode_answer(Record(b'{"id": "a", "label": "ok", "desk": [1]}')).desk is None
