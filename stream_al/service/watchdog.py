"""Notices a client that gets nothing although there is something to get.

Theory of operation
-------------------
A client may hang without an error: a connection that is half dead, a group that forgot it. From inside this looks as
a quiet stream does. So after a minute without a record the watchdog reads past the client, with a reader of its own::

    gets records ◀──────────────────────────────┐
        │ nothing for 60 s, and a record is there│ a record came
        ▼                                        │
    leave and join anew ─────────────────────────┤
        │ nothing for 60 s more, and a record is still there
        ▼
    Stuck: the process ends, and whoever watches it starts it again

Time counts in which the client was asked and gave nothing, a second for one asking at most: after a sleep of the
machine, or a step of its clock, nothing is suspected.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from stream_al.transport.port import Broker, TopicPartition, TransportError

log = structlog.get_logger("stream_al.service")

PATIENCE_MS = 60_000
LONGEST_STEP_MS = 1_000
LOOK_S = 1.0


class Stuck(TransportError):  # noqa: N818  as the other facts of the transport
    """A client got nothing although records wait, also after it had joined anew; this process must end."""


class Watchdog:
    """Watches one client.

    Parameters
    ----------
    who
        Whom it watches, for messages.

    Attributes
    ----------
    rejoins
        How often it asked for a new start.
    """

    def __init__(self, broker: Broker, who: str) -> None:
        self.broker, self.who = broker, who
        self.rejoins = 0
        self._asked_ms = 0
        self._quiet_ms = 0
        self._rejoined = False

    def silent(self, handled: int, positions: Mapping[TopicPartition, int], now_ms: int) -> bool:
        """Take in what one asking gave; say whether the client must join anew.

        Parameters
        ----------
        handled
            How many records it gave.
        positions
            The next offset of each partition that it reads; none: it was assigned nothing.

        Raises
        ------
        Stuck
            It was silent as long after it had joined anew.
        Unavailable
            The broker does not answer either.
        """
        step, self._asked_ms = now_ms - self._asked_ms, now_ms
        if handled:
            self._quiet_ms, self._rejoined = 0, False
        elif positions:
            self._quiet_ms += min(max(step, 0), LONGEST_STEP_MS)
        if self._quiet_ms < PATIENCE_MS:
            return False
        self._quiet_ms = 0
        waits = self._waits(positions)
        if waits is None:
            self._rejoined = False
            return False
        text = f"{self.who} got nothing for {PATIENCE_MS // 1000} s, although {waits} can be read"
        if self._rejoined:
            raise Stuck(f"{text}, also after joining anew; this process ends so that it is started again")
        log.warning("nothing comes; joining anew", why=text)
        self.rejoins += 1
        self._rejoined = True
        return True

    def _waits(self, positions: Mapping[TopicPartition, int]) -> str | None:
        """Return a record that a client at these positions could have had; markers and open transactions are none."""
        topics = {tp.topic for tp in positions}
        begins = {topic: self.broker.begins(topic) for topic in topics}
        ends = {topic: self.broker.ends(topic) for topic in topics}
        held = {tp: max(o, begins[tp.topic].get(tp.partition, 0)) for tp, o in positions.items()}
        behind = {tp: o for tp, o in held.items() if o < ends[tp.topic].get(tp.partition, 0)}
        if not behind:
            return None
        with self.broker.reader(behind) as reader:
            for tp, records in reader.poll(1, LOOK_S).items():
                if records:
                    return f"{tp}@{records[0].offset}"
        return None
