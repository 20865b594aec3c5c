"""Limits of the HTTP server: nobody who can reach the port may wear the service down.

Health and readiness are answered to everybody at any rate: whoever is turned away there has the process killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import h11
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_BODY = 64 * 1024
MOST_HEADERS = 16 * 1024
RATE_PER_S, BURST = 20.0, 100.0
MOST_CLIENTS = 1_024
MOST_CONNECTIONS = 256
FIRST_REQUEST_S = 10.0
PROBES = frozenset({"/healthz", "/readyz"})

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


class Rates:
    """Requests that each client may still make: ``BURST`` at once, ``RATE_PER_S`` in the long run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # client → requests left, at which time

    def take(self, client: str) -> bool:
        """Count one request; return whether it may be answered."""
        now = self._clock()
        left, at = self._left.pop(client, (BURST, now))
        left = min(BURST, left + (now - at) * RATE_PER_S)
        if len(self._left) >= MOST_CLIENTS:
            del self._left[next(iter(self._left))]  # the one silent for longest
        self._left[client] = (max(0.0, left - 1), now)
        return left >= 1


class Limits:
    """Refuses large bodies (413) and too many requests (429) before the application sees them."""

    def __init__(self, app: ASGIApp, rates: Rates | None = None) -> None:
        self.app = app
        self.rates = rates or Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BODY:  # of no stated length
                return {"type": "http.disconnect"}
            return message

        await self.app(scope, limited, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if int(length) > MOST_BODY:  # h11 has checked that it is a number
            return PlainTextResponse(
                f"at most {MOST_BODY} bytes\n", status_code=413, headers={"connection": "close"}
            )
        client = (scope.get("client") or ("",))[0]
        if scope["path"] not in PROBES and not self.rates.take(client):
            return PlainTextResponse("too many requests\n", status_code=429, headers={"retry-after": "1"})
        return None


class Protocol(H11Protocol):
    """Takes a limited number of connections, and none that asks for nothing; secures its own answers too."""

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > MOST_CONNECTIONS:
            self.transport.abort()
        else:
            self.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        headers = {**HEADERS, "content-type": "text/plain; charset=utf-8", "connection": "close"}
        answer = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
        for event in (answer, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
