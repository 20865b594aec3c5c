"""Snapshots of the fold: a cache on local disk, which may be deleted at any moment.

A snapshot's name says what it is of: ``<ledger id>-<position>-<digest>.fold``, the digest covering the fold's
version, the libraries that compute it and the model's specification. Anything else is ignored. Its first 32 bytes
authenticate the rest with a key of this installation, because what follows is a pickle: nothing is unpickled that
this installation did not write.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import hmac
import os
import pickle
import platform
import secrets
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import structlog

from stream_al import __version__
from stream_al.core.fold import FOLD_VERSION, Fold
from stream_al.core.messages import Genesis

log = structlog.get_logger("stream_al.ledger")

KEPT = 3
UNFINISHED_S = 3600.0  # no snapshot takes so long to write: whoever wrote this one was killed
MAC_BYTES = KEY_BYTES = 32


class Snapshot(NamedTuple):
    """A fold, and how many seconds it took this installation to fold its records."""

    fold: Fold
    replay_s: float


def digest(genesis: Genesis) -> str:
    """Return what a fold of this ledger depends on besides its records."""
    parts = [
        FOLD_VERSION,
        __version__,
        version("river"),
        np.__version__,
        platform.python_version(),
        genesis.spec,
        genesis.classes,
        genesis.task,
    ]
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


class Snapshots:
    """Snapshots in one directory, readable by this user only.

    Raises
    ------
    OSError
        The directory cannot be made private, for example because it is another user's.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone_in(
            directory
        ):  # processes that start together must agree on whom to trust, and on one key
            self.key = self._key(trusted=self._made_private())
        self._tidy()

    def _made_private(self) -> bool:
        """Take everybody else's rights to the directory away; return whether nobody else could write there."""
        mode = self.directory.stat().st_mode
        if mode & 0o077:
            self.directory.chmod(0o700)
        return not mode & 0o022

    def _key(self, *, trusted: bool) -> bytes:
        """Return this installation's key; one that others could read or plant is replaced by a new one."""
        path = self.directory / "key"
        found = _private_bytes(path) if trusted else None
        if found is None:
            if path.is_symlink() or path.exists():
                log.warning("others could have read or written the key; snapshots so far are ignored")
                path.unlink()
            part = self.directory / f"key.{secrets.token_hex(4)}.part"
            try:
                _write(part, secrets.token_bytes(KEY_BYTES))
                _put(part, path)
            finally:
                part.unlink(missing_ok=True)
            found = path.read_bytes()
        return found

    def _tidy(self) -> None:
        """Remove what killed processes left half written; others may be writing in this directory now."""
        for part in self.directory.glob("*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > UNFINISHED_S:
                    part.unlink()

    def save(self, fold: Fold, replay_s: float = 0.0) -> Path:
        """Write the fold durably and drop the oldest snapshots; raises OSError where the disk refuses."""
        assert fold.genesis is not None
        body = pickle.dumps((fold, replay_s), protocol=pickle.HIGHEST_PROTOCOL)
        path = self.directory / f"{fold.genesis.ledger_id}-{fold.position:020d}-{digest(fold.genesis)}.fold"
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            part.unlink(missing_ok=True)
            _write(part, self.sealed(path.name, body))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        for old in self._of(fold.genesis)[:-KEPT]:
            old.unlink(missing_ok=True)
        return path

    def load(self, genesis: Genesis, end: int) -> Snapshot | None:
        """Return the newest sound snapshot of this ledger at or before ``end``, or None."""
        for path in reversed(self._of(genesis)):
            position = path.name.split("-")[-2]
            if not position.isdecimal() or int(position) > end:
                continue
            found = self._read(path)
            if found is not None:
                return found
        return None

    def drop(self, genesis: Genesis) -> None:
        """Delete all snapshots of this ledger."""
        for path in self._of(genesis):
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Snapshot | None:
        try:
            body = self.opened(path.name, path.read_bytes())
            if body is None:
                return None
            with _no_collector():
                fold, replay_s = pickle.loads(body)  # noqa: S301  this installation wrote it
        except Exception as problem:  # noqa: BLE001  another version's classes may raise anything; the ledger is there
            log.warning(
                "snapshot not usable; the ledger will be replayed", file=path.name, problem=repr(problem)
            )
            return None
        return Snapshot(fold, replay_s) if isinstance(fold, Fold) else None

    def _of(self, genesis: Genesis) -> list[Path]:
        return sorted(self.directory.glob(f"{genesis.ledger_id}-*-{digest(genesis)}.fold"))

    def sealed(self, name: str, body: bytes) -> bytes:
        """Return what a file of that name holds."""
        return self._mac(name, body) + body

    def opened(self, name: str, content: bytes) -> bytes | None:
        """Return the body of what this installation sealed under that name, or None."""
        mac, body = content[:MAC_BYTES], content[MAC_BYTES:]
        return body if hmac.compare_digest(mac, self._mac(name, body)) else None

    def _mac(self, name: str, body: bytes) -> bytes:
        return hmac.digest(self.key, name.encode() + b"\0" + body, "sha256")


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Let no garbage be looked for among objects that are all new: it takes as long as making them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Let one process after the other do this."""
    held = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _write(path: Path, content: bytes) -> None:
    """Write a new file durably, for this user only."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _put(part: Path, path: Path) -> None:
    """Give a file its name unless another process was faster."""
    try:
        os.link(part, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        part.replace(path)


def _private_bytes(path: Path) -> bytes | None:
    """Return the key in a file that is this user's alone and whole, or None."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            found = os.fstat(file.fileno())
            own = found.st_uid == os.geteuid() and not found.st_mode & 0o077
            content = file.read(KEY_BYTES + 1)
    except OSError:
        return None
    return content if own and len(content) == KEY_BYTES else None
