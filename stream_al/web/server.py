"""The HTTP server: uvicorn in a thread of its own, on a socket that was bound before.

The caller's thread owns the signals and binds the port: a taken one is its error, and not a silent thread's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import Self

import structlog
import uvicorn

from stream_al.service.desk import DeskRoom
from stream_al.service.figures import Figures
from stream_al.transport.port import Closeable
from stream_al.web.app import create_app, secured
from stream_al.web.board import Board
from stream_al.web.limits import MOST_HEADERS, Protocol

log = structlog.get_logger("stream_al.http")

START_S, STOP_S = 10.0, 5.0
DRAIN_S = 1
BACKLOG = 128


class HttpServer(Closeable):
    """Metrics, health and pages on one port.

    Parameters
    ----------
    host, port
        Where to listen; port 0 is any free one.
    board
        Where the figures are shown; None: one of its own.
    room
        Where people answer; None: nowhere.
    """

    def __init__(
        self, host: str, port: int, board: Board | None = None, room: DeskRoom | None = None
    ) -> None:
        self.host, self.port, self.room = host, port, room
        self.board = board or Board()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  read, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> Self:
        """Listen; return when requests are answered, with ``port`` the real one.

        Raises
        ------
        OSError
            The address cannot be listened on; the message names it and the keys to change.
        """
        listener = listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._server = server = _Server(_settings(secured(create_app(self.board, self.room))))
        self._thread = threading.Thread(target=server.answer, args=(listener,), name="http", daemon=True)
        self._thread.start()
        server.decided.wait(START_S)
        if not server.started:
            self.stop()
            listener.close()
            raise OSError(f"the HTTP server on {self.host}:{self.port} did not start; the log says why")
        log.info("listening", url=self.url)
        return self

    def publish(self, figures: Figures) -> None:
        """Show new figures; called by the service's loop."""
        self.board.publish(figures)

    def stop(self) -> None:
        """Stop within ``STOP_S`` seconds, whatever the clients do."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._server = self._thread = None
        server.should_exit = True
        thread.join(STOP_S)
        if thread.is_alive():
            server.force_exit = True
            log.warning("the HTTP server did not stop in time", seconds=STOP_S)

    def close(self) -> None:
        self.stop()


class _Server(uvicorn.Server):
    """Says when it listens or has failed to; takes no signals, because it never runs in the main thread."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.decided = threading.Event()

    def answer(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self.serve([listener]))
        except Exception:
            log.exception("the HTTP server has failed")
        finally:
            self.decided.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.decided.set()


def _settings(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="asyncio",
        http=Protocol,
        h11_max_incomplete_event_size=MOST_HEADERS,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises
    ------
    OSError
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = min((info[0] for info in found), key=lambda f: f != socket.AF_INET)  # localhost is 127.0.0.1
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except socket.gaierror as why:
        raise OSError(f"http.host {host!r} is not an address of this machine: {why.strerror}") from why
    except OSError as why:
        raise OSError(
            f"cannot listen on {host}:{port}: {os.strerror(why.errno or 0).lower()};"
            " choose another http.port (0: any free one, null: none) or http.host"
        ) from why
