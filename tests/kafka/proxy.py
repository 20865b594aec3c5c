"""A cable between clients and a broker, to be cut: a TCP proxy on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Cable:
    """Forwards connections to ``port`` until it is cut.

    ``cut`` ends all connections and refuses new ones; ``hang`` leaves them open and carries nothing, as a firewall
    that drops packets; ``mend`` ends both.
    """

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.target = 0
        self.carries, self.closed = threading.Event(), threading.Event()
        self.refuses = False
        self.ends: set[socket.socket] = set()

    def to(self, port: int) -> Self:
        self.target = port
        self.carries.set()
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def cut(self) -> None:
        self.refuses = True
        self._end_all()

    def hang(self) -> None:
        self.carries.clear()

    def mend(self) -> None:
        """Carry again, on new connections: those that hung are ended, as their peers would find."""
        self.refuses = False
        if not self.carries.is_set():
            self._end_all()
        self.carries.set()

    def close(self) -> None:
        self.closed.set()
        self.carries.set()
        self.listener.close()
        self._end_all()

    def _end_all(self) -> None:
        for end in list(self.ends):
            self._end(end)

    def _end(self, end: socket.socket) -> None:
        self.ends.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def _accept(self) -> None:
        while not self.closed.is_set():
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            self.ends |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                self.carries.wait()
                other.sendall(data)
        self._end(one)
        self._end(other)
