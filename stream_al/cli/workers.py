"""Several scorers of one group, each a process of its own, and the process that watches over them.

The watching process reads nothing: it passes SIGTERM and SIGINT on, and where one worker ends unasked it ends all of
them with that worker's exit code, so that whoever started it starts them all again. Workers end by themselves when it
is killed. What they share on disk is the state directory, and that many processes may use at once (see ``Snapshots``).
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import structlog
import typer

from stream_al import logs
from stream_al.cli.outcome import FAILURE, OK, misuse, report

if TYPE_CHECKING:
    from stream_al.config import Settings
    from stream_al.service.loop import Loop

log = structlog.get_logger("stream_al.workers")

LOOK_S = 0.2
DRAIN_S = 9.0  # Docker kills after 10
HIGHEST_PORT = 65_535
ENDINGS = (signal.SIGTERM, signal.SIGINT)


def supervise(settings: Settings, workers: int) -> int:
    """Run scorers until told to stop, or until one of them ends; return the exit code."""
    _refuse(settings, workers)
    stopping = threading.Event()
    for name in ENDINGS:
        signal.signal(name, lambda *_: stopping.set())
    started = _start(settings, workers)
    log.info("started", workers=workers, processes=[process.pid for process in started])
    code = OK
    while not stopping.is_set() and not code:
        connection.wait([process.sentinel for process in started], LOOK_S)
        code = _ended(started)
    return _stop(started) or code


def _refuse(settings: Settings, workers: int) -> None:
    port = settings.http.port
    if settings.broker.url == "embedded://:memory:":
        raise misuse(
            "--workers needs a broker that processes share; broker.url is a log in the memory of one"
        )
    if port and port + workers - 1 > HIGHEST_PORT:
        raise misuse(f"--workers {workers}: http.port and the next {workers - 1} ports end at {HIGHEST_PORT}")


def _start(settings: Settings, workers: int) -> list[BaseProcess]:
    context = multiprocessing.get_context("spawn")
    started: list[BaseProcess] = [
        context.Process(target=_work, args=(_of_worker(settings, i), i), name=f"worker-{i}")
        for i in range(workers)
    ]
    resource_tracker.ensure_running()  # or the first start would unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # inherited: kept until a worker can hear them
    try:
        for process in started:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return started


def _of_worker(settings: Settings, i: int) -> Settings:
    """Return the settings with a port of the worker's own: counters of processes must not be mixed."""
    port = settings.http.port
    return settings.model_copy(
        update={"http": settings.http.model_copy(update={"port": port + i if port else port})}
    )


def _ended(started: Sequence[BaseProcess]) -> int:
    """Return the exit code that a worker which ended unasked leaves to all; 0 while none has."""
    for i, process in enumerate(started):
        code = process.exitcode
        if code is not None:
            log.error("a worker has ended; the others are told to stop", worker=i, exit_code=code)
            return 128 - code if code < 0 else code or FAILURE
    return OK


def _stop(started: Sequence[BaseProcess]) -> int:
    """End all workers after their last commit; return FAILURE if one had to be killed or failed meanwhile."""
    alive = [process for process in started if process.is_alive()]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + DRAIN_S
    for process in alive:
        process.join(max(deadline - time.monotonic(), 0.0))
    for process in alive:
        if process.is_alive():
            log.error("a worker did not end in time and is killed; nothing is lost", worker=process.name)
            process.kill()
            process.join()
    return FAILURE if any(process.exitcode for process in alive) else OK


def _work(settings: Settings, i: int) -> None:
    """Be worker ``i``."""
    logs.configure(settings.log.level, settings.log.format, worker=i)
    from stream_al.cli.running import serve

    try:
        serve(settings, "scorer", _listen_to_the_leader)
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except Exception as error:  # noqa: BLE001  said as by every verb
        sys.exit(report(error))


def _listen_to_the_leader(loop: Loop) -> None:
    """End when told to, by a signal or by the end of the process that watches over this one."""
    loop.install_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
    leader = multiprocessing.parent_process()
    assert leader is not None

    def outlive() -> None:
        leader.join()
        loop.stop()

    threading.Thread(target=outlive, name="leader", daemon=True).start()
