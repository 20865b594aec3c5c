"""Many pieces of work in this process or in several; it can be stopped at any moment."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from stream_al.logs import configure

LOOK_S = 0.1

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Stopped(Exception):  # noqa: N818  no error: somebody wanted it
    """Raised where work was told to stop."""


class Stop(Protocol):
    """What can be asked whether to stop: an event of threads or of processes."""

    def is_set(self) -> bool:
        """Say whether somebody wants the end."""


def answers(
    work: Callable[[Shared, Task, Stop], Answer],
    shared: Shared,
    tasks: Sequence[Task],
    jobs: int,
    stop: Stop,
) -> Iterator[Answer]:
    """Do ``work(shared, task, stop)`` for each task; yield each answer when it is there.

    Workers are new interpreters; ``shared`` is sent to each of them once.

    Raises
    ------
    Stopped
        Once somebody has set ``stop``; what was not done by then is not yielded.
    ChildProcessError
        If a process was ended from outside, as one that needs too much memory is.
    """
    if jobs <= 1 or len(tasks) < 2:
        for task in tasks:
            if stop.is_set():
                raise Stopped
            yield work(shared, task, stop)
        return
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, _begin, (work, shared, ended)) as pool:
        try:
            with _deaf():  # workers are started here, and inherit it
                left = {pool.submit(_work, task) for task in tasks}
            while left:
                done, left = wait(left, LOOK_S, FIRST_COMPLETED)
                if stop.is_set():
                    raise Stopped
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process was ended from outside, perhaps for want of memory; try fewer --jobs"
            ) from None
        finally:
            ended.set()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C, which a terminal sends to workers, too: they are told to stop otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_given: dict[str, Any] = {}  # of a worker


def _begin(work: Callable[..., Any], shared: Any, stop: Stop) -> None:
    configure("error")
    _given.update(work=work, shared=shared, stop=stop)


def _work(task: Any) -> Any:
    return _given["work"](_given["shared"], task, _given["stop"])
