"""The guard over unreadable samples: where most of them are, the configuration is wrong and not the data.

A record that cannot be read is a dead letter and stops nothing; a mapping that fits none of them would turn the
whole stream into dead letters. Nothing of the batch at which the guard stops is committed: the next start, with a
better mapping, reads it again, and what is in the dead letters by then comes back with ``dead-letters replay``.
"""

from __future__ import annotations

from collections import Counter, deque

from stream_al.config import ConfigError, Settings

WINDOW = 1_000  # records over which the share is taken, at least
FIRST_RUN = 300  # unreadable ones from the start on, none readable between them


class Guard:
    """Counts the samples that this process reads, and stops it when too many cannot be read.

    Parameters
    ----------
    settings
        ``samples.most_unreadable`` is the share from which on it stops; null or 1: never.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        most = settings.samples.most_unreadable
        self.most = 1.0 if most is None else most
        self.recent: deque[tuple[int, Counter[str]]] = deque()  # batches: records, unreadable ones by reason
        self.records = 0  # of the recent batches
        self.readable = False  # whether any sample was, ever

    def on(self, records: int, reasons: Counter[str], last: str) -> None:
        """Count a batch of ``records``, of which some were unreadable; ``last`` says where and why the last one was.

        Raises
        ------
        ConfigError
            Too many were.
        """
        if self.most >= 1:
            return
        self.recent.append((records, reasons))
        self.records += records
        while self.records - self.recent[0][0] >= WINDOW:
            self.records -= self.recent.popleft()[0]
        self.readable = self.readable or reasons.total() < records
        if not reasons:
            return
        bad = sum(some.total() for _, some in self.recent)
        if (self.records >= WINDOW and bad > self.most * self.records) or (
            not self.readable and bad >= FIRST_RUN
        ):
            raise ConfigError(self._why(bad, last))

    def _why(self, bad: int, last: str) -> str:
        counts: Counter[str] = sum((some for _, some in self.recent), Counter())
        by = ", ".join(f"{reason} {n:,}" for reason, n in counts.most_common())
        which = "first" if not self.readable else "last"
        s = self.settings
        mapping = ", ".join(
            f"samples.{key}: {_text(getattr(s.samples, key))} ({s.where(f'samples.{key}')})"
            for key in ("id", "features", "timestamp", "max_bytes")
        )
        return (
            f"{bad:,} of the {which} {self.records:,} samples could not be read ({by}); the last of them, {last}\n"
            f"The mapping does not fit the topic {s.topics.samples}: {mapping}\n"
            "Correct it and start again: the samples not committed yet are read again, and"
            " `stream-al dead-letters replay` brings back those in the dead letters. If they really are unreadable:"
            f" samples.most_unreadable: null (now {self.most:g}) lets them pass"
        )


def _text(value: object) -> str:
    return "null" if value is None else str(value)
