"""Samples decoded by the poll are those decoded one by one, and the model sees the same numbers."""

import json
import math
import sys
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_al.codec import BadRecord, SampleDecoder
from stream_al.codec_batch import PAUSE, BatchDecoder
from stream_al.core.batch import Numbers
from stream_al.core.model_features import FeatureTable

Record = namedtuple(
    "Record", "value topic partition offset timestamp key headers", defaults=("samples", 2, 7, 0, None, ())
)
COLUMNS = ("a", "b-1", "q \u00e9")
PLAIN_AND_LARGE = SampleDecoder()
PLAIN, FLAT = SampleDecoder(max_bytes=400), SampleDecoder("id", None, "at", max_bytes=400)
FORMS = {"plain": PLAIN, "flat": FLAT, "no time": SampleDecoder("id", None, None), "nested": SampleDecoder("x.id", None, "at")}  # fmt: skip


def table(columns=COLUMNS):
    known = FeatureTable()
    for i in range(3):
        known.learn({name: 1.5 * i + n for n, name in enumerate(columns)})
    return known


def records(values):
    return [Record(value, offset=3 * i + 5) for i, value in enumerate(values)]


def one_by_one(decode, batch):
    samples, bad = [], []
    for record in batch:
        try:
            samples.append(decode(record))
        except BadRecord as problem:
            bad.append((record, problem.reason, str(problem)))
    return samples, bad


def check(one, values, decode=None):
    """Decode both ways; return the samples decoded at once."""
    batch = records(values)
    known = table()
    samples, bad = one_by_one(one, batch)
    found, unreadable = (decode or BatchDecoder(one))(batch, known.numbers)
    assert [(record, problem.reason, str(problem)) for record, problem in unreadable] == bad
    assert list(found) == samples
    assert repr(list(found)) == repr(samples)  # 1, 1.0 and True are equal
    assert found.offsets.tolist() == [s.source.offset for s in samples]
    assert repr(list(found.features)) == repr([s.features for s in samples])
    if samples:
        seen = known.matrix(found.features)
        wanted = known.matrix([s.features for s in samples])
        assert np.array_equal(seen, wanted)
    return found


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.integers(-(10**310), 10**310)
anything = numbers | st.none() | st.booleans() | st.text(max_size=3) | st.lists(numbers, max_size=2) | st.just({"x": 1})  # fmt: skip
usual = st.fixed_dictionaries({name: st.floats(-1e3, 1e3) for name in COLUMNS})
features = usual | st.dictionaries(st.sampled_from([*COLUMNS, "id", "at", "new"]), anything, max_size=5)
edges = st.dictionaries(st.sampled_from(["id", "at", "timestamp", "x", "features"]), anything, max_size=4)


@st.composite
def value(draw):
    found = draw(features)
    if draw(st.booleans()):
        return json.dumps({**draw(edges), **found, **draw(edges)}).encode()
    return json.dumps(
        {**draw(edges), "features": found, **draw(edges)}, ensure_ascii=draw(st.booleans())
    ).encode()


@pytest.mark.parametrize("form", FORMS)
@given(values=st.lists(value() | st.none() | st.binary(max_size=9), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_what_is_accepted_does_not_depend_on_the_way(form, values):
    check(FORMS[form], values)


AWKWARD = [
    b'{"features":{"a":1,"a":2.5}}', b'{"features":{"a":1,"a":"x"}}', b'{"features":{"a":1e999}}',
    b'{"features":{"a":-1e300}}', b'{"features":{"a":1' + b"0" * 299 + b"}}", b'{"features":{"a":1' + b"0" * 300 + b"}}",
    b'{"features":{"a":18446744073709551616,"b-1":-9223372036854775809}}', b'{"features":{"a":9007199254740993}}',
    b'{"features":{"\\u0061":1,"q \\u00e9":2}}', b'{"features":{"a":-0.0}}', b'{"features":{"a":1e19,"b-1":-2e300}}',
    b'{"features":{"a":1},"features":{"b-1":1}}', b'{"features":{"a":1},"id":5,"timestamp":1.5}', b'{"features":{"a":1},"id":5.5}',
    b'{"features":{"a":1},"id":true}', b'{"features":{"a":1},"junk":{"deep":[[[1e999]]]}}', b'{"features":{"a":1},"junk":"\xff"}',
    b'{"features":{"a":1},"id":"\xff"}', b'{"features":{"a":1},"id":"\\ud800"}', b'{"features":{"a":1}} x', b'\xef\xbb\xbf{"features":{}}',
    b'{"features":{"a":NaN}}', b'{"features":{"a":true,"b-1":null}}', b'{"features":null}', b'{"features":[1,2,3]}', b"[]", b"", None,
    b'{"features":{"a":1.5}' + b" " * 400 + b"}", b'{"features":' + b"[" * 300 + b"]" * 300 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("spoiled", AWKWARD)
@pytest.mark.parametrize("flat", [False, True])
def test_awkward_samples_are_judged_alike(spoiled, flat):
    good = b'{"features":{"a":1.5,"b-1":2,"q \\u00e9":-3.25},"id":"s"}'
    form = PLAIN
    if flat:
        good, form = good.replace(b'"features":{', b"").replace(b"},", b","), FLAT
        spoiled = spoiled and spoiled.replace(b'"features":{', b"").replace(b"}", b"", 1)
    check(form, [spoiled])
    check(form, [good, spoiled, good])


def test_the_usual_sample_is_not_made_until_it_is_asked_for():
    made = []

    class Counted(SampleDecoder):
        def _sample(self, record, *parts):
            made.append(record.offset)
            return super()._sample(record, *parts)

    known = table()
    usual = json.dumps({"id": "s", "features": {name: 1.5 for name in COLUMNS}}).encode()
    holes = json.dumps({"id": "s", "features": {"a": 3, "b-1": None}}).encode()
    found, bad = BatchDecoder(Counted())(records([usual, holes, usual]), known.numbers)
    assert isinstance(found.features, Numbers)
    assert known.matrix(found.features).tolist() == [[1.5] * 3, [3, 2.5, 3.5], [1.5] * 3]
    assert (made, bad) == ([], [])
    assert found[1].features == {"a": 3, "b-1": None}
    assert [s.source.offset for s in found[1:]] == [8, 11]
    assert made == [8, 8, 11]


def test_where_most_do_not_fit_it_is_not_tried_again_for_a_while():
    decode = BatchDecoder(PLAIN)
    other = json.dumps({"features": {"a": 1.0, "new": 1.0}}).encode()
    usual = json.dumps({"features": {"a": 1.0}}).encode()
    assert isinstance(check(PLAIN, [other, other, usual], decode).features, Numbers)
    for _ in range(PAUSE):
        assert isinstance(check(PLAIN, [usual], decode).features, list)
    assert isinstance(check(PLAIN, [usual], decode).features, Numbers)


def test_a_matrix_is_for_numbers_alone():
    known = table()
    assert known.numbers == COLUMNS
    known.learn({"text": "x"})
    assert known.numbers == ()
    assert FeatureTable().numbers == ()
    assert FeatureTable(texts=["t"]).numbers == ()
    quoted = json.dumps({"features": {'"': 1.0}}).encode()  # a name that no field can have
    assert isinstance(BatchDecoder(PLAIN)(records([quoted]), ('"',))[0].features, list)
    numbered = table(("only",))
    batch = Numbers(("only",), np.array([[math.nan], [2.0]]), {}, lambda i: [{}, {"only": 2.0}][i])
    assert numbered.matrix(batch).tolist() == [[1.5], [2.0]]
    assert known.matrix(batch).shape == (2, 4)  # of other columns: by name


def deeper(frames, call):
    return deeper(frames - 1, call) if frames else call()


def test_what_could_be_read_is_read_again_on_a_longer_stack():
    """A sample is made later than it was judged, further down the stack."""
    fitting = []
    for depth in range(sys.getrecursionlimit(), 0, -1):
        value = b'{"features":{"a":1.5},"other":' + b"[" * depth + b"]" * depth + b"}"
        samples, bad = BatchDecoder(PLAIN_AND_LARGE)(records([value]), ("a",))
        if not bad:
            fitting.append(deeper(20, lambda samples=samples: samples[0].features))
        if len(fitting) == 3:
            break
    assert fitting == [{"a": 1.5}] * 3
