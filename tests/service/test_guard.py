"""A mapping that fits nothing stops the service before the whole stream is dead letters; bad data alone does not."""

from __future__ import annotations

from collections import Counter

import pytest

from stream_al.config import ConfigError, load
from stream_al.service.guard import FIRST_RUN, WINDOW, Guard

pytestmark = pytest.mark.fault(
    "a mapping that fits no sample", "streams of unreadable samples: the service ends and says why"
)


def guard(*sets):
    return Guard(load(None, sets, environ={}))


def feed(guard, batches):
    """Return after how many records the guard stopped, or None; a batch is (records, unreadable ones)."""
    read = 0
    for records, bad in batches:
        read += records
        try:
            guard.on(records, Counter({"wrong_type": bad} if bad else {}), "samples-0@9: sample: x")
        except ConfigError:
            return read
    return None


def test_nothing_readable_from_the_start_stops_early():
    assert feed(guard(), [(1, 1)] * 2_000) == FIRST_RUN
    assert feed(guard(), [(2_048, 2_048)]) == 2_048


def test_one_readable_sample_waits_for_the_window():
    assert feed(guard(), [(1, 0)] + [(1, 1)] * 2_000) == WINDOW


@pytest.mark.parametrize(("bad", "stops"), [(0, False), (5, False), (6, True), (10, True)])
def test_the_share_is_that_of_the_last_thousand(bad, stops):
    good = [(10, 0)] * 1_000
    assert (feed(guard(), good + [(10, bad)] * 200) is not None) == stops
    assert feed(guard(), [(10, 0), (10, 9)] * 500) is None, "below one half"


def test_a_stretch_of_bad_records_shorter_than_the_share_passes():
    assert feed(guard(), [(1, 0)] * 5_000 + [(1, 1)] * 500 + [(1, 0)] * 1_000) is None
    assert feed(guard(), [(1, 0)] * 5_000 + [(1, 1)] * 501) == 5_501


@pytest.mark.parametrize("off", ["null", "1"])
def test_it_can_be_switched_off(off):
    assert feed(guard(f"samples.most_unreadable={off}"), [(100, 100)] * 100) is None


def test_a_higher_share_lets_more_pass():
    most = [(1, 0)] + [(1, 1)] * 9
    assert feed(guard("samples.most_unreadable=0.9"), most * 500) is None
    assert feed(guard("samples.most_unreadable=0.89"), most * 500) is not None


def test_the_message_says_what_where_and_what_to_do():
    strict = guard("samples.features=payload.values")
    with pytest.raises(ConfigError) as caught:
        strict.on(300, Counter(wrong_type=300), "samples-0@9: sample: payload.values is not an object")
    said = str(caught.value)
    assert "300 of the first 300 samples could not be read (wrong_type 300)" in said
    assert "samples-0@9" in said
    assert "samples.features: payload.values (--set)" in said
    assert "dead-letters replay" in said
    assert "samples.most_unreadable: null" in said
