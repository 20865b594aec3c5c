"""The transport contract on a real Kafka, and what only Kafka can get wrong."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, OffsetAndMetadata
from kafka import TopicPartition as KafkaPartition
from kafka.admin import MemberToRemove

from stream_al.transport import connect
from stream_al.transport.kafka import KafkaBroker
from stream_al.transport.port import (
    Output,
    Position,
    PositionGone,
    Rebalanced,
    TopicError,
    TopicPartition,
    TopicSpec,
    TransportError,
    Unavailable,
)
from tests.kafka.broker import KafkaNode
from tests.kafka.conftest import MAX_POLL_MS, SESSION_MS, Open, SettledBroker, confluent_kind
from tests.transport.contract import Seat, TransportContract, commit_when_calm, feed, poll_until, values


def generations(seat: Seat) -> tuple[int, int]:
    """Return the group's generation as a member's caller has seen it, and as kafka-python has."""
    return seat.member._group.generation_id, seat.member._feed.consumer.group_metadata().generation_id


@pytest.fixture(params=["kafka-python", "confluent"])
def make_broker(request, open_broker: Open, kafka_bootstrap: str) -> Callable[[], KafkaBroker]:
    """Both clients behind the port."""
    kind = confluent_kind() if request.param == "confluent" else SettledBroker
    return lambda: open_broker(kafka_bootstrap, kind)


@pytest.fixture
def inner_broker(open_broker: Open, kafka_bootstrap: str) -> Callable[[], KafkaBroker]:
    """For what only kafka-python gets wrong, seen from its inside."""
    return lambda: open_broker(kafka_bootstrap, SettledBroker)


def with_stale_right(seat: Seat) -> None:
    """Let a member show a generation that is not the group's."""
    current = seat.member._group
    if isinstance(current, bytes):  # librdkafka's: a magic word of 7 bytes, then the generation
        number = int.from_bytes(current[7:11], sys.byteorder, signed=True) + 7
        seat.member._group = current[:7] + number.to_bytes(4, sys.byteorder, signed=True) + current[11:]
    else:
        seat.member._group = current._replace(generation_id=current.generation_id + 7)


@pytest.fixture
def plain_broker(open_broker: Open, kafka_bootstrap: str) -> Callable[[], KafkaBroker]:
    return lambda: open_broker(kafka_bootstrap)


@pytest.fixture
def session_s() -> float:
    return max(SESSION_MS, MAX_POLL_MS) / 1000


class TestContract(TransportContract):
    pass


class OtherClient:
    """A transactional producer of somebody else, for what the port does not allow."""

    def __init__(self, bootstrap: str, name: str, timeout_ms: int) -> None:
        self.producer = KafkaProducer(
            bootstrap_servers=bootstrap, transactional_id=name, transaction_timeout_ms=timeout_ms, acks="all"
        )
        self.producer.init_transactions()

    def begin(self, topic: str, value: bytes) -> None:
        self.producer.begin_transaction()
        self.producer.send(topic, value, partition=0).get(10)

    def die(self) -> None:
        """Go without a word, as a process that is killed."""
        self.producer._sender.force_close()
        self.producer._closed = True
        self.producer._unregister_cleanup()


@pytest.fixture
def other_client(kafka_bootstrap: str) -> Iterator[Callable[..., OtherClient]]:
    clients: list[OtherClient] = []

    def connect(name: str, timeout_ms: int = 20_000) -> OtherClient:
        clients.append(OtherClient(kafka_bootstrap, name, timeout_ms))
        return clients[-1]

    yield connect
    for client in clients:
        client.die()


@pytest.mark.fault("a transaction that is aborted or left open", "by another client, on Apache Kafka")
def test_what_was_aborted_is_never_seen_and_blocks_nobody_for_ever(plain_broker, topic_name, other_client):
    topic, broker = topic_name("aborted"), plain_broker()
    broker.ensure([TopicSpec(topic, 1)], create=True)
    feed(broker, topic, 2)
    tp = TopicPartition(topic, 0)
    other = other_client(topic_name("other"))
    other.begin(topic, b"open")
    broker.append([Output(topic, b"after")])
    assert broker.ends(topic) == {0: 2}, "the last stable offset stands before the open transaction"
    assert broker.ends(topic, committed=False) == {0: 4}
    with broker.reader({tp: 0}) as reader:
        seen = [r.value for _ in range(5) for records in reader.poll(10, 0.1).values() for r in records]
        assert seen == [b"0", b"1"]
        assert reader.position(tp) == 2
        other.producer.abort_transaction()
        poll_reader(reader, lambda: reader.position(tp) >= broker.ends(topic)[0] > 3, seen)
        assert seen == [b"0", b"1", b"after"]
        other.begin(topic, b"aborted last")
        other.producer.abort_transaction()
        poll_reader(reader, lambda: reader.position(tp) >= broker.ends(topic, committed=False)[0], seen)
        assert seen == [b"0", b"1", b"after"]
    assert values(broker, topic) == [b"0", b"1", b"after"]


@pytest.mark.fault("a transaction that is aborted or left open", "by another client, on Apache Kafka")
def test_a_transaction_left_open_by_a_dead_process_ends_by_itself(plain_broker, topic_name, other_client):
    topic, broker = topic_name("left-open"), plain_broker()
    broker.ensure([TopicSpec(topic, 1)], create=True)
    other = other_client(topic_name("other"), timeout_ms=1_000)
    other.begin(topic, b"never committed")
    other.die()
    broker.append([Output(topic, b"after")])
    deadline = time.monotonic() + 15
    while broker.ends(topic)[0] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert values(broker, topic) == [b"after"]


@pytest.mark.fault("a transaction that is aborted or left open", "by another client, on Apache Kafka")
def test_a_new_member_waits_for_the_open_commit_of_its_predecessor(make_broker, topic_name, other_client):
    """A stale position read here would forward records twice."""
    topic, group, broker = topic_name("zombie"), topic_name("g"), make_broker()
    broker.ensure([TopicSpec(topic, 1)], create=True)
    feed(broker, topic, 6)
    tp = TopicPartition(topic, 0)
    zombie = other_client(topic_name("w"))
    zombie.begin(topic, b"6, by the zombie")
    offsets = {KafkaPartition(topic, 0): OffsetAndMetadata(5, "by the zombie", -1)}
    zombie.producer.send_offsets_to_transaction(offsets, group)
    heir = Seat(broker, group, topic, topic_name("w"))
    poll_until(lambda: heir.member._unannounced == {tp}, heir, why="joined, not announced")
    heir.poll()
    assert heir.owned == {}
    zombie.producer.commit_transaction()
    poll_until(lambda: heir.owned, heir)
    assert heir.owned == {tp: Position(5, "by the zombie")}
    heir.close()


@pytest.mark.fault(
    "a commit with a right that is over",
    "generations that passed unseen, members put out, refused positions, on Apache Kafka",
)
def test_a_commit_shows_the_generation_its_caller_has_seen(inner_broker, topic_name):
    """A rebalance that ends between two polls may take partitions the caller still believes to own."""
    topic, group = topic_name("unseen"), topic_name("g")
    inner_broker().ensure([TopicSpec(topic, 2)], create=True)
    first, second = (Seat(inner_broker(), group, topic, topic_name("w")) for _ in range(2))
    poll_until(lambda: len(first.owned) == len(second.owned) == 1, first, second)
    # one may have heard of the generation that dealt the shares before the other has
    poll_until(
        lambda: len({*generations(first), *generations(second)}) == 1,
        first,
        second,
    )
    consumer, (seen, _) = first.member._feed.consumer, generations(first)
    consumer._coordinator.request_rejoin()
    first.poll()  # joins; the answer has to wait for the second member
    poll_until(lambda: consumer.group_metadata().generation_id != seen, second)
    assert first.member._group.generation_id == seen
    (tp,) = first.owned
    with pytest.raises(Rebalanced):
        first.member.commit([], {tp: Position(1, "unseen")})
    commit_when_calm(first, {tp: Position(1, "seen")}, second)
    first.close()
    second.close()


@pytest.mark.fault(
    "a commit with a right that is over",
    "generations that passed unseen, members put out, refused positions, on Apache Kafka",
)
def test_a_member_put_out_unawares_starts_again_from_the_groups_positions(
    inner_broker, topic_name, kafka_bootstrap
):
    """kafka-python keeps its partitions and goes on reading where it was, past what others did meanwhile."""
    topic, group, broker = topic_name("put-out"), topic_name("g"), inner_broker()
    broker.ensure([TopicSpec(topic, 2)], create=True)
    feed(broker, topic, 20, partitions=2)
    tps = [TopicPartition(topic, p) for p in range(2)]
    seat = Seat(broker, group, topic, topic_name("w"))
    poll_until(lambda: len(seat.values()) == 20, seat)
    seat.member._feed.consumer._coordinator.request_rejoin()  # before a heartbeat hears of it
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.remove_group_members(group, [MemberToRemove(member_id=seat.member._group.member_id)])
    admin.close()
    meanwhile = {tp: Position(7, "by another") for tp in tps}
    broker.positions(group, tps)
    broker._lookups[group].overwrite(meanwhile)
    poll_until(lambda: seat.ever_revoked == set(tps), seat)
    poll_until(lambda: len(seat.values()) == 6, seat)
    assert seat.owned == meanwhile
    seat.close()


@pytest.mark.fault(
    "a commit with a right that is over",
    "generations that passed unseen, members put out, refused positions, on Apache Kafka",
)
def test_positions_of_a_refused_commit_do_not_go_out_with_the_next_one(make_broker, topic_name):
    """kafka-python keeps them queued after an abort."""
    topic, group, broker = topic_name("refused"), topic_name("g"), make_broker()
    broker.ensure([TopicSpec(topic, 2)], create=True)
    tps = [TopicPartition(topic, p) for p in range(2)]
    seat = Seat(broker, group, topic, topic_name("w"))
    poll_until(lambda: len(seat.owned) == 2, seat)
    seat.member.commit([], {tps[1]: Position(1, "first")})
    with_stale_right(seat)
    with pytest.raises(Rebalanced):
        seat.member.commit([Output(topic, b"refused", partition=0)], {tps[1]: Position(2, "refused")})
    commit_when_calm(seat, {tps[0]: Position(3, "second")}, outputs=[Output(topic, b"kept", partition=0)])
    assert broker.positions(group, tps) == {tps[0]: Position(3, "second"), tps[1]: Position(1, "first")}
    assert values(broker, topic) == [b"kept"]
    seat.close()


@pytest.mark.fault(
    "a commit with a right that is over",
    "generations that passed unseen, members put out, refused positions, on Apache Kafka",
)
def test_outputs_without_positions_are_refused_to_a_stale_member_too(make_broker, topic_name):
    topic, out, group, broker = topic_name("in"), topic_name("out"), topic_name("g"), make_broker()
    broker.ensure([TopicSpec(topic, 1), TopicSpec(out, 1)], create=True)
    seat = Seat(broker, group, topic, topic_name("w"))
    with pytest.raises(Rebalanced):
        seat.member.commit([Output(out, b"before joining")], {})
    poll_until(lambda: seat.owned, seat)
    seat.member.commit([Output(out, b"one")], {})  # nothing is committed yet: a heartbeat is the question
    commit_when_calm(seat, {TopicPartition(topic, 0): Position(0, "s")})
    with_stale_right(seat)
    with pytest.raises(Rebalanced):
        seat.member.commit([Output(out, b"stale")], {})
    seat.member._committed.clear()
    with pytest.raises(Rebalanced):
        seat.member.commit([Output(out, b"stale")], {})
    assert values(broker, out) == [b"one"]
    seat.close()


def test_a_state_that_is_too_long_is_refused_before_the_broker_sees_it(make_broker, topic_name):
    topic, group, broker = topic_name("long"), topic_name("g"), make_broker()
    broker.ensure([TopicSpec(topic, 1)], create=True)
    tp = TopicPartition(topic, 0)
    seat = Seat(broker, group, topic, topic_name("w"))
    poll_until(lambda: seat.owned, seat)
    for state in ("x" * 1_501, "é"):
        with pytest.raises(ValueError, match="1500 ASCII"):
            seat.member.commit([], {tp: Position(1, state)})
    seat.member.commit([], {tp: Position(1, "~" * 1_500)})
    assert broker.positions(group, [tp]) == {tp: Position(1, "~" * 1_500)}
    seat.close()


@pytest.mark.fault("a record beyond the broker's limit", "on Apache Kafka: named, and poisons nothing")
def test_a_record_that_is_too_large_poisons_nothing(make_broker, topic_name):
    topic, group, broker = topic_name("huge"), topic_name("g"), make_broker()
    broker.ensure([TopicSpec(topic, 1)], create=True)
    tp = TopicPartition(topic, 0)
    seat = Seat(broker, group, topic, topic_name("w"))
    poll_until(lambda: seat.owned, seat)
    for size in (2_000_000, 6_000_000):  # too large for the topic, too large for the client
        huge = [Output(topic, b"small"), Output(topic, os.urandom(size))]
        with pytest.raises(TransportError, match=r"max\.message\.bytes") as failure:
            seat.member.commit(huge, {tp: Position(1)})
        assert not isinstance(failure.value, Unavailable)
        with pytest.raises(TransportError, match=r"max\.message\.bytes"):
            broker.append(huge[1:])
    commit_when_calm(seat, {tp: Position(2, "fine")}, outputs=[Output(topic, b"fine")])
    broker.append([Output(topic, b"appended")])
    assert values(broker, topic) == [b"fine", b"appended"]
    seat.close()


def test_a_record_that_fails_while_positions_are_sent_is_named(open_broker, kafka_bootstrap, topic_name):
    """librdkafka then says of the positions that the state is wrong; the delays below met that in a third of the cases."""
    topic, group, broker = (
        topic_name("meanwhile"),
        topic_name("g"),
        open_broker(kafka_bootstrap, confluent_kind()),
    )
    broker.ensure([TopicSpec(topic, 1)], create=True)
    seat = Seat(broker, group, topic, topic_name("w"))
    poll_until(lambda: seat.owned, seat)
    writer = seat.member._writer
    place = writer._place
    for delay in range(12):

        def later(*args: Any, delay: int = delay) -> None:
            time.sleep(0.0015 * delay)
            place(*args)

        writer._place = later
        with pytest.raises(TransportError, match=r"max\.message\.bytes"):
            seat.member.commit(
                [Output(topic, os.urandom(2_000_000))], {TopicPartition(topic, 0): Position(1)}
            )
    writer._place = place
    commit_when_calm(seat, {}, outputs=[Output(topic, b"fine")])
    assert values(broker, topic) == [b"fine"]
    seat.close()


@pytest.mark.fault(
    "records deleted before they were read", "a position that is not retained, on Apache Kafka"
)
def test_a_position_that_retention_deleted_is_gone(inner_broker, topic_name, kafka_bootstrap):
    topic, broker = topic_name("gone"), inner_broker()
    broker.ensure([TopicSpec(topic, 1)], create=True)
    feed(broker, topic, 10)
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.delete_records({KafkaPartition(topic, 0): 7})
    admin.close()
    assert broker.begins(topic) == {0: 7}
    with (
        broker.reader({TopicPartition(topic, 0): 3}) as reader,
        pytest.raises(PositionGone, match=r"@3.*7 to 10"),
    ):
        poll_reader(reader, lambda: False, [])


def test_processes_that_start_together_may_probe_together(inner_broker, topic_name):
    """They use one side group, and each deletes it in the end."""
    group, brokers = topic_name("g"), [inner_broker() for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        for _ in range(4):
            list(pool.map(lambda broker: broker.probe(group), brokers))


@pytest.mark.fault("topics configured wrongly", "on Apache Kafka: every one a command to run")
def test_every_wrong_setting_is_a_command_to_run(inner_broker, topic_name, kafka_bootstrap):
    one, two, three = topic_name("one"), topic_name("two"), topic_name("three")
    broker = inner_broker()
    broker.ensure([TopicSpec(one, 1, {"retention.ms": 60_000}), TopicSpec(two, 2)], create=True)
    wanted = [
        TopicSpec(one, 1, {"retention.ms": -1, "cleanup.policy": "compact,delete"}),
        TopicSpec(two, 3, exact_partitions=True),
    ]
    with pytest.raises(TopicError) as failure:
        broker.ensure(wanted, create=True)
    at = f"--bootstrap-server {kafka_bootstrap}"
    alter = f"kafka-configs.sh {at} --alter --entity-type topics --entity-name {one} --add-config"
    commands = [line.split("  #")[0] for line in str(failure.value).splitlines()[1:]]
    assert commands == [
        f"{alter} retention.ms=-1",
        f"{alter} cleanup.policy=[compact,delete]",
        f"kafka-topics.sh {at} --alter --topic {two} --partitions 3",
    ]
    with pytest.raises(TopicError) as failure:
        broker.ensure([TopicSpec(three, 2, {"retention.ms": 5})], create=False)
    command = f"kafka-topics.sh {at} --create --topic {three} --partitions 2 --config retention.ms=5"
    assert str(failure.value).splitlines()[1:] == [command]


def test_a_client_setting_nobody_knows_or_may_change_is_named(kafka_bootstrap):
    with pytest.raises(TopicError, match="sasl_mechanisn"):
        KafkaBroker(kafka_bootstrap, client={"sasl_mechanisn": "PLAIN"})
    with pytest.raises(TopicError, match="isolation_level"):
        KafkaBroker(kafka_bootstrap, client={"isolation_level": "read_uncommitted"})


def test_confluent_knows_the_same_names_of_settings_and_says_which_not(kafka_bootstrap):
    confluent_kind()
    with pytest.raises(TopicError, match="exclude_internal_topics has no counterpart"):
        connect(
            f"kafka://{kafka_bootstrap}", {"client": {"library": "confluent", "exclude_internal_topics": 1}}
        )
    client = {"library": "confluent", "ssl_check_hostname": False, "max_poll_interval_ms": 9_000}
    with connect(f"kafka://{kafka_bootstrap}", {"client": client}) as broker:
        assert broker.native == {
            "ssl.endpoint.identification.algorithm": "none",
            "max.poll.interval.ms": 9_000,
        }


def test_a_topic_that_does_not_exist_is_named_at_once(make_broker, topic_name):
    topic, broker = topic_name("nowhere"), make_broker()
    started = time.monotonic()
    for attempt in (
        lambda: broker.append([Output(topic, b"x")]),
        lambda: broker.reader({TopicPartition(topic, 0): 0}),
        lambda: broker.join(topic_name("g"), topic, writer="w"),
        lambda: broker.ends(topic),
    ):
        with pytest.raises(TopicError, match=topic):
            attempt()
    assert time.monotonic() - started < 5


@pytest.mark.fault("a broker that dies or is away", "an address where nobody is: said within seconds")
def test_a_broker_that_is_away_is_reported_within_seconds(open_broker):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(Unavailable, match=address):
            open_broker(address, request_timeout_s=2)
        assert time.monotonic() - started < 4


@pytest.mark.fault(
    "a broker that dies or is away", "Apache Kafka killed before and in the middle of a commit", tried=2
)
@pytest.mark.parametrize("library", ["kafka-python", "confluent"])
def test_a_killed_broker_loses_and_repeats_nothing(kafka_node: KafkaNode, open_broker, topic_name, library):
    """Forward records through two deaths of the broker: before a commit, and in the middle of one."""
    topic, out, group, writer = topic_name("in"), topic_name("out"), topic_name("g"), topic_name("w")
    kind = confluent_kind() if library == "confluent" else SettledBroker
    broker = open_broker(kafka_node.bootstrap, kind, transaction_timeout_ms=2_000, request_timeout_s=10)
    broker.ensure([TopicSpec(topic, 2), TopicSpec(out, 1)], create=True)
    sent = feed(broker, topic, 300, partitions=2)
    seat = Seat(broker, group, topic, writer)
    poll_until(lambda: seat.forward(out), seat)
    assert_settled(broker, group, topic, out)

    sent += feed(broker, topic, 10)
    poll_until(seat.values, seat)
    follower = broker.reader({TopicPartition(out, 0): 0})
    kafka_node.kill()
    started = time.monotonic()
    with pytest.raises(Unavailable, match=kafka_node.bootstrap):
        seat.forward(out)
    with pytest.raises(Unavailable, match=kafka_node.bootstrap):
        poll_reader(follower, lambda: False, [])
    with pytest.raises(Unavailable, match="join again"):
        seat.member.commit([Output(out, b"by a member that is done for")], {})
    follower.close()
    seat.close()
    assert time.monotonic() - started < 15
    kafka_node.start()

    seat = Seat(broker, group, topic, writer)
    poll_until(seat.values, seat)
    acknowledged = seat.member._writer._acknowledged

    def die_before_the_end(*args: Any) -> Any:
        written = acknowledged(*args)
        kafka_node.kill()
        return written

    seat.member._writer._acknowledged = die_before_the_end
    with pytest.raises(Unavailable, match="outcome unknown"):
        seat.forward(out)
    seat.close()
    kafka_node.start()

    seat = Seat(broker, group, topic, writer)
    deadline = time.monotonic() + 30
    while not done(broker, group, topic):
        assert time.monotonic() < deadline
        seat.poll(max_records=20)
        seat.forward(out)
    seat.close()
    assert sorted(values(broker, out)) == sorted(sent)


def assert_settled(broker: KafkaBroker, group: str, topic: str, out: str) -> None:
    """Wait until no commit waits for its markers.

    A single node that is killed in those milliseconds forgets them when it starts again (Kafka 4.3.1 takes the
    partitions for deleted while they have no leader yet), and the transaction hangs for ever.
    """
    broker.ends(out)
    broker.positions(group, [TopicPartition(topic, p) for p in range(broker.partitions(topic))])
    time.sleep(0.2)


def done(broker: KafkaBroker, group: str, topic: str) -> bool:
    ends = broker.ends(topic)
    found = broker.positions(group, [TopicPartition(topic, p) for p in ends])
    return all(at is not None and at.offset >= ends[tp.partition] for tp, at in found.items())


def poll_reader(reader, condition: Callable[[], object], seen: list[bytes | None]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        seen += [r.value for records in reader.poll(10, 0.1).values() for r in records]
