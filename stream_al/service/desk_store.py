"""What people have answered and nobody has published: a small SQLite file in the state directory.

It is written before the page gets its answer, so a killed process loses nothing that was accepted. A power cut may take
the last moments, as it does with the embedded log: waiting for the disk cost people up to 100 ms an answer. Everything
else about the desk stands in topics.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from stream_al.core.desk_facts import Given
from stream_al.core.labels import Value
from stream_al.transport.port import Closeable

log = structlog.get_logger("stream_al.desk")

FILE, LOCK = "desk.db", "desk.lock"


class _Kept(msgspec.Struct):
    request_id: str
    id: str
    annotator: str
    label: str | int | bool | None
    number: float | None
    at_ms: int
    seconds: float | None
    held: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Kept).decode


class DeskStore(Closeable):
    """Unpublished answers and flags, of one ledger at a time.

    Parameters
    ----------
    directory
        The state directory; None: in memory, and a crash loses what is in its grace window.

    Raises
    ------
    OSError
        The file cannot be used, or another process uses it.
    """

    def __init__(self, directory: Path | None) -> None:
        self.durable = directory is not None
        self._lock = None if directory is None else _locked(directory)
        try:
            if directory is None:
                self.db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            else:
                path = directory / FILE
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
                path.chmod(0o600)
                self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=2.0)
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.execute(
                "CREATE TABLE IF NOT EXISTS given (ledger TEXT, request TEXT, annotator TEXT, value BLOB,"
                " PRIMARY KEY (ledger, request, annotator))"
            )
            self.db.execute(
                "CREATE TABLE IF NOT EXISTS flagged (ledger TEXT, request TEXT, annotator TEXT,"
                " PRIMARY KEY (ledger, request))"
            )
        except sqlite3.Error as problem:
            raise OSError(f"the desk's file in {directory} cannot be used: {problem}") from problem

    def keep(self, ledger: str, given: Given) -> None:
        """Keep an answer, in place of an earlier one of this person; it a killed process keeps it from here on."""
        number = given.label if isinstance(given.label, float) else None
        label: Value | None = None if isinstance(given.label, float) else given.label
        kept = _Kept(
            given.request_id,
            given.id,
            given.annotator,
            label,  # type: ignore[arg-type]
            number,
            given.at_ms,
            given.seconds,
            given.held,
        )
        self._run(
            "INSERT OR REPLACE INTO given VALUES (?, ?, ?, ?)",
            (ledger, given.request_id, given.annotator, _encode(kept)),
        )

    def forget(self, ledger: str, gone: Iterable[tuple[str, str]]) -> None:
        """Forget answers, by request and annotator: they are published, or taken back."""
        for request_id, annotator in gone:
            self._run(
                "DELETE FROM given WHERE ledger = ? AND request = ? AND annotator = ?",
                (ledger, request_id, annotator),
            )

    def kept(self, ledger: str) -> list[Given]:
        """Return what is kept for this ledger."""
        rows = self._run("SELECT value FROM given WHERE ledger = ? ORDER BY rowid", (ledger,)).fetchall()
        return [
            Given(
                k.request_id,
                k.id,
                k.annotator,
                k.number if k.label is None else k.label,
                k.at_ms,
                k.seconds,
                k.held,
            )
            for k in (_decode(row[0]) for row in rows)
        ]

    def flag(self, ledger: str, request_id: str, annotator: str) -> None:
        """Remember who put a question aside."""
        self._run("INSERT OR REPLACE INTO flagged VALUES (?, ?, ?)", (ledger, request_id, annotator))

    def unflag(self, ledger: str, request_id: str) -> None:
        """Forget that a question was put aside."""
        self._run("DELETE FROM flagged WHERE ledger = ? AND request = ?", (ledger, request_id))

    def flagged(self, ledger: str) -> list[tuple[str, str]]:
        """Return the questions put aside, and by whom."""
        return self._run("SELECT request, annotator FROM flagged WHERE ledger = ?", (ledger,)).fetchall()

    def _run(self, statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        """Execute one statement.

        Raises
        ------
        OSError
            The disk refuses: what was to be kept is not accepted.
        """
        try:
            return self.db.execute(statement, values)
        except sqlite3.Error as problem:
            raise OSError(f"the desk's file refuses: {problem}") from problem

    def close(self) -> None:
        self.db.close()
        if self._lock is not None:
            os.close(self._lock)


def _locked(directory: Path) -> int:
    """Return a descriptor that holds the directory's desk for this process, until it is closed or the process ends.

    Raises
    ------
    OSError
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise OSError(f"another process is the desk in {directory}") from None
    return descriptor
