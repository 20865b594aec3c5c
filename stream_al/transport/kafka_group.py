"""The partitions that a group gave to a member, as both Kafka clients keep them."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stream_al.transport.port import Member, Position, TopicPartition, Unavailable

if TYPE_CHECKING:
    from stream_al.transport.kafka import KafkaBroker


class GroupMember(Member):
    """Announces partitions once their positions are known; what a client must do for it is abstract."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._unannounced: set[TopicPartition] = set()
        self._asked_since = 0.0
        self._owned: set[TopicPartition] = set()
        self._committed: dict[TopicPartition, Position] = {}

    @abstractmethod
    def _ask(self, tps: Iterable[TopicPartition], timeout_s: float) -> dict[TopicPartition, Position | None]:
        """Ask for the group's positions in one request."""

    @abstractmethod
    def _check_generation(self) -> None:
        """Raise ``Rebalanced`` if the group went on without this member since its last poll."""

    def _forget(self, tp: TopicPartition) -> None:
        """Drop what was read ahead of a partition."""

    def _follow(self, changes: Iterable[tuple[str, set[TopicPartition]]]) -> set[TopicPartition]:
        """Follow what the group did during the poll; return the partitions taken away."""
        revoked: set[TopicPartition] = set()
        for kind, tps in changes:
            if kind == "assigned":
                self._expect(tps)
            else:
                revoked |= self._drop(tps)
        return revoked

    def _expect(self, tps: set[TopicPartition]) -> None:
        self._unannounced |= tps
        self._asked_since = time.monotonic()

    def _drop(self, tps: set[TopicPartition]) -> set[TopicPartition]:
        """Forget partitions; return those that were announced."""
        announced = tps & self._owned
        self._owned -= tps
        self._unannounced -= tps
        for tp in tps:
            self._forget(tp)
        if announced:  # who owns them now may have gone on, also with positions of other topics
            self._committed.clear()
        return announced

    def _announce(self, timeout_s: float) -> dict[TopicPartition, Position | None]:
        """Return the new partitions and their positions, but none while a transaction is open on one."""
        if not self._unannounced:
            return {}
        try:
            found = self._ask(sorted(self._unannounced), timeout_s)
        except Unavailable:
            if time.monotonic() - self._asked_since > self._broker.request_timeout_s:
                raise
            return {}
        self._owned |= self._unannounced
        self._unannounced = set()
        self._committed.update({tp: position for tp, position in found.items() if position})
        return found

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._owned)

    def positions(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Position | None]:
        return self._ask(tps, self._broker.request_timeout_s)

    def _proof(self) -> dict[TopicPartition, Position]:
        """Return a position that stands already: sent again, it lets the broker check the generation."""
        for tp, position in self._committed.items():
            return {tp: position}
        self._check_generation()
        return {}
