"""The embedded broker keeps the contract, alone and with other processes on the same file."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stream_al.transport.embedded import EmbeddedBroker, LogFileError
from stream_al.transport.embedded_file import LogFile
from stream_al.transport.port import (
    Fenced,
    Output,
    Position,
    PositionGone,
    Rebalanced,
    TopicError,
    TopicPartition,
    TopicSpec,
    Unavailable,
)
from tests.transport.contract import Seat, TransportContract, everything, feed, poll_until, read, values

SESSION_MS = 1_000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def topic_name():
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}-{next(numbers)}"


@pytest.fixture
def session_s():
    return SESSION_MS / 1000


class TestOnAFile(TransportContract):
    @pytest.fixture
    def make_broker(self, tmp_path):
        with contextlib.ExitStack() as brokers:
            path = str(tmp_path / "log.db")
            yield lambda: brokers.enter_context(EmbeddedBroker(path, session_timeout_ms=SESSION_MS))


class TestInMemory(TransportContract):
    @pytest.fixture
    def make_broker(self):
        with EmbeddedBroker(":memory:", session_timeout_ms=SESSION_MS) as broker:
            yield lambda: broker


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "log.db")


@pytest.fixture
def broker(path, clock):
    """A broker on a file whose time stands still unless the test moves it."""
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.ensure([TopicSpec("in", 2), TopicSpec("out", 1)], create=True)
        yield broker


@pytest.fixture
def other(broker, path, clock):
    """Another connection to the same file, as another process has it."""
    with EmbeddedBroker(path, clock=clock) as other:
        yield other


IN = [TopicPartition("in", p) for p in range(2)]


def seated(broker: EmbeddedBroker, group: str = "g", topic: str = "in", writer: str = "w") -> Seat:
    seat = Seat(broker, group, topic, writer)
    seat.poll(timeout_s=0)
    return seat


# ----- processes

FORWARDER = """
import sys
from stream_al.transport.embedded import EmbeddedBroker
from tests.transport.contract import Seat
path, writer, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
with EmbeddedBroker(path, session_timeout_ms=2_000) as broker:
    seat = Seat(broker, "g", "in", writer)
    while len(seat.owned) < 2:
        seat.poll(timeout_s=0.02)
    print("ready", flush=True)
    forwarded = 0
    while forwarded < limit and broker.ends("out")[0] < 40_000:
        seat.poll(max_records=300, timeout_s=0.02)
        forwarded += seat.forward("out")
    seat.close()
    print(forwarded)
"""

FEEDER = """
import sys
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Output
path, start = sys.argv[1], int(sys.argv[2])
with EmbeddedBroker(path) as broker:
    for batch in range(start, start + 20_000, 150):
        broker.append([Output("in", b"%d" % i, b"%d" % i) for i in range(batch, min(batch + 150, start + 20_000))])
"""

COMMITTER = """
import sys, time
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Output, Position, TopicPartition
path, way = sys.argv[1:]
tp = TopicPartition("in", 0)
with EmbeddedBroker(path) as broker:
    member = broker.join("g", "in", writer="w")
    member.fence_predecessors()
    position = member.poll(0, 0).assigned[tp]
    n = position.offset if position else 0
    for turn in range(1_000_000):
        outputs = [Output("out", b"%d" % i + b"x" * 500) for i in range(n, n + 1 + n % 40)]
        n += len(outputs)
        if way == "at once":
            member.commit(outputs, {tp: Position(n, str(n))})
        else:
            broker.append(outputs)
            time.sleep(0.05)
            member.commit([], {tp: Position(n, str(n))})
        if turn == 0:
            print("ready", flush=True)
"""


def start(script: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def kill_in_the_middle(path: str, way: str, after_s: float) -> None:
    process = start(COMMITTER, path, way)
    await_ready(process)
    time.sleep(after_s)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.fault(
    "processes that write at once",
    "several processes on one embedded log, without loss or repetition",
)
def test_processes_feed_and_forward_at_once_without_loss_or_repetition(path):
    with EmbeddedBroker(path) as broker:
        broker.ensure([TopicSpec("in", 4), TopicSpec("out", 1)], create=True)
        forwarders = [
            start(FORWARDER, path, "to the end", 1_000_000),
            start(FORWARDER, path, "not for long", 3_000),
        ]
        for process in forwarders:
            await_ready(process)
        feeders = [start(FEEDER, path, first) for first in (0, 20_000)]
        printed = [process.communicate(timeout=60)[0] for process in forwarders + feeders]
        assert [process.returncode for process in forwarders + feeders] == [0, 0, 0, 0]
        assert sorted(map(int, values(broker, "out"))) == list(range(40_000))
        forwarded = [int(each) for each in printed[:2]]
        assert sum(forwarded) == 40_000
        assert all(each >= 3_000 for each in forwarded)


@pytest.mark.fault(
    "a writer killed between its writes",
    "processes killed while they commit to the embedded log",
)
def test_a_killed_writer_leaves_outputs_and_position_consistent(path):
    drawn = random.Random(7)
    with EmbeddedBroker(path) as broker:
        broker.ensure([TopicSpec("in", 1), TopicSpec("out", 1)], create=True)
        reached = 0
        for _ in range(6):
            kill_in_the_middle(path, "at once", drawn.uniform(0.02, 0.15))
            position = broker.positions("g", IN[:1])[IN[0]]
            assert position is not None
            assert position.state == str(position.offset)
            written = [int(value.rstrip(b"x")) for value in values(broker, "out")]
            assert written == list(range(position.offset))
            assert position.offset > reached
            reached = position.offset
        assert broker._log.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_writer_that_writes_twice_would_have_been_noticed(path):
    """The control of the test above: outputs and positions in two transactions part ways."""
    with EmbeddedBroker(path) as broker:
        broker.ensure([TopicSpec("in", 1), TopicSpec("out", 1)], create=True)
        torn = 0
        for _ in range(4):
            kill_in_the_middle(path, "twice", 0.08)
            position = broker.positions("g", IN[:1])[IN[0]]
            torn += len(values(broker, "out")) != (position.offset if position else 0)
        assert torn


def test_a_waiting_reader_wakes_up_when_another_connection_writes(broker, path):
    def write_soon() -> None:
        with EmbeddedBroker(path) as other:
            time.sleep(0.2)
            other.append([Output("in", b"now", partition=0)])

    thread = threading.Thread(target=write_soon)
    thread.start()
    with broker.reader({IN[0]: 0}) as reader:
        began = time.monotonic()
        assert [r.value for r in reader.poll(10, 10.0)[IN[0]]] == [b"now"]
        assert time.monotonic() - began < 5.0
    thread.join()


def test_a_log_that_another_creates_in_the_meantime_is_used(path, monkeypatch):
    transaction = LogFile.transaction

    def be_late(self, kind="IMMEDIATE"):
        monkeypatch.undo()
        with EmbeddedBroker(path) as quicker:
            quicker.ensure([TopicSpec("theirs", 2)], create=True)
        return transaction(self, kind)

    monkeypatch.setattr(LogFile, "transaction", be_late)
    with EmbeddedBroker(path) as broker:
        assert broker.partitions("theirs") == 2


def test_many_may_create_one_file_at_once(path):
    barrier, failures = threading.Barrier(6), []

    def create(number: int) -> None:
        barrier.wait()
        try:
            with EmbeddedBroker(path) as broker:
                broker.ensure([TopicSpec("shared", 2), TopicSpec(f"own-{number}", 1)], create=True)
                broker.append([Output("shared", b"%d" % number)])
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with EmbeddedBroker(path) as broker:
        assert sorted(values(broker, "shared")) == [b"%d" % number for number in range(6)]


# ----- reading


def test_a_poll_deals_its_records_evenly_to_the_partitions(broker):
    broker.grow("in", 4)
    for partition, count in enumerate((500, 500, 3, 0)):
        broker.append([Output("in", b"v", partition=partition)] * count)
    with broker.reader({TopicPartition("in", p): 0 for p in range(4)}) as reader:
        counts = {tp.partition: len(records) for tp, records in reader.poll(100, 0).items()}
        assert counts[2] == 3
        assert sum(counts.values()) == 100
        assert abs(counts[0] - counts[1]) <= 3


def test_polls_for_fewer_records_than_partitions_starve_none(broker):
    broker.grow("in", 5)
    broker.append([Output("in", b"v", partition=4)] * 3)
    with broker.reader({TopicPartition("in", p): 0 for p in range(5)}) as reader:
        assert [len(reader.poll(1, 0)) for _ in range(4)] == [1, 1, 1, 0]


def test_polls_for_few_records_visit_the_partitions_in_turn(broker):
    broker.grow("in", 3)
    feed(broker, "in", 30, partitions=3)
    with broker.reader({TopicPartition("in", p): 0 for p in range(3)}) as reader:
        visited = [tp.partition for _ in range(6) for tp in reader.poll(1, 0)]
    assert sorted(visited) == [0, 0, 1, 1, 2, 2]


def test_the_partition_of_a_key_is_the_same_in_every_process_and_version(broker):
    broker.grow("in", 8)
    broker.append([Output("in", b"v", b"key-%d" % i) for i in range(8)])
    homes = {r.key: r.partition for records in everything(broker, "in").values() for r in records}
    assert [homes[b"key-%d" % i] for i in range(8)] == [4, 2, 0, 6, 5, 3, 1, 7]


def test_records_without_a_key_are_dealt_to_the_partitions_in_turn(broker):
    broker.append([Output("in", b"v")] * 10)
    assert broker.ends("in") == {0: 5, 1: 5}


def test_one_poll_does_not_load_a_log_of_large_values_at_once(broker, monkeypatch):
    monkeypatch.setattr("stream_al.transport.embedded_log.FETCH_BYTES", 1 << 20)
    broker.append([Output("in", bytes(20_000), partition=0)] * 200)
    with broker.reader({IN[0]: 0}) as reader:
        sizes = []
        while batch := reader.poll(1_000, 0):
            sizes.append(len(batch[IN[0]]))
        assert sum(sizes) == 200
        assert max(sizes) <= 100


def test_a_quiet_poll_writes_nothing(broker, other):
    seat = seated(broker)
    before = other._log.version()
    for _ in range(20):
        assert not seat.poll(timeout_s=0).records
    assert other._log.version() == before


def test_what_the_clock_says_is_the_timestamp(broker, clock):
    broker.append([Output("in", b"v", partition=0)])
    assert everything(broker, "in")[0][0].timestamp == 1_800_000_000_000


def test_people_can_read_the_log_with_any_SQLite_tool(broker, path):
    broker.append([Output("in", b"v", b"k", partition=1)] * 2)
    with contextlib.closing(sqlite3.connect(path)) as plain:
        rows = plain.execute("SELECT topic, partition, offset, time, key, value FROM records").fetchall()
    assert rows == [("in", 1, offset, "2027-01-15 08:00:00", b"k", b"v") for offset in (0, 1)]


# ----- commits and groups


def test_an_expired_seat_may_not_write_though_nobody_took_it(broker, clock):
    feed(broker, "in", 4, partitions=2)
    seat = seated(broker)
    seat.poll(timeout_s=0)
    clock.now += 15.001
    for positions in ({}, seat.positions_read()):
        with pytest.raises(Rebalanced, match="expired"):
            seat.member.commit([Output("out", b"late")], positions)
    assert values(broker, "out") == []
    polled = seat.poll(timeout_s=0)
    assert polled.revoked == set(IN)
    assert polled.assigned == dict.fromkeys(IN)
    seat.member.commit([Output("out", b"in time")], {})
    assert values(broker, "out") == [b"in time"]


def test_commits_renew_the_seat(broker, clock):
    seat = seated(broker)
    for _ in range(5):
        clock.now += 10
        seat.member.commit([], {})
    assert not seat.poll(timeout_s=0).revoked


def test_a_member_that_never_polled_may_not_write(broker):
    member = broker.join("g", "in", writer="w")
    with pytest.raises(Rebalanced):
        member.commit([Output("out", b"v")], {})


def test_a_partition_of_another_member_may_not_be_committed(broker, clock):
    first, second = seated(broker), Seat(broker, "g", "in", "v")
    for seat in (second, first, second):
        seat.poll(timeout_s=0)
    assert (set(first.owned), set(second.owned)) == ({IN[0]}, {IN[1]})
    with pytest.raises(Rebalanced, match="in-1"):
        first.member.commit([Output("out", b"v")], {tp: Position(0) for tp in IN})
    assert values(broker, "out") == []
    assert broker.positions("g", IN) == dict.fromkeys(IN)


def test_a_standby_commits_no_positions(broker):
    broker.ensure([TopicSpec("ledger", 1)], create=True)
    owner, standby = seated(broker, topic="ledger"), seated(broker, topic="ledger", writer="v")
    owner.poll(timeout_s=0)
    standby.poll(timeout_s=0)
    assert not standby.owned
    with pytest.raises(Rebalanced, match="owner"):
        standby.member.commit([], {IN[0]: Position(1)})
    owner.member.commit([], {IN[0]: Position(1)})
    owner.close()
    assert standby.poll(timeout_s=0).assigned == {TopicPartition("ledger", 0): None}


def test_a_successor_of_the_same_name_need_not_wait_for_the_session_to_end(broker, other, clock):
    feed(broker, "in", 4, partitions=2)
    killed = seated(broker)
    killed.member.commit([], {IN[0]: Position(1, "one")})
    successor = seated(other)
    assert successor.owned == {IN[0]: Position(1, "one"), IN[1]: None}
    with pytest.raises(Fenced, match="'w'"):
        killed.member.commit([], {})
    clock.now += 2
    with pytest.raises(Fenced, match="'w'"):
        killed.poll(timeout_s=0)


def test_a_refused_commit_is_followed_by_the_news_at_once(broker):
    unseated = broker.join("g", "in", writer="w")
    assert unseated.poll(0, 0).assigned
    broker.join("g", "in", writer="w").fence_predecessors()
    broker._log.group_changes = unseated._seat._seen_changes  # as if that had happened in another process
    with pytest.raises(Rebalanced, match="expired"):
        unseated.commit([Output("out", b"v")], {IN[0]: Position(1)})
    assert unseated.poll(0, 0).revoked == set(IN)


def test_every_change_of_hands_raises_the_generation_and_a_commit_checks_it(broker, clock):
    def generations() -> list[int]:
        return [row[0] for row in broker._log.db.execute("SELECT generation FROM lease ORDER BY partition")]

    seat = seated(broker)
    assert generations() == [1, 1]
    seat.close()
    seat = seated(broker, writer="v")
    assert generations() == [2, 2]
    broker._log.db.execute("UPDATE lease SET generation = 3 WHERE partition = 1")
    seat.member.commit([], {IN[0]: Position(1)})
    with pytest.raises(Rebalanced, match="in-1"):
        seat.member.commit([], {IN[1]: Position(1)})
    polled = seat.poll(timeout_s=0)
    assert (polled.revoked, polled.assigned) == ({IN[1]}, {IN[1]: None})


def test_a_transaction_that_was_interrupted_for_too_long_is_dropped(broker, clock):
    class Interrupted(list[Output]):
        def __iter__(self):
            clock.now += 10.001
            return super().__iter__()

    seat = seated(broker)
    with pytest.raises(Unavailable, match="nothing was written"):
        seat.member.commit(Interrupted([Output("out", b"v")]), {IN[0]: Position(1)})
    assert values(broker, "out") == []
    assert broker.positions("g", IN) == dict.fromkeys(IN)


@pytest.mark.fault(
    "clocks behind or set back",
    "leases of the embedded log while the clock jumps",
)
@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_a_clock_that_jumps_expires_seats_and_nobody_waits_for_it(broker, other, clock, jump_s):
    asleep, awake = seated(broker), None
    clock.now += jump_s
    awake = seated(other, writer="v")
    assert set(awake.owned) == set(IN)
    with pytest.raises(Rebalanced):
        asleep.member.commit([Output("out", b"v")], {IN[0]: Position(1)})
    awake.member.commit([Output("out", b"v")], {IN[0]: Position(1)})


def test_a_clock_that_is_set_back_a_little_disturbs_nobody(broker, clock):
    seat = seated(broker)
    for _ in range(10):
        clock.now -= 10
        assert not seat.poll(timeout_s=0).revoked
        seat.member.commit([], {IN[0]: Position(1)})


def test_new_partitions_are_divided_too(broker, other, clock):
    seats = [seated(broker), seated(other, writer="v")]
    for seat in seats:
        seat.poll(timeout_s=0)
    broker.grow("in", 5)
    assert broker.partitions("in") == other.partitions("in") == 5
    sent = feed(broker, "in", 50, partitions=5)
    clock.now += 2
    poll_until(lambda: sum(len(seat.values()) for seat in seats) == 50, *seats)
    assert sorted(len(seat.owned) for seat in seats) == [2, 3]
    assert sorted(seats[0].values() + seats[1].values()) == sorted(sent)
    with pytest.raises(TopicError, match="'in'"):
        broker.grow("in", 4)


@pytest.mark.fault(
    "members that join, sleep and leave",
    "random groups on the embedded log: no overlap, no commit lost",
)
def test_whoever_joins_sleeps_or_leaves_the_group_neither_overlaps_nor_loses_a_commit():
    for seed in range(15):
        Turmoil(seed).run(150)


class Turmoil:
    """A group of members that come, sleep, die and go, in virtual time; every commit counts one up."""

    def __init__(self, seed: int) -> None:
        self.drawn, self.clock = random.Random(seed), Clock()
        self.broker = EmbeddedBroker(":memory:", clock=self.clock)
        self.partitions = self.drawn.randint(1, 7)
        self.broker.ensure([TopicSpec("in", self.partitions)], create=True)
        self.seats: dict[Seat, float] = {}  # → when it polled last
        self.committed = dict.fromkeys(range(self.partitions), 0)

    def run(self, turns: int) -> None:
        for turn in range(turns):
            if len(self.seats) < 5 and self.drawn.random() < 0.1:
                self.seats[Seat(self.broker, "g", "in", f"writer-{turn}", fetch=False)] = -1e9
            for seat in list(self.seats):
                self.move(seat)
            self.check_that_nobody_overlaps()
            self.clock.now += self.drawn.choice([0.05, 0.3, 2.0, 6.0])
        self.check_that_all_is_divided_evenly_in_the_end()
        self.broker.close()

    def move(self, seat: Seat) -> None:
        step = self.drawn.random()
        if step < 0.02:
            self.seats.pop(seat)  # dies
        elif step < 0.04:
            self.seats.pop(seat)
            seat.close()
        elif step < 0.5:
            self.seats[seat] = self.clock.now
            seat.poll(timeout_s=0)
        elif step < 0.8 and seat.owned:
            self.commit(seat)

    def commit(self, seat: Seat) -> None:
        known = {tp: (position.offset if position else 0) for tp, position in seat.owned.items()}
        raised = {tp: Position(offset + 1) for tp, offset in known.items()}
        try:
            seat.member.commit([], raised)
        except Rebalanced:
            return
        for tp, offset in known.items():
            assert self.committed[tp.partition] == offset, "a commit built on what another had changed"
            self.committed[tp.partition] += 1
        seat.owned.update(raised)

    def check_that_nobody_overlaps(self) -> None:
        awake = [seat for seat, polled in self.seats.items() if self.clock.now - polled < 15]
        owned = [tp for seat in awake for tp in seat.owned]
        assert len(owned) == len(set(owned))

    def check_that_all_is_divided_evenly_in_the_end(self) -> None:
        self.clock.now += 31
        self.seats[Seat(self.broker, "g", "in", "last", fetch=False)] = self.clock.now
        for _ in range(5):
            for seat in self.seats:
                seat.poll(timeout_s=0)
            self.clock.now += 1
        counts = [len(seat.owned) for seat in self.seats]
        assert sum(counts) == self.partitions
        assert max(counts) - min(counts) <= 1


# ----- refusals


def test_unknown_topics_and_partitions_are_refused_and_nothing_is_written(broker):
    seat = seated(broker)
    with pytest.raises(TopicError, match="'nowhere'"):
        broker.append([Output("out", b"v"), Output("nowhere", b"v")])
    with pytest.raises(TopicError, match="'nowhere'"):
        seat.member.commit([Output("out", b"v"), Output("nowhere", b"v")], {IN[0]: Position(1)})
    with pytest.raises(TopicError, match="'nowhere'"):
        seat.member.commit([Output("out", b"v")], {TopicPartition("nowhere", 0): Position(1)})
    with pytest.raises(TopicError, match="out-1"):
        seat.member.commit([Output("out", b"v", partition=1)], {IN[0]: Position(1)})
    assert values(broker, "out") == []
    assert broker.positions("g", IN) == dict.fromkeys(IN)


@pytest.mark.parametrize("position", [Position(1, "x" * 1_501), Position(1, "ä"), Position(-1)])
def test_positions_that_Kafka_would_not_keep_are_refused(broker, position):
    with pytest.raises(ValueError, match="in-0"):
        seated(broker).member.commit([], {IN[0]: position})


def test_a_partition_that_is_not_owned_cannot_be_seeked(broker):
    with pytest.raises(ValueError, match="in-7"):
        seated(broker).member.seek(TopicPartition("in", 7), 0)


def test_the_command_in_a_refusal_repairs_the_topic(broker, path):
    broker.ensure([TopicSpec("ledger", 1, {"retention.ms": 1_000, "cleanup.policy": "compact"})], create=True)
    wanted = TopicSpec("ledger", 1, {"retention.ms": -1, "cleanup.policy": "delete"})
    with pytest.raises(TopicError) as failure:
        broker.ensure([wanted], create=False)
    commands = [line[line.index("sqlite3 ") :] for line in str(failure.value).splitlines()]
    assert len(commands) == 2
    for command in commands:
        _, file, sql = shlex.split(command)
        with contextlib.closing(sqlite3.connect(file)) as plain, plain:
            plain.execute(sql)
    broker.ensure([wanted], create=False)


def test_a_newer_schema_is_refused(broker, path):
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA user_version = 2")
    with pytest.raises(LogFileError, match=r"log\.db has schema 2"):
        EmbeddedBroker(path)


def test_the_database_of_another_program_is_refused_and_left_alone(path):
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE theirs (x)")
    before = Path(path).read_bytes()
    with pytest.raises(LogFileError, match="another program"):
        EmbeddedBroker(path)
    assert Path(path).read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    Path(path).write_bytes(b"not a database " * 500)
    with pytest.raises(LogFileError, match=r"log\.db: .*: this is no log"):
        EmbeddedBroker(path)
    assert Path(path).read_bytes() == b"not a database " * 500


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(LogFileError, match="local disk"):
        EmbeddedBroker(str(tmp_path))


def test_directories_are_made_unless_that_is_unwanted(tmp_path):
    EmbeddedBroker(str(tmp_path / "a" / "b" / "log.db")).close()
    with pytest.raises(LogFileError, match="cannot be opened"):
        EmbeddedBroker(str(tmp_path / "c" / "log.db"), create_directories=False)
    (tmp_path / "file").touch()
    with pytest.raises(LogFileError, match="cannot be made"):
        EmbeddedBroker(str(tmp_path / "file" / "log.db"))


@pytest.mark.parametrize("options", [{"path": ""}, {"path": ":memory:", "synchronous": "SOMETIMES"}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(ValueError, match=r"broker\."):
        EmbeddedBroker(**options)


def test_a_log_that_another_process_holds_is_unavailable(broker, path, clock):
    with EmbeddedBroker(path, clock=clock, transaction_timeout_ms=50) as hurried:
        broker._log.db.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"log\.db.*another process"):
            hurried.append([Output("out", b"v")])
        assert values(hurried, "out") == []
        broker._log.db.execute("ROLLBACK")
        hurried.append([Output("out", b"v")])
        assert values(broker, "out") == [b"v"]


@pytest.mark.fault(
    "a full disk",
    "the embedded log on a full disk, then with room",
)
def test_a_full_disk_leaves_the_log_as_it_was_and_goes_on_when_there_is_room(broker, other):
    seat = seated(broker)
    seat.member.commit([Output("out", b"before")], {IN[0]: Position(1, "before")})
    pages = broker._log.number("PRAGMA page_count")
    broker._log.db.execute(f"PRAGMA max_page_count = {pages + 3}")
    outputs = [Output("out", os.urandom(20_000)) for _ in range(10)]
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"log\.db.*the disk is full"):
            seat.member.commit(outputs, {IN[0]: Position(2, "during")})
        assert values(other, "out") == [b"before"]
        assert other.positions("g", IN[:1]) == {IN[0]: Position(1, "before")}
    broker._log.db.execute("PRAGMA max_page_count = 1000000")
    seat.member.commit(outputs, {IN[0]: Position(2, "after")})
    assert len(values(other, "out")) == 11
    assert broker._log.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_closing_after_the_broker_was_closed_is_no_error(path):
    broker = EmbeddedBroker(path)
    broker.ensure([TopicSpec("in", 1)], create=True)
    seat = seated(broker)
    broker.close()
    broker.close()
    seat.close()


# ----- retention


def kept(broker: EmbeddedBroker, topic: str) -> dict[int, int]:
    ends = broker.ends(topic)
    return {p: ends[p] - begin for p, begin in broker.begins(topic).items()}


def test_retention_by_age_removes_the_old_and_never_reuses_an_offset(broker, clock):
    broker.ensure([TopicSpec("aged", 2, {"retention.ms": 60_000})], create=True)
    feed(broker, "aged", 20, partitions=2)
    clock.now += 50
    feed(broker, "aged", 6, partitions=1)
    broker.maintain()
    assert kept(broker, "aged") == {0: 16, 1: 10}
    clock.now += 11
    broker.maintain()
    assert broker.begins("aged") == {0: 10, 1: 10}
    assert broker.ends("aged") == {0: 16, 1: 10}
    with broker.reader({TopicPartition("aged", 0): 9}) as reader, pytest.raises(PositionGone) as failure:
        reader.poll(10, 0)
    assert all(word in str(failure.value) for word in ("aged-0@9", "10", "16", "retention.ms"))
    with broker.reader({TopicPartition("aged", 1): 10}) as reader:
        assert reader.poll(10, 0) == {}
        broker.append([Output("aged", b"next", partition=1)])
        assert [r.offset for r in read(reader, TopicPartition("aged", 1), 1)] == [10]


def test_retention_by_bytes_keeps_about_that_much_of_the_topic(broker):
    broker.ensure([TopicSpec("sized", 2, {"retention.bytes": 300_000})], create=True)
    broker.append([Output("sized", bytes(968), partition=0)] * 600)
    broker.append([Output("sized", bytes(968), partition=1)] * 200)
    broker.maintain()
    assert sum(kept(broker, "sized").values()) in range(295, 301)
    assert kept(broker, "sized")[0] in range(220, 230)
    before = kept(broker, "sized")
    broker.maintain()
    assert kept(broker, "sized") == before


@pytest.mark.parametrize(
    "config",
    [{}, {"retention.ms": -1, "retention.bytes": -1}, {"retention.ms": 1, "cleanup.policy": "compact"}],
)
def test_what_is_to_be_kept_for_ever_is_kept(broker, clock, config):
    broker.ensure([TopicSpec("ledger", 1, config)], create=True)
    feed(broker, "ledger", 10)
    clock.now += 1e9
    broker.maintain()
    assert kept(broker, "ledger") == {0: 10}


def test_retention_goes_on_in_steps_that_let_others_write(broker, clock, monkeypatch):
    monkeypatch.setattr("stream_al.transport.embedded_topics.STEP_RECORDS", 7)
    broker.ensure([TopicSpec("aged", 1, {"retention.ms": 1_000})], create=True)
    feed(broker, "aged", 40)
    clock.now += 2
    feed(broker, "aged", 5)
    monkeypatch.setattr("stream_al.transport.embedded_topics.MAINTENANCE_S", -1.0)
    broker.maintain()
    assert kept(broker, "aged") == {0: 45}
    monkeypatch.setattr("stream_al.transport.embedded_topics.MAINTENANCE_S", 30.0)
    before = broker._log.own_changes
    broker.maintain()
    assert kept(broker, "aged") == {0: 5}
    assert broker._log.own_changes - before >= 6


def test_the_file_shrinks_after_retention(broker, clock, path):
    broker.ensure([TopicSpec("aged", 1, {"retention.ms": 1_000})], create=True)
    for _ in range(20):
        broker.append([Output("aged", os.urandom(10_000))] * 100)
    broker.maintain()
    full = os.path.getsize(path)
    clock.now += 2
    broker.maintain()
    assert os.path.getsize(path) < full / 3
    assert broker._log.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_log_is_its_owner_s_alone_and_a_mode_that_somebody_gave_stays(tmp_path):
    path = tmp_path / "made" / "too" / "log.db"
    before = os.umask(0)
    try:
        with EmbeddedBroker(str(path)) as broker:
            broker.ensure([TopicSpec("t", 1)], create=True)
            broker.append([Output("t", b"secret")])
            files = sorted(path.parent.iterdir())
            assert [file.name for file in files] == ["log.db", "log.db-shm", "log.db-wal"]
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
            assert {folder.stat().st_mode & 0o777 for folder in path.parents[:2]} == {0o700}
        path.chmod(0o660)
        with EmbeddedBroker(str(path)) as broker:
            broker.append([Output("t", b"shared")])
            assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o660}
    finally:
        os.umask(before)
