"""Processes that can be held, stopped or killed at a chosen step of a commit.

``Nursery.launch`` starts the command line in a process forked from one that has imported it already: a tenth of a
second instead of a second and a half. Inside, before anything runs, the commit is taken apart by ``widen``: at each of
its steps the process writes down where it is and stays there for a while. The order of the steps is the product's own;
``OUTPUTS_FIRST`` and ``POSITIONS_FIRST`` are the naive ones, which must not survive what the product survives; nor
must ``UNFENCED``, which commits whatever happened in the meantime.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stream_al.transport.port import TopicError

AS_IT_IS, OUTPUTS_FIRST, POSITIONS_FIRST = "as it is", "outputs first", "positions first"
UNFENCED = "unfenced"
EMBEDDED = ("before", "written", "placed", "committed")
KAFKA = ("before", "written", "committed")
BETWEEN = "between"
SNAPSHOT = "snapshot"
ELSEWHERE = "elsewhere"
WIDTH = 16
HELD_S = 5.0  # whoever is not killed or stopped by then goes on
WORLD = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Steps:
    """Where one process is, and where it shall be held: a file of two words, shared with the test."""

    def __init__(self, file: Path, window_s: float = 0.0) -> None:
        self.file = os.open(file, os.O_RDWR | os.O_CREAT)
        self.window_s = window_s

    def close(self) -> None:
        os.close(self.file)

    def at(self, step: str) -> None:
        """Say that the process is at a step, and stay a while; where it shall be held, until it is killed."""
        self._write(0, step)
        time.sleep(self.window_s)
        deadline = time.monotonic() + HELD_S
        while self._read(WIDTH) == step and time.monotonic() < deadline:
            time.sleep(0.002)
        self._write(0, ELSEWHERE)

    @property
    def here(self) -> str:
        return self._read(0)

    def forget(self) -> None:
        """Begin anew with a process that has not come anywhere yet."""
        self._write(0, ELSEWHERE)
        self._write(WIDTH, ELSEWHERE)

    def hold(self, step: str) -> None:
        """Hold the process when it comes to a step; ``ELSEWHERE`` lets it go."""
        self._write(WIDTH, step)

    def _write(self, place: int, word: str) -> None:
        os.pwrite(self.file, word.ljust(WIDTH).encode(), place)

    def _read(self, place: int) -> str:
        return os.pread(self.file, WIDTH, place).decode().strip(" \0")


# --- inside the process --------------------------------------------------------------------------------------------


def widen(steps: Steps, order: str) -> None:
    """Take the commits of all transports apart, in this process."""
    from stream_al.transport.embedded import EmbeddedMember
    from stream_al.transport.embedded_group import Seat
    from stream_al.transport.embedded_log import Log
    from stream_al.transport.kafka import KafkaMember, _Writer

    members = [EmbeddedMember, KafkaMember]
    with contextlib.suppress(TopicError):  # confluent-kafka is not installed
        from stream_al.transport import confluent

        members.append(confluent.ConfluentMember)
        if order == AS_IT_IS:
            confluent._Writer._acknowledged = _then(steps, "written", confluent._Writer._acknowledged)
    for member in members:
        member.commit = COMMITS[order](steps, member.commit)
    if order == AS_IT_IS:
        Log.save = _within(steps, Log.save)
        _Writer._acknowledged = staticmethod(_then(steps, "written", _Writer._acknowledged))
    if order == UNFENCED:
        Seat.check = lambda self, tps, now_ms: None
    os.fsync = _then(steps, SNAPSHOT, os.fsync)


def _as_it_is(steps: Steps, commit: Callable) -> Callable:
    def widened(self, outputs, positions):
        steps.at("before")
        ends = commit(self, outputs, positions)
        steps.at("committed")
        return ends

    return widened


def _outputs_first(steps: Steps, commit: Callable) -> Callable:
    def naive(self, outputs, positions):
        ends = commit(self, outputs, {})
        if outputs and positions:
            steps.at(BETWEEN)
        return {**ends, **commit(self, [], positions)}

    return naive


def _positions_first(steps: Steps, commit: Callable) -> Callable:
    def naive(self, outputs, positions):
        commit(self, [], positions)
        if outputs and positions:
            steps.at(BETWEEN)
        return commit(self, outputs, {})

    return naive


COMMITS = {
    AS_IT_IS: _as_it_is,
    UNFENCED: _as_it_is,
    OUTPUTS_FIRST: _outputs_first,
    POSITIONS_FIRST: _positions_first,
}


def _within(steps: Steps, save: Callable) -> Callable:
    """Widen the embedded log's transaction around the moment when positions join the outputs."""

    def widened(self, group, positions):
        steps.at("written")
        save(self, group, positions)
        steps.at("placed")

    return widened


def _then(steps: Steps, step: str, call: Callable) -> Callable:
    def widened(*args):
        found = call(*args)
        steps.at(step)
        return found

    return widened


def _run(arguments: list[str], where: Path, name: str, window_s: float, order: str) -> None:
    os.chdir(where)
    log = os.open(where / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["STREAM_AL_LOG__FORMAT"] = "json"
    sys.argv = ["stream-al", *arguments]
    widen(Steps(where / f"{name}.steps", window_s), order)
    from stream_al.cli import main

    main()


# --- outside -------------------------------------------------------------------------------------------------------


class Forked:
    """A forked process with the face of a ``Popen``."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        code = self.poll()
        if code is None:
            raise TimeoutError(f"process {self.pid} did not end in {timeout} s")
        return code


class Nursery:
    """Starts processes by forking one that has imported the product, with its commits widened.

    Parameters
    ----------
    window_s
        How long a process stays at each step of a commit.
    order
        Of the writes: the product's own, or a naive one.
    orders
        The same by the name of the process, for those that differ.
    """

    def __init__(self, window_s: float = 0.0, order: str = AS_IT_IS, orders: dict[str, str] | None = None):
        self.window_s, self.order, self.orders = window_s, order, orders or {}

    def launch(self, world: Any, name: str, arguments: list[str]) -> Forked:
        context = multiprocessing.get_context("forkserver")
        with _environment(WORLD):
            context.set_forkserver_preload(
                [__name__, "stream_al.cli.app", "stream_al.service.loop", "stream_al.transport.kafka"]
            )
            process = context.Process(
                target=_run,
                args=(arguments, world.where, name, self.window_s, self.orders.get(name, self.order)),
                daemon=True,
            )
            process.start()
        return Forked(process)


@contextlib.contextmanager
def _environment(names: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
