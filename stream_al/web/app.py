"""What is answered over HTTP: metrics, health, readiness, an index of them, and the desk where people answer.

Every answer about the service comes from the board's latest picture; nothing here waits for the service.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_al import __version__
from stream_al.metrics import Exposition
from stream_al.service.desk import DeskRoom
from stream_al.web.board import Board
from stream_al.web.desk import add_desk
from stream_al.web.limits import HEADERS, Limits

PAGES = {
    "/metrics": "figures for Prometheus",
    "/healthz": "whether the process is alive",
    "/readyz": "whether it does its work, and if not, why",
}
DESK_PAGES = {
    "/label": "the questions, one at a time",
    "/desk": "how the people and the model do, for the owner",
    "/openapi.json": "what programs may ask here",
}


def create_app(board: Board, room: DeskRoom | None = None) -> FastAPI:
    """Return the application that shows what is on the board and, where there is a room, lets people answer."""
    document = None if room is None else "/openapi.json"
    app = FastAPI(
        title="stream-al",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=document,
        redirect_slashes=False,
    )
    exposition = Exposition(lambda: board.figures)

    async def metrics(request: Request) -> Response:
        body, content_type = exposition.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        return _health(board)

    async def readyz(_: Request) -> Response:
        return _readiness(board)

    async def index(_: Request) -> Response:
        return HTMLResponse(_index(PAGES if room is None else {**DESK_PAGES, **PAGES}))

    for path, answer in {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/": index}.items():
        app.add_route(path, answer)
    if room is not None:
        add_desk(app, room)
    return app


def secured(app: ASGIApp) -> ASGIApp:
    """Return an application within its limits, whose every answer, also of an error, carries the headers."""
    return _Headers(Limits(app))


def _health(board: Board) -> JSONResponse:
    silent_s = round(board.silent_s(), 1)
    if board.alive():
        return JSONResponse({"healthy": True, "silent_s": silent_s})
    return JSONResponse({"healthy": False, "why": _silence(silent_s)}, status_code=503)


def _readiness(board: Board) -> JSONResponse:
    figures = board.figures
    why = figures.why_not if board.alive() else _silence(round(board.silent_s(), 1))
    if not (figures.ready and board.alive()):
        return JSONResponse({"ready": False, "why": why}, status_code=503)
    roles = [name for name in ("scorer", "learner", "desk") if getattr(figures, name)]
    return JSONResponse(
        {
            "ready": True,
            "roles": roles,
            "ledger_id": figures.ledger_id,
            "ledger_position": figures.ledger_position,
            "ledger_lag": figures.ledger_lag,
            "model_version": figures.model_version,
        }
    )


def _silence(seconds: float) -> str:
    return f"the service's loop has said nothing for {seconds} s"


def _index(pages: Mapping[str, str]) -> str:
    links = "\n".join(f'<li><a href="{path}">{path}</a>: {what}</li>' for path, what in pages.items())
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>stream-al</title>\n<h1>stream-al {__version__}</h1>\n<ul>\n{links}\n</ul>\n</html>\n"
    )


class _Headers:
    """Adds the headers that every answer should carry; a page that needs more sets its own, which is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, secured)
