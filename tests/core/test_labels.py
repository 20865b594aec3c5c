"""Labels keep their type through their text form."""

import doctest

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_al.core import labels
from stream_al.core.labels import label_key, label_of

LABELS = st.one_of(st.booleans(), st.integers(), st.text(), st.integers().map(str), st.floats().map(str))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(labels).failed == 0


@given(LABELS)
@example("")
@example('"fraud"')
@example(" 1 ")
@example("null")
@example("NaN")
@example("[" * 100_000)
@example("9" * 10_000)
@example("\ud800")
def test_a_label_comes_back_with_its_type(label):
    back = label_of(label_key(label))
    assert back == label
    assert type(back) is type(label)


@given(LABELS, LABELS)
@example(1, True)
@example(1, "1")
@example("true", True)
def test_different_labels_have_different_keys(one, other):
    same = type(one) is type(other) and one == other
    assert (label_key(one) == label_key(other)) == same


@pytest.mark.parametrize("key", ["null", "1.5", "[1]", '{"a": 1}'])
def test_a_key_that_no_label_has_is_read_as_a_string(key):
    assert label_of(key) == key
