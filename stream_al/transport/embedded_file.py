"""The embedded log's file: its schema, how it is opened, and transactions on it.

Theory of operation
-------------------
One SQLite file in WAL mode. Readers never block and never see half a transaction; writers queue for one
lock, taken at ``BEGIN IMMEDIATE``, so whatever a transaction checks is still true when it commits.

::

    topic     name, number of partitions, configuration
    tail      per partition: the next offset, and the bytes retained
    record    id = topic << 52 | partition << 40 | offset, so one range of ids is one partition in order
    position  what a group committed: next offset and state
    member    who is in a group, until when
    lease     which member owns a partition, in which generation
    writer    who has the right to write for a group, in which epoch
    records   a view for people: SELECT * FROM records WHERE topic = 'labels'

The packed id makes ``record`` a rowid table: 1.1-1.6 times as fast to write as a three-column key without
rowid, and records over 1,000 bytes do not take an overflow page each (1,500-byte values in pages of 4 kB:
2.1 instead of 4.7 kB a record; in pages of 8 kB: 1.6 kB).

The next offset lives in ``tail`` and not in the records, so retention never makes an offset return.

Durability is that of ``synchronous=NORMAL``: a killed process loses nothing that was committed, a power cut
may lose the last commits as a whole, never parts of one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stream_al.transport.port import TransportError, Unavailable

APPLICATION_ID = 0x53414C4F
SCHEMA_VERSION = 1
OPENING_S = 10.0

SCHEMA = """
CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,
    config TEXT NOT NULL);
CREATE TABLE tail (topic INTEGER NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    bytes INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE record (id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB);
CREATE TABLE position (grp TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    offset INTEGER NOT NULL, state TEXT NOT NULL, PRIMARY KEY (grp, topic, partition)) WITHOUT ROWID;
CREATE TABLE member (id INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT NOT NULL, topic TEXT NOT NULL,
    writer TEXT NOT NULL, session_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL);
CREATE TABLE lease (grp TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    member INTEGER NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (grp, topic, partition)) WITHOUT ROWID;
CREATE TABLE writer (grp TEXT NOT NULL, name TEXT NOT NULL, epoch INTEGER NOT NULL,
    PRIMARY KEY (grp, name)) WITHOUT ROWID;
CREATE VIEW records AS
    SELECT topic.name AS topic, record.id >> 40 & 4095 AS partition, record.id & 1099511627775 AS offset,
        datetime(timestamp / 1000.0, 'unixepoch') AS time, key, value, headers
    FROM record JOIN topic ON topic.id = record.id >> 52;
"""

# What SQLite says → the reaction, and what to tell the operator. Without a class: stop, see `LogFileError`.
REACTIONS: Mapping[int, tuple[type[TransportError] | None, str]] = {
    sqlite3.SQLITE_BUSY: (Unavailable, "another process holds the log; nothing was written, try again"),
    sqlite3.SQLITE_LOCKED: (Unavailable, "another process holds the log; nothing was written, try again"),
    sqlite3.SQLITE_FULL: (Unavailable, "the disk is full; nothing was written: make room, then it goes on"),
    sqlite3.SQLITE_IOERR: (Unavailable, "the disk failed; nothing was written: see the kernel's log"),
    sqlite3.SQLITE_NOTADB: (None, "this is no log: name another file in broker.url, or move this one away"),
    sqlite3.SQLITE_CORRUPT: (None, "the file is damaged: restore a copy, or move it away to start anew"),
    sqlite3.SQLITE_READONLY: (None, "read-only: let this user write the file and its directory"),
    sqlite3.SQLITE_CANTOPEN: (
        None,
        "it cannot be opened: broker.url must name a file on a local disk, in a directory this user may write",
    ),
    sqlite3.SQLITE_PERM: (None, "access is denied: let this user write the file and its directory"),
}


class LogFileError(TransportError):
    """The log's file cannot be used; stop, the message says what to do."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    path: str
    synchronous: str
    transaction_timeout_ms: int
    clock: Callable[[], float]
    create_directories: bool


class LogFile:
    """One connection to the log file, for one thread at a time."""

    def __init__(self, options: FileOptions) -> None:
        path = options.path
        if options.synchronous.upper() not in {"OFF", "NORMAL", "FULL", "EXTRA"}:
            raise ValueError(
                f"broker.synchronous: {options.synchronous!r} is none of OFF, NORMAL, FULL, EXTRA"
            )
        if not path:
            raise ValueError(
                "broker.url: embedded:// lacks a path, as in embedded:///var/lib/stream-al/log.db"
            )
        self.path = path
        self.closed = False
        self.own_changes = 0  # `data_version` tells of other connections' commits only
        self.group_changes = 0  # lets members on this connection see each other come and go at once
        self._timeout_ms = options.transaction_timeout_ms
        self._clock = options.clock
        if options.create_directories and path != ":memory:":
            problem = unusable(Path(path))
            if problem:
                raise LogFileError(problem)
            _make_private(Path(path))
        with self.errors():
            # sqlite3 would tie the connection to the thread that made it; one thread *at a time* is enough
            self.db = sqlite3.connect(
                path, timeout=self._timeout_ms / 1000, isolation_level=None, check_same_thread=False
            )
            self._open(options.synchronous)

    def close(self) -> None:
        self.closed = True
        self.db.close()

    # opening

    def _open(self, synchronous: str) -> None:
        deadline = time.monotonic() + OPENING_S
        while True:
            try:
                self._refuse_foreign_files()
                self._prepare(synchronous)
            except sqlite3.OperationalError as error:
                # two processes that create one file at once collide where SQLite does not wait by itself
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _refuse_foreign_files(self) -> None:
        tables = self.number("SELECT count(*) FROM sqlite_master")
        # read after the tables: whoever creates a log commits them together
        application, version = self.number("PRAGMA application_id"), self.number("PRAGMA user_version")
        if tables and application != APPLICATION_ID:
            raise LogFileError(
                f"{self.path} belongs to another program:"
                " name another file in broker.url, or move this one away"
            )
        if version > SCHEMA_VERSION:
            raise LogFileError(
                f"{self.path} has schema {version}, this program knows up to {SCHEMA_VERSION}:"
                " run the newer stream-al that wrote it, or name another file in broker.url"
            )

    def _prepare(self, synchronous: str) -> None:
        for pragma in (
            "page_size = 8192",
            "auto_vacuum = INCREMENTAL",
            "journal_mode = WAL",
            f"synchronous = {synchronous}",
            "secure_delete = FAST",  # some builds overwrite whatever is deleted, at the price of retention
            "cache_size = -4096",  # appends and reads go forward; trimming old pages fills whatever is allowed
            "journal_size_limit = 67108864",
        ):
            self.db.execute(f"PRAGMA {pragma}").fetchall()
        if self.number("PRAGMA user_version"):
            return
        with self.transaction():
            if not self.number("PRAGMA user_version"):  # nobody else was quicker
                for statement in SCHEMA.strip().split(";\n"):
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self.db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    # transactions

    @contextmanager
    def transaction(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[int]:
        """Write (``IMMEDIATE``) or read one snapshot (``DEFERRED``): all of the body or nothing.

        Gives the time in milliseconds, taken when the lock was. A writer that was stopped in the middle for
        longer than the transaction timeout is rolled back, so that what others concluded from its silence
        stays true.
        """
        with self.errors():
            try:
                self.db.execute(f"BEGIN {kind}")
                started = self._clock()
                yield int(started * 1000)
                if kind == "IMMEDIATE":
                    self._refuse_overlong(started)
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
        if kind == "IMMEDIATE":
            self.own_changes += 1

    def _refuse_overlong(self, started: float) -> None:
        took_s = abs(self._clock() - started)
        if took_s * 1000 > self._timeout_ms:
            raise Unavailable(
                f"{self.path}: a transaction took {took_s:.1f} s, more than broker.transaction_timeout_ms;"
                " nothing was written, try again"
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what SQLite raises into what the port promises."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            kind, advice = REACTIONS.get(_code(error), (None, ""))
            if not advice:
                raise
            raise (kind or LogFileError)(f"{self.path}: {error}: {advice}") from error

    def number(self, sql: str, *values: object) -> int:
        row = self.db.execute(sql, values).fetchone()
        return int(row[0])

    def version(self) -> tuple[int, int]:
        """Return what changes with every commit, on this or any other connection."""
        with self.errors():
            return self.number("PRAGMA data_version"), self.own_changes


def unusable(path: Path) -> str:
    """Say why there can be no log at ``path``, as far as that shows without making anything; else nothing."""
    try:
        if path.is_dir():
            return f"{path} is a directory: broker.url must name a file on a local disk"
        nearest = next(folder for folder in path.absolute().parents if folder.exists())
        if not nearest.is_dir():
            return f"{nearest} is no directory, so {path} cannot be made: correct broker.url"
        if not path.exists() and not os.access(nearest, os.W_OK | os.X_OK):
            return f"{path} cannot be made in {nearest}: let this user write there, or correct broker.url"
    except OSError as error:
        return f"{path} cannot be looked for: {error.strerror}: correct broker.url"
    return ""


def _make_private(path: Path) -> None:
    """Make the file and its missing directories for this user alone; what is there already stays as it is.

    SQLite gives the files beside it the same mode.
    """
    folder = path.parent
    try:
        for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            each.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise LogFileError(
            f"the directory {folder} cannot be made: {error}: create it, or correct broker.url"
        ) from error
    # only a new one: to close a file ends all locks that this process has on it, those of other connections too
    with contextlib.suppress(OSError):  # what is wrong, SQLite says
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 for errors that come from Python's side."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
