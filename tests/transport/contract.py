"""What every transport must do: one suite for the embedded log and for Kafka.

Mix `TransportContract` into a test class and provide three fixtures:

``make_broker``
    A callable that returns a connected `Broker` to the same log each time; closed at teardown.
``topic_name``
    A callable that makes a name out of a prefix which no other test uses (topics and groups).
``session_s``
    Seconds until a member that no longer polls is expired in this environment.

Nothing here assumes that a rebalance is immediate, that offsets have no gaps, or that a group gets on while one
of its living members is not polled: every wait is `poll_until`, which polls all seats it is given.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from stream_al.transport.port import (
    Broker,
    Fenced,
    Output,
    Polled,
    Position,
    PositionGone,
    Rebalanced,
    Record,
    TopicError,
    TopicPartition,
    TopicSpec,
)

MakeBroker = Callable[[], Broker]
TopicName = Callable[[str], str]

DEADLINE_S = 30.0
LONG_STATE = "".join(itertools.islice(itertools.cycle(map(chr, range(0x20, 0x7F))), 1_500))


class Seat:
    """A member together with the duties of its caller: seek what is assigned, drop what is revoked."""

    def __init__(self, broker: Broker, group: str, topic: str, writer: str, *, fetch: bool = True) -> None:
        self.member = broker.join(group, topic, writer=writer, fetch=fetch)
        self.member.fence_predecessors()
        self.fetch = fetch
        self.begins = broker.begins(topic)
        self.owned: dict[TopicPartition, Position | None] = {}
        self.unsaved: dict[TopicPartition, list[Record]] = {}
        self.ever_revoked: set[TopicPartition] = set()

    def poll(self, max_records: int = 500, timeout_s: float = 0.1) -> Polled:
        polled = self.member.poll(max_records, timeout_s)
        for tp in polled.revoked:
            self.owned.pop(tp, None)
            self.unsaved.pop(tp, None)
            self.ever_revoked.add(tp)
        for tp, position in polled.assigned.items():
            assert tp not in self.owned, f"{tp} was assigned twice without being revoked"
            assert tp not in polled.records, f"{tp} returned records before it was seeked"
            self.owned[tp] = position
            self._seek(tp, position)
        for tp, records in polled.records.items():
            assert tp in self.owned, f"{tp} returned records without being owned"
            self.unsaved.setdefault(tp, []).extend(records)
        assert self.member.assignment() == frozenset(self.owned)
        return polled

    def _seek(self, tp: TopicPartition, position: Position | None) -> None:
        if self.fetch:
            self.member.seek(tp, position.offset if position else self.begins.get(tp.partition, 0))

    def values(self) -> list[bytes | None]:
        return [record.value for records in self.unsaved.values() for record in records]

    def positions_read(self) -> dict[TopicPartition, Position]:
        return {tp: Position(records[-1].offset + 1, "s") for tp, records in self.unsaved.items() if records}

    def forward(self, topic: str) -> int:
        """Write what was read and not yet saved to ``topic``; on a refused commit begin again where the group is."""
        outputs = [Output(topic, value) for value in self.values()]
        positions = self.positions_read()
        self.unsaved.clear()
        if not outputs:
            return 0
        try:
            self.member.commit(outputs, positions)
        except Rebalanced:
            for tp, position in self.member.positions(self.member.assignment()).items():
                self._seek(tp, position)
            return 0
        return len(outputs)

    def close(self) -> None:
        self.member.close()


def poll_until(
    condition: Callable[[], object], *seats: Seat, within_s: float = DEADLINE_S, why: str = ""
) -> None:
    """Poll every seat in turn until ``condition`` holds; fail after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not reached within {within_s} s: {why or condition}"
        for seat in seats:
            seat.poll()


def everything(broker: Broker, topic: str, *, within_s: float = DEADLINE_S) -> dict[int, list[Record]]:
    """Read all partitions from their first retained offset to the end they have now."""
    ends = broker.ends(topic)
    found: dict[int, list[Record]] = {partition: [] for partition in ends}
    starts = {TopicPartition(topic, p): offset for p, offset in broker.begins(topic).items()}
    deadline = time.monotonic() + within_s
    with broker.reader(starts) as reader:
        while any(reader.position(TopicPartition(topic, p)) < end for p, end in ends.items()):
            assert time.monotonic() < deadline, f"{topic}: end {ends} not reached within {within_s} s"
            for tp, records in reader.poll(500, 0.2).items():
                found[tp.partition].extend(records)
    return found


def values(broker: Broker, topic: str) -> list[bytes | None]:
    return [record.value for records in everything(broker, topic).values() for record in records]


def feed(broker: Broker, topic: str, count: int, partitions: int = 1) -> list[bytes]:
    """Append ``count`` distinct values, dealt to the partitions in turn."""
    sent = [b"%d" % i for i in range(count)]
    broker.append([Output(topic, value, partition=i % partitions) for i, value in enumerate(sent)])
    return sent


class TransportContract:
    """Test methods that hold for both transports."""

    # ----- topics

    def test_a_topic_that_nobody_created_has_no_partitions(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        assert make_broker().partitions(topic_name("nowhere")) == 0

    def test_ensure_creates_a_topic_and_is_content_with_it_later(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic = topic_name("created")
        spec = TopicSpec(topic, 3, {"retention.ms": 3_600_000})
        make_broker().ensure([spec], create=True)
        later = make_broker()
        assert later.partitions(topic) == 3
        later.ensure([spec], create=False)
        later.ensure([spec], create=True)
        assert later.begins(topic) == {0: 0, 1: 0, 2: 0}
        assert later.ends(topic) == {0: 0, 1: 0, 2: 0}
        assert later.ends(topic, committed=False) == {0: 0, 1: 0, 2: 0}

    def test_a_missing_topic_is_named_when_it_may_not_be_created(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic = topic_name("missing")
        with pytest.raises(TopicError, match=topic) as failure:
            make_broker().ensure([TopicSpec(topic, 2)], create=False)
        assert_tells_what_to_do(failure.value)

    def test_every_missing_topic_is_named_at_once(self, make_broker: MakeBroker, topic_name: TopicName):
        one, two = topic_name("missing-one"), topic_name("missing-two")
        with pytest.raises(TopicError) as failure:
            make_broker().ensure([TopicSpec(one, 1), TopicSpec(two, 1)], create=False)
        assert one in str(failure.value)
        assert two in str(failure.value)

    @pytest.mark.parametrize(
        ("have", "want", "accepted"),
        [
            (3_600_000, 3_600_000, True),
            (3_600_000, 1_800_000, True),
            (3_600_000, 7_200_000, False),
            (3_600_000, -1, False),
            (-1, 7_200_000, True),
            (-1, -1, True),
        ],
    )
    def test_retention_is_a_minimum_and_minus_one_is_unlimited(
        self, make_broker: MakeBroker, topic_name: TopicName, have: int, want: int, accepted: bool
    ):
        topic, broker = topic_name("retention"), make_broker()
        broker.ensure([TopicSpec(topic, 1, {"retention.ms": have})], create=True)
        if accepted:
            broker.ensure([TopicSpec(topic, 1, {"retention.ms": want})], create=True)
            return
        with pytest.raises(TopicError, match=r"retention\.ms") as failure:
            broker.ensure([TopicSpec(topic, 1, {"retention.ms": want})], create=True)
        assert topic in str(failure.value)
        assert_tells_what_to_do(failure.value)

    def test_fewer_partitions_are_fine_unless_the_number_is_exact(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, broker = topic_name("few"), make_broker()
        broker.ensure([TopicSpec(topic, 2)], create=True)
        broker.ensure([TopicSpec(topic, 4)], create=True)
        assert broker.partitions(topic) == 2
        with pytest.raises(TopicError, match=topic):
            broker.ensure([TopicSpec(topic, 1, exact_partitions=True)], create=True)

    def test_a_log_that_keeps_the_state_of_a_position_passes_the_probe(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        broker, group = make_broker(), topic_name("probed")
        broker.probe(group)
        broker.probe(group)

    # ----- records

    def test_records_come_back_as_they_were_written(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("round-trip"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        outputs = [
            Output(topic, b'{"a": 1}', b"k1"),
            Output(topic, None, b"tombstone", headers=(("stream_al.request_id", b"3-91823"),)),
            Output(topic, b"", b""),
            Output(topic, b"no key"),
            Output(topic, b"\xff\xfe\x00 not UTF-8 \x80", b"\x00\xff\xc3\x28"),
            Output(
                topic, b"two", b"k2", 0, (("same", b"1"), ("same", b"\xff\x00"), ("empty", b""), ("ä", b"x"))
            ),
        ]
        before_ms = int(time.time() * 1000)
        broker.append(outputs)
        found = everything(make_broker(), topic)[0]
        assert [(r.key, r.value, tuple(map(tuple, r.headers))) for r in found] == [
            (o.key, o.value, o.headers) for o in outputs
        ]
        assert all((r.topic, r.partition) == (topic, 0) for r in found)
        assert all(abs(r.timestamp - before_ms) < 60_000 for r in found)

    def test_a_partition_keeps_the_order_of_writing(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("order"), make_broker()
        broker.ensure([TopicSpec(topic, 3)], create=True)
        sent = [[b"%d-%d" % (batch, i) for i in range(50)] for batch in range(6)]
        for batch, batch_values in enumerate(sent):
            broker.append([Output(topic, value, partition=batch % 3) for value in batch_values])
        found = everything(broker, topic)
        for partition in range(3):
            assert [r.value for r in found[partition]] == sent[partition] + sent[partition + 3]
            offsets = [r.offset for r in found[partition]]
            assert offsets == sorted(set(offsets))

    def test_a_key_always_goes_to_the_same_partition(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("keys"), make_broker()
        broker.ensure([TopicSpec(topic, 4)], create=True)
        for writer in (broker, make_broker()):
            writer.append([Output(topic, b"v", b"key-%d" % (i % 40)) for i in range(80)])
        homes: dict[bytes | None, set[int]] = {}
        for partition, records in everything(broker, topic).items():
            for record in records:
                homes.setdefault(record.key, set()).add(partition)
        assert len(homes) == 40
        assert all(len(partitions) == 1 for partitions in homes.values())
        assert len(set.union(*homes.values())) == 4

    def test_a_named_partition_outranks_the_key(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("named"), make_broker()
        broker.ensure([TopicSpec(topic, 3)], create=True)
        broker.append([Output(topic, b"%d" % p, b"one key", p) for p in range(3)])
        assert {p: [r.value for r in records] for p, records in everything(broker, topic).items()} == {
            0: [b"0"],
            1: [b"1"],
            2: [b"2"],
        }

    def test_a_value_of_900_kB_comes_back(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("large"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        value = os.urandom(900_000)
        broker.append([Output(topic, value, b"k"), Output(topic, b"after")])
        assert values(broker, topic) == [value, b"after"]

    # ----- readers

    def test_a_reader_goes_where_it_is_sent(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("seek"), make_broker()
        broker.ensure([TopicSpec(topic, 2)], create=True)
        feed(broker, topic, 40, partitions=2)
        zero, one = TopicPartition(topic, 0), TopicPartition(topic, 1)
        offsets = [r.offset for r in everything(broker, topic)[0]]
        with broker.reader({zero: offsets[15]}) as reader:
            assert reader.position(zero) == offsets[15]
            assert [r.value for r in read(reader, zero, 5)] == [b"30", b"32", b"34", b"36", b"38"]
            reader.seek({one: 0})
            assert len(read(reader, one, 20)) == 20
            assert reader.position(zero) == broker.ends(topic)[0]
            reader.seek({zero: offsets[0]})
            assert len(read(reader, zero, 20)) == 20
            assert reader.position(one) == broker.ends(topic)[1]

    def test_a_reader_returns_no_more_than_it_was_asked_for(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, broker = topic_name("few-at-once"), make_broker()
        broker.ensure([TopicSpec(topic, 2)], create=True)
        sent = feed(broker, topic, 30, partitions=2)
        found: list[bytes | None] = []
        deadline = time.monotonic() + DEADLINE_S
        with broker.reader({TopicPartition(topic, p): 0 for p in range(2)}) as reader:
            while len(found) < 30:
                assert time.monotonic() < deadline
                batch = [r.value for records in reader.poll(7, 0.2).values() for r in records]
                assert len(batch) <= 7
                found += batch
        assert sorted(map(int, found)) == list(map(int, sent))

    def test_a_reader_at_the_end_returns_nothing_and_then_what_is_new(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, broker = topic_name("tail"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        feed(broker, topic, 3)
        tp = TopicPartition(topic, 0)
        with make_broker().reader({tp: broker.ends(topic)[0]}) as reader:
            assert reader.poll(10, 0.1) == {}
            assert reader.position(tp) == broker.ends(topic)[0]
            broker.append([Output(topic, b"new")])
            assert [r.value for r in read(reader, tp, 1)] == [b"new"]
            assert reader.position(tp) == broker.ends(topic)[0]
            assert reader.poll(10, 0.1) == {}
            reader.seek({tp: 0})
            assert len(read(reader, tp, 4)) == 4

    def test_a_reader_beyond_the_end_is_told_so(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("beyond"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        feed(broker, topic, 3)
        with broker.reader({TopicPartition(topic, 0): 1_000}) as reader:
            with pytest.raises(PositionGone, match=topic) as failure:
                read(reader, TopicPartition(topic, 0), 1)
            assert "1000" in str(failure.value)

    def test_a_member_beyond_the_end_is_told_so(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, group, broker = topic_name("member-beyond"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        feed(broker, topic, 3)
        seat = Seat(broker, group, topic, topic_name("w"))
        poll_until(lambda: seat.owned, seat)
        seat.member.seek(TopicPartition(topic, 0), 1_000)
        with pytest.raises(PositionGone, match=topic):
            poll_until(lambda: False, seat)
        seat.close()

    # ----- commits

    def test_before_the_first_commit_there_is_no_position(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, group, broker = topic_name("first"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 2)], create=True)
        tps = [TopicPartition(topic, p) for p in range(2)]
        seat = Seat(broker, group, topic, topic_name("w"))
        poll_until(lambda: len(seat.owned) == 2, seat)
        assert seat.owned == dict.fromkeys(tps)
        assert seat.member.positions(tps) == dict.fromkeys(tps)
        assert make_broker().positions(group, tps) == dict.fromkeys(tps)
        seat.close()

    def test_outputs_and_positions_become_visible_together(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, first, second = topic_name("in"), topic_name("out-a"), topic_name("out-b")
        group, broker = topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1), TopicSpec(first, 2), TopicSpec(second, 1)], create=True)
        feed(broker, topic, 5)
        seat = Seat(broker, group, topic, topic_name("w"))
        poll_until(lambda: len(seat.values()) == 5, seat)
        positions = seat.positions_read()
        written = seat.member.commit(
            [
                Output(first, b"a0", b"k", 0, (("h", b"1"),)),
                Output(first, b"a1", b"k", 1),
                Output(second, b"b", b"k", 0),
                Output(second, b"c", b"k", 0),
            ],
            positions,
        )
        other = make_broker()
        found = {topic: everything(other, topic) for topic in (first, second)}
        assert [r.value for r in found[first][0]] == [b"a0"]
        assert tuple(map(tuple, found[first][0][0].headers)) == (("h", b"1"),)
        assert [r.value for r in found[first][1]] == [b"a1"]
        assert [r.value for r in found[second][0]] == [b"b", b"c"]
        assert written == {
            TopicPartition(first, 0): found[first][0][-1].offset + 1,
            TopicPartition(first, 1): found[first][1][-1].offset + 1,
            TopicPartition(second, 0): found[second][0][-1].offset + 1,
        }
        assert other.positions(group, positions) == positions
        seat.close()

    def test_a_commit_may_lack_outputs_or_positions(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, out, group, broker = topic_name("in"), topic_name("out"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1), TopicSpec(out, 1)], create=True)
        feed(broker, topic, 2)
        tp = TopicPartition(topic, 0)
        seat = Seat(broker, group, topic, topic_name("w"))
        poll_until(lambda: len(seat.values()) == 2, seat)
        assert seat.member.commit([], {}) == {}
        assert seat.member.commit([], {tp: Position(1, "only a position")}) == {}
        assert set(seat.member.commit([Output(out, b"only an output", partition=0)], {})) == {
            TopicPartition(out, 0)
        }
        assert broker.positions(group, [tp]) == {tp: Position(1, "only a position")}
        assert values(broker, out) == [b"only an output"]
        seat.close()

    def test_a_state_of_1500_ASCII_characters_travels_with_its_position(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, group, broker = topic_name("state"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        feed(broker, topic, 7)
        tp = TopicPartition(topic, 0)
        assert len(LONG_STATE) == 1_500
        seat = Seat(broker, group, topic, topic_name("w"))
        poll_until(lambda: seat.owned, seat)
        seat.member.commit([], {tp: Position(3, LONG_STATE)})
        seat.member.commit([], {tp: Position(4, LONG_STATE[::-1])})
        expected = {tp: Position(4, LONG_STATE[::-1])}
        assert seat.member.positions([tp]) == expected
        assert make_broker().positions(group, [tp]) == expected
        seat.close()
        successor = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(successor.values()) == 3, successor)
        assert successor.owned == expected
        assert successor.values() == [b"4", b"5", b"6"]
        successor.close()

    def test_work_that_was_not_committed_comes_again(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, out, group, broker = topic_name("again"), topic_name("out"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 2), TopicSpec(out, 1)], create=True)
        feed(broker, topic, 20, partitions=2)
        tp, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
        seat = Seat(broker, group, topic, topic_name("w"))
        poll_until(lambda: len(seat.values()) == 20, seat)
        fourth = seat.unsaved[tp][3]
        seat.member.commit([Output(out, b"four of partition 0")], {tp: Position(fourth.offset + 1, "four")})
        seat.close()
        successor = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(successor.values()) == 16, successor)
        assert successor.owned == {tp: Position(fourth.offset + 1, "four"), other: None}
        assert [r.value for r in successor.unsaved[tp]] == [b"%d" % i for i in range(8, 20, 2)]
        assert [r.value for r in successor.unsaved[other]] == [b"%d" % i for i in range(1, 20, 2)]
        successor.close()

    def test_positions_of_other_topics_may_be_committed_by_an_owner(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        ledger, labels, group, broker = (
            topic_name("ledger"),
            topic_name("labels"),
            topic_name("g"),
            make_broker(),
        )
        broker.ensure([TopicSpec(ledger, 1), TopicSpec(labels, 2)], create=True)
        feed(broker, labels, 6, partitions=2)
        seat = Seat(broker, group, ledger, topic_name("w"), fetch=False)
        poll_until(lambda: seat.owned, seat)
        positions = {
            TopicPartition(labels, 0): Position(2, "two"),
            TopicPartition(labels, 1): Position(3),
        }
        seat.member.commit([Output(ledger, b"record")], positions)
        assert seat.member.positions(positions) == positions
        assert make_broker().positions(group, positions) == positions
        assert seat.member.positions([TopicPartition(ledger, 0)]) == {TopicPartition(ledger, 0): None}
        seat.close()

    def test_groups_know_nothing_of_each_other(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, broker = topic_name("shared"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        feed(broker, topic, 4)
        tp = TopicPartition(topic, 0)
        groups = [topic_name("g1"), topic_name("g2")]
        seats = [Seat(make_broker(), group, topic, topic_name("w")) for group in groups]
        poll_until(lambda: all(len(seat.values()) == 4 for seat in seats), *seats)
        seats[0].member.commit([], {tp: Position(4)})
        assert broker.positions(groups[0], [tp]) == {tp: Position(4)}
        assert broker.positions(groups[1], [tp]) == {tp: None}
        for seat in seats:
            seat.close()

    # ----- groups

    def test_a_member_that_does_not_fetch_owns_and_returns_nothing(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, group, broker = topic_name("own-only"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        feed(broker, topic, 5)
        seat = Seat(broker, group, topic, topic_name("w"), fetch=False)
        poll_until(lambda: seat.owned, seat)
        assert all(seat.poll().records == {} for _ in range(5))
        assert seat.member.assignment() == {TopicPartition(topic, 0)}
        seat.close()

    def test_polling_for_no_records_only_renews(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, group, broker = topic_name("renew"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1)], create=True)
        sent = feed(broker, topic, 5)
        seat = Seat(broker, group, topic, topic_name("w"))
        poll_until(lambda: seat.owned, seat)
        start = len(seat.values())
        assert all(seat.poll(max_records=0).records == {} for _ in range(5))
        assert len(seat.values()) == start
        poll_until(lambda: len(seat.values()) == 5, seat)
        assert seat.values() == sent
        seat.close()

    def test_two_members_divide_the_partitions(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, group, broker = topic_name("divide"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 4)], create=True)
        first = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(first.owned) == 4, first)
        second = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(first.owned) == len(second.owned) == 2, first, second)
        assert first.owned.keys() | second.owned.keys() == {TopicPartition(topic, p) for p in range(4)}
        assert first.ever_revoked >= set(second.owned)
        sent = feed(broker, topic, 40, partitions=4)
        poll_until(lambda: len(first.values()) + len(second.values()) == 40, first, second)
        assert sorted(first.values() + second.values()) == sorted(sent)
        first.close()
        second.close()

    def test_a_member_that_closes_hands_over(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, group, broker = topic_name("hand-over"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 2)], create=True)
        feed(broker, topic, 10, partitions=2)
        leaving = Seat(make_broker(), group, topic, topic_name("w"))
        staying = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(leaving.owned) == len(staying.owned) == 1, leaving, staying)
        (tp,) = leaving.owned
        poll_until(lambda: len(leaving.values()) == 5, leaving, staying)
        third = leaving.unsaved[tp][2]
        commit_when_calm(leaving, {tp: Position(third.offset + 1, "three")}, staying)
        leaving.close()
        poll_until(lambda: len(staying.owned) == 2, staying)
        assert staying.owned[tp] == Position(third.offset + 1, "three")
        poll_until(lambda: len(staying.unsaved.get(tp, [])) == 2, staying)
        staying.close()

    @pytest.mark.fault(
        "members that join, sleep and leave", "records forwarded once meanwhile: the contract of both brokers"
    )
    def test_every_record_is_forwarded_once_while_members_come_and_go(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, out, group, broker = topic_name("in"), topic_name("out"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 4), TopicSpec(out, 2)], create=True)
        sent = feed(broker, topic, 400, partitions=4)
        seats = [Seat(make_broker(), group, topic, topic_name("w"))]
        forwarded, turns = 0, 0
        deadline = time.monotonic() + 2 * DEADLINE_S
        while forwarded < len(sent):
            assert time.monotonic() < deadline, f"{forwarded} of {len(sent)} after {turns} turns"
            for seat in seats:
                seat.poll(max_records=9)
                if turns % 3 != 1:  # otherwise more is read before the next commit
                    forwarded += seat.forward(out)
            turns += 1
            if turns == 4:
                seats.append(Seat(make_broker(), group, topic, topic_name("w")))
            if turns == 12:
                seats.pop(0).close()
        assert sorted(values(broker, out)) == sorted(sent)
        ends = broker.ends(topic)
        tps = [TopicPartition(topic, p) for p in ends]
        assert all(position is not None for position in broker.positions(group, tps).values())
        for seat in seats:
            seat.close()

    @pytest.mark.fault(
        "a commit with a right that is over",
        "zombies, members that return, writers taken over: the contract of both brokers",
    )
    def test_a_zombie_writes_nothing(self, make_broker: MakeBroker, topic_name: TopicName, session_s: float):
        topic, out, group, broker = topic_name("in"), topic_name("out"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 2), TopicSpec(out, 1)], create=True)
        feed(broker, topic, 10, partitions=2)
        tps = [TopicPartition(topic, p) for p in range(2)]
        zombie = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(zombie.values()) == 10, zombie)
        zombie.member.commit([Output(out, b"while alive")], {tps[0]: Position(1, "alive")})
        heir = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(heir.owned) == 2, heir, within_s=DEADLINE_S + 2 * session_s)
        assert heir.owned == {tps[0]: Position(1, "alive"), tps[1]: None}
        heir_positions = {tp: Position(3, "heir") for tp in tps}
        commit_when_calm(heir, heir_positions, outputs=[Output(out, b"from the heir")])
        with pytest.raises((Rebalanced, Fenced)):
            zombie.member.commit([Output(out, b"from the dead")], {tp: Position(5, "zombie") for tp in tps})
        assert values(broker, out) == [b"while alive", b"from the heir"]
        assert broker.positions(group, tps) == heir_positions
        commit_when_calm(heir, {tps[1]: Position(4, "heir")}, outputs=[Output(out, b"and on")])
        assert values(broker, out) == [b"while alive", b"from the heir", b"and on"]
        heir.close()
        zombie.close()

    @pytest.mark.fault(
        "a commit with a right that is over",
        "zombies, members that return, writers taken over: the contract of both brokers",
    )
    def test_an_expired_member_that_returns_is_told_what_it_lost(
        self, make_broker: MakeBroker, topic_name: TopicName, session_s: float
    ):
        topic, group, broker = topic_name("returns"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 2)], create=True)
        tps = {TopicPartition(topic, p) for p in range(2)}
        sleeper = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(sleeper.owned) == 2, sleeper)
        heir = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: len(heir.owned) == 2, heir, within_s=DEADLINE_S + 2 * session_s)
        poll_until(lambda: len(sleeper.owned) == len(heir.owned) == 1, sleeper, heir)
        assert sleeper.ever_revoked == tps
        assert sleeper.owned.keys() | heir.owned.keys() == tps
        sleeper.close()
        heir.close()

    @pytest.mark.fault(
        "a commit with a right that is over",
        "zombies, members that return, writers taken over: the contract of both brokers",
    )
    def test_the_right_to_write_passes_to_the_last_who_took_it(
        self, make_broker: MakeBroker, topic_name: TopicName
    ):
        topic, out, group, broker = topic_name("in"), topic_name("out"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1), TopicSpec(out, 1)], create=True)
        feed(broker, topic, 4)
        tp, writer = TopicPartition(topic, 0), topic_name("w")
        old = Seat(make_broker(), group, topic, writer)
        poll_until(lambda: len(old.values()) == 4, old)
        old.member.commit([Output(out, b"old")], {tp: Position(1, "old")})
        new = make_broker().join(group, topic, writer=writer)
        new.fence_predecessors()
        with pytest.raises(Fenced):
            old.member.commit([Output(out, b"too late")], {tp: Position(2, "too late")})
        assert values(broker, out) == [b"old"]
        assert broker.positions(group, [tp]) == {tp: Position(1, "old")}
        old.close()
        new.close()

    def test_writers_of_other_names_are_not_fenced(self, make_broker: MakeBroker, topic_name: TopicName):
        topic, out, group, broker = topic_name("in"), topic_name("out"), topic_name("g"), make_broker()
        broker.ensure([TopicSpec(topic, 1), TopicSpec(out, 1)], create=True)
        owner = Seat(make_broker(), group, topic, topic_name("w"))
        poll_until(lambda: owner.owned, owner)
        bystander = make_broker().join(topic_name("g"), topic, writer=topic_name("w"))
        bystander.fence_predecessors()
        owner.member.commit([Output(out, b"still here")], {TopicPartition(topic, 0): Position(0)})
        assert values(broker, out) == [b"still here"]
        owner.close()
        bystander.close()


def assert_tells_what_to_do(error: TopicError) -> None:
    words = ("kafka-topics", "kafka-configs", "stream-al ", "broker.", "sqlite3 ")
    assert any(word in str(error) for word in words), f"neither a command nor a setting in: {error}"


def commit_when_calm(
    seat: Seat, positions: Mapping[TopicPartition, Position], *others: Seat, outputs: Sequence[Output] = ()
) -> None:
    """Commit for a seat that keeps its partitions, again after polls if the group was still moving."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            seat.member.commit(outputs, positions)
        except Rebalanced:
            assert time.monotonic() < deadline, "the group does not come to rest"
            for each in (seat, *others):
                each.poll(max_records=0)
        else:
            return


def read(reader, tp: TopicPartition, count: int) -> list[Record]:
    """Poll until ``count`` records of one partition are there."""
    found: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records of {tp} within {DEADLINE_S} s"
        found += reader.poll(500, 0.2).get(tp, [])
    return found
