"""Groups of the embedded log: who is a member, and which member owns which partition.

Theory of operation
-------------------
A *member* is a row with an end, ``until_ms``; a *lease* says which member owns a partition. A lease is
worth as much as its member: when the member's row is gone, the partition is free. There is no coordinator;
each member settles its own part of the table in one write transaction::

    settle: drop expired members ─▶ renew or take a seat ─▶ release what exceeds the share ─▶ take free ones

The share of a member is its even part of the partitions by rank, the longest-seated first. Shares sum to
the number of partitions, so nobody waits for ever, and a newcomer moves no more partitions than it gets.
Every change of hands raises the partition's *generation*; a commit checks it.

A seat that has expired is lost even if nobody took the partitions: what a member decided before it slept
must not appear after others have concluded that it never will. ``until_ms`` further ahead than two sessions
means that the clock was set back; such a seat counts as expired too, or its owner would keep it for as long
as the clock jumped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from stream_al.transport.embedded_log import Log
from stream_al.transport.port import Fenced, Polled, Rebalanced, TopicPartition

UNSETTLED_RENEWAL_MS = 100
LONGEST_RENEWAL_MS = 1_000
NOBODY = 0  # ids of members begin at 1

EXPIRE = """DELETE FROM member WHERE grp = ? AND topic = ?
    AND NOT ? BETWEEN until_ms - 2 * session_ms AND until_ms"""
RENEW = """UPDATE member SET until_ms = ?1 + session_ms
    WHERE id = ?2 AND ?1 BETWEEN until_ms - 2 * session_ms AND until_ms"""
SIT_DOWN = "INSERT INTO member (grp, topic, writer, session_ms, until_ms) VALUES (?, ?, ?, ?, ?)"
SEATS = "SELECT id FROM member WHERE grp = ? AND topic = ? ORDER BY id"
LEASES = """SELECT partition, coalesce(member.id, 0), generation
    FROM lease LEFT JOIN member ON member.id = lease.member WHERE lease.grp = ? AND lease.topic = ?"""
RELEASE = "UPDATE lease SET member = 0 WHERE grp = ? AND topic = ? AND partition = ?"
TAKE = """INSERT INTO lease (grp, topic, partition, member, generation) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET member = excluded.member, generation = excluded.generation"""
NEXT_EPOCH = (
    "INSERT INTO writer (grp, name, epoch) VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1"
)
EPOCH = "SELECT epoch FROM writer WHERE grp = ? AND name = ?"
UNSEAT = "DELETE FROM member WHERE grp = ? AND writer = ? AND id <> ?"


class Lease(NamedTuple):
    member: int
    generation: int


FREE = Lease(NOBODY, 0)


class Seat:
    """One member's place in a group, as far as its owner was told."""

    def __init__(self, log: Log, group: str, topic: str, writer: str, session_ms: int) -> None:
        self._log, self._session_ms = log, session_ms
        self._group, self._topic, self._writer = group, topic, writer
        self._id = NOBODY
        self._epoch: int | None = None
        self._told: dict[int, int] = {}  # partition → generation
        self._settled_ms: int | None = None
        self._renewal_ms = 0
        self._seen_changes = -1

    @property
    def owned(self) -> frozenset[TopicPartition]:
        return self._places(self._told)

    def due(self, now_ms: int) -> bool:
        """Return whether it is time to settle, which costs a write."""
        return (
            self._settled_ms is None
            or not 0 <= now_ms - self._settled_ms < self._renewal_ms
            or self._seen_changes != self._log.group_changes
        )

    def settle(self) -> Polled:
        """Renew, give up and take partitions; return what changed."""
        with self._log.transaction() as now_ms:
            self._refuse_the_fenced()
            seat = self._sit(now_ms)
            share = self._share(seat)
            owned = self._divide(seat, share)
            kept = {p for p in owned if owned[p] == self._told.get(p)}
            assigned = self._log.positions(self._group, sorted(self._places(owned.keys() - kept)))
        revoked = self._places(self._told.keys() - kept)
        if assigned or revoked or seat != self._id:
            self._log.group_changes += 1
        self._id, self._told = seat, owned
        self._seen_changes, self._settled_ms = self._log.group_changes, now_ms
        self._renewal_ms = min(LONGEST_RENEWAL_MS, self._session_ms // 5)
        if len(owned) < share:  # somebody is about to release the rest
            self._renewal_ms = min(UNSETTLED_RENEWAL_MS, self._renewal_ms)
        return Polled(assigned=assigned, revoked=revoked)

    def leave(self) -> None:
        with self._log.transaction():
            self._log.db.execute("DELETE FROM member WHERE id = ?", (self._id,))
        self._log.group_changes += 1

    def fence_predecessors(self) -> None:
        """Take the right to write, and the seat of whoever had it: its partitions are free at once."""
        with self._log.transaction():
            self._log.db.execute(NEXT_EPOCH, (self._group, self._writer))
            epoch = self._log.number(EPOCH, self._group, self._writer)
            self._log.db.execute(UNSEAT, (self._group, self._writer, self._id))
        self._epoch = epoch
        self._log.group_changes += 1

    def check(self, tps: Iterable[TopicPartition], now_ms: int) -> None:
        """Renew the seat inside a commit's transaction, or refuse the commit."""
        self._refuse_the_fenced()
        if not self._log.db.execute(RENEW, (now_ms, self._id)).rowcount:
            self._refuse(f"the seat in group {self._group!r} has expired")
        owned = {p: lease.generation for p, lease in self._leases().items() if lease.member == self._id}
        for tp in tps:
            if not owned:
                self._refuse(f"{tp} may be committed only by an owner of a partition of {self._topic!r}")
            if tp.topic == self._topic and owned.get(tp.partition, NOBODY) != self._told.get(tp.partition):
                self._refuse(f"{tp} belongs to another member of group {self._group!r}")

    def _refuse_the_fenced(self) -> None:
        if self._epoch is not None and self._epoch != self._log.number(EPOCH, self._group, self._writer):
            raise Fenced(
                f"another process writes as {self._writer!r} of group {self._group!r} now: end this one"
            )

    def _refuse(self, reason: str) -> None:
        self._settled_ms = None
        raise Rebalanced(
            f"{self._log.path}: {reason}; nothing was written: poll, and go on from the group's positions"
        )

    def _sit(self, now_ms: int) -> int:
        """Drop the expired and return this member's id, a new one if it was among them."""
        execute = self._log.db.execute
        execute(EXPIRE, (self._group, self._topic, now_ms))
        if execute(RENEW, (now_ms, self._id)).rowcount:
            return self._id
        until_ms = now_ms + self._session_ms
        seated = execute(SIT_DOWN, (self._group, self._topic, self._writer, self._session_ms, until_ms))
        return seated.lastrowid or NOBODY

    def _share(self, seat: int) -> int:
        seats = [row[0] for row in self._log.db.execute(SEATS, (self._group, self._topic)).fetchall()]
        each, rest = divmod(self._log.topic(self._topic).partitions, len(seats))
        return each + (seats.index(seat) < rest)

    def _divide(self, seat: int, share: int) -> dict[int, int]:
        """Release what exceeds the share, or fill it up; return the generations of what is owned now."""
        leases = self._leases()
        mine = sorted(p for p, lease in leases.items() if lease.member == seat)
        keep = {p: leases[p].generation for p in mine[:share]}
        place = (self._group, self._topic)
        self._log.db.executemany(RELEASE, [(*place, p) for p in mine[share:]])
        everything = range(self._log.topic(self._topic).partitions)
        free = [p for p in everything if leases.get(p, FREE).member == NOBODY]
        take = {p: leases.get(p, FREE).generation + 1 for p in free[: share - len(keep)]}
        self._log.db.executemany(TAKE, [(*place, p, seat, generation) for p, generation in take.items()])
        return keep | take

    def _leases(self) -> dict[int, Lease]:
        """Return the leases by partition; those whose member is gone are nobody's."""
        rows = self._log.db.execute(LEASES, (self._group, self._topic)).fetchall()
        return {partition: Lease(member, generation) for partition, member, generation in rows}

    def _places(self, partitions: Iterable[int]) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(self._topic, p) for p in partitions)
