"""The desk over HTTP: the pages for people, and the API that they and other programs use.

Nothing here waits for the service's loop, samples apart: an answer is kept by the time it is acknowledged, and
published later. Every handler runs in the server's one thread, and holds the room's lock for microseconds.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections import Counter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer

from stream_al.codec import BadRecord, SampleDecoder
from stream_al.core.desk_facts import Refused
from stream_al.core.messages import milliseconds
from stream_al.service.desk import DeskRoom
from stream_al.transport.port import Output, Unavailable
from stream_al.web import desk_forms as forms
from stream_al.web import resource
from stream_al.web.access import Access, Caller, Denied
from stream_al.web.limits import HEADERS

WRITE_S = 5.0
STATUS = {"unknown": 404, "closed": 409, "answered": 409, "published": 409, "no_class": 409}
SHOWN = 100  # flagged questions on the desk page

_NOT_YOU: dict[int | str, dict[str, Any]] = {
    401: {"model": forms.Problem, "description": "No valid token."},
    403: {"model": forms.Problem, "description": "Not for you."},
    422: {"model": forms.Problem, "description": "Not of the documented form."},
    503: {"model": forms.Problem, "description": "Not now; try again."},
}
_NOT_OPEN: dict[int | str, dict[str, Any]] = {
    404: {"model": forms.Problem, "description": "No such question is open."},
    409: {
        "model": forms.Problem,
        "description": "It is closed, answered by somebody else, published, or no such class is known.",
    },
}
_NOT_FIT: dict[int | str, dict[str, Any]] = {
    409: {
        "model": forms.Problem,
        "description": "A sample does not fit the configuration; none was accepted.",
    }
}
_token = HTTPBearer(
    auto_error=False, description="The token of desk.people; none where nobody is named there."
)


def add_desk(app: FastAPI, room: DeskRoom) -> None:
    """Serve the desk's pages and its API."""
    app.state.room, app.state.access = room, Access(room.settings)
    app.include_router(_pages(room))
    app.include_router(_Api(room).router)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(OSError, _unkept)
    app.add_exception_handler(_Unfit, _unfit)


def problem(status: int, reason: str, detail: str) -> JSONResponse:
    """Return an answer that says what is wrong."""
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"reason": reason, "detail": detail}, status_code=status, headers=headers)


def _refused(_: Request, why: Exception) -> JSONResponse:
    assert isinstance(why, Refused)
    return problem(STATUS[why.reason], why.reason, str(why))


def _failed(_: Request, why: Exception) -> JSONResponse:
    assert isinstance(why, HTTPException)
    return problem(
        why.status_code, {401: "token", 403: "forbidden"}.get(why.status_code, "unavailable"), why.detail
    )


def _malformed(_: Request, why: Exception) -> JSONResponse:
    """Say what is wrong with a body without repeating it: it may hold anything."""
    assert isinstance(why, RequestValidationError)
    first = why.errors()[0]
    place = ".".join(str(part) for part in first["loc"][:3])
    return problem(422, "form", f"{place[:100]}: {str(first['msg'])[:200]}")


class _Unfit(Exception):  # noqa: N818  the name of the fact
    """A sample that the configuration's mapping does not fit."""


def _unfit(_: Request, why: Exception) -> JSONResponse:
    return problem(409, "sample", str(why))


def _unkept(_: Request, why: Exception) -> JSONResponse:
    return problem(503, "unavailable", str(why))


# --- pages ---------------------------------------------------------------------------------------------------


def _pages(room: DeskRoom) -> APIRouter:
    """Return the two pages, each one file that loads nothing else."""
    router = APIRouter(include_in_schema=False)
    images = "data: http: https:" if room.settings.samples.image else "data:"
    for path in ("label", "desk"):
        text = resource(f"{path}.html").replace("/* palette.css */", resource("palette.css"))
        router.add_api_route(f"/{path}", _page(text, images), methods=["GET"], response_class=HTMLResponse)
    return router


def _page(text: str, images: str) -> Any:
    policy = f"{HEADERS['content-security-policy']}; connect-src 'self'; img-src {images}"
    for kind in ("script", "style"):
        hashes = " ".join(
            f"'sha256-{_digest(body)}'" for body in re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        )
        policy += f"; {kind}-src {hashes}"

    async def page() -> HTMLResponse:
        return HTMLResponse(text, headers={"content-security-policy": policy})

    return page


def _digest(body: str) -> str:
    return base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()


# --- who asks ------------------------------------------------------------------------------------------------


async def _caller(request: Request, _: Annotated[Any, Depends(_token)]) -> Caller:
    access: Access = request.app.state.access
    found = access.who(request.method, request.headers)
    if isinstance(found, Denied):
        raise HTTPException(found.status, found.why)
    return found


async def _anybody(request: Request, found: Annotated[Caller, Depends(_caller)]) -> Caller:
    room: DeskRoom = request.app.state.room
    if not room.ready:
        raise HTTPException(503, f"the desk is not open yet: {room.why_not}")
    return found


async def _owner(found: Annotated[Caller, Depends(_anybody)]) -> Caller:
    if not found.owner:
        raise HTTPException(403, "this is for the owner of the desk")
    return found


Anybody = Annotated[Caller, Depends(_anybody)]
Owner = Annotated[Caller, Depends(_owner)]


# --- API -----------------------------------------------------------------------------------------------------


class _Api:
    """The routes, over one room."""

    def __init__(self, room: DeskRoom) -> None:
        self.room = room
        s = room.settings.samples
        self.decode = SampleDecoder(s.id, s.features, s.timestamp, s.max_bytes)
        self.router = APIRouter(tags=["desk"], responses=_NOT_YOU)
        self._add_routes()

    def _add_routes(self) -> None:
        router = self.router

        @router.get("/me", summary="Who you are, and what a label page has to know")
        async def me(who: Anybody) -> forms.Me:
            return self._me(who)

        @router.post("/samples", status_code=201, responses=_NOT_FIT, summary="Add samples to the stream")
        async def samples(_: Owner, body: forms.Samples) -> forms.Sent:
            return await self._send(body)

        @router.get("/requests", summary="Look at the open questions, taking none")
        async def requests(_: Anybody, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> forms.Queue:
            return self._queue(limit)

        @router.post("/requests/lease", responses=_NOT_OPEN, summary="Take questions to answer")
        async def lease(who: Anybody, body: forms.Lease) -> forms.Work:
            return self._lease(who, body)

        @router.post("/labels", responses=_NOT_OPEN, summary="Answer a question, or change the answer")
        async def labels(who: Anybody, body: forms.Answer) -> forms.Taken:
            given = self.room.answer(
                who.name,
                body.request_id,
                body.label,
                seconds=body.seconds,
                new_class=body.new_class,
                owner=who.owner,
            )
            state = "published" if given is None else "held" if given.held else "answered"
            return self._taken(who, state)

        @router.post(
            "/requests/{request_id}/skip", responses=_NOT_OPEN, summary="Leave a question unanswered"
        )
        async def skip(who: Anybody, request_id: str, body: forms.Skip) -> forms.Taken:
            given = self.room.answer(who.name, request_id, None, seconds=body.seconds)
            return self._taken(who, "published" if given is None else "answered")

        @router.post("/requests/{request_id}/undo", responses=_NOT_OPEN, summary="Take an answer back")
        async def undo(who: Anybody, request_id: str) -> forms.Undone:
            item = self.room.undo(who.name, request_id)
            question = None if item is None else forms.question_of(item)
            return forms.Undone(question=question, recent=self._recent(who))

        @router.post("/requests/{request_id}/flag", responses=_NOT_OPEN, summary="Put a question aside")
        async def flag(who: Anybody, request_id: str) -> forms.Taken:
            self.room.flag(who.name, request_id)
            return self._taken(who, "flagged")

        @router.post(
            "/requests/{request_id}/release", responses=_NOT_OPEN, summary="Put a flagged question back"
        )
        async def release(who: Owner, request_id: str) -> forms.Taken:
            self.room.release(request_id)
            return self._taken(who, "answered")

        @router.post("/classes", summary="Accept or dismiss a class that annotators named")
        async def classes(_: Owner, body: forms.Decision) -> forms.Decided:
            return forms.Decided(answers=self.room.decide(body.label, as_label=body.as_label))

        @router.get("/figures", summary="How the people and the model do")
        async def figures(_: Owner) -> forms.Figures:
            return self._figures()

    # --- answers ---------------------------------------------------------------------------------------------

    def _me(self, who: Caller) -> forms.Me:
        s, room = self.room.settings, self.room
        with room.lock:
            machine = room.machine
            return forms.Me(
                name=who.name,
                role=who.role,
                open=not s.desk.people,
                task=machine.task,
                classes=self._classes(),
                fixed=machine.fixed,
                text=s.samples.text,
                image=s.samples.image,
                ranges=dict(machine.ranges),
                grace_s=s.desk.grace_s,
                lease_s=s.desk.lease_s,
            )

    def _classes(self) -> list[forms.Class]:
        return [forms.class_of(label) for label in self.room.machine.classes]

    def _recent(self, who: Caller) -> list[forms.Given]:
        with self.room.lock:
            latest = self.room.machine.latest(who.name, self.room.clock())
        return [forms.given_of(recent) for recent in latest]

    def _taken(self, who: Caller, state: Any) -> forms.Taken:
        return forms.Taken(state=state, recent=self._recent(who))

    def _lease(self, who: Caller, body: forms.Lease) -> forms.Work:
        room = self.room
        with room.lock:
            items = []
            if body.request_id is not None:
                if not who.owner:
                    raise HTTPException(403, "only the owner of the desk chooses a question")
                items = [room.lease_one(who.name, body.request_id)]
            items += [i for i in room.lease(who.name, body.count) if i not in items]
            return forms.Work(
                questions=[forms.question_of(item) for item in items],
                waiting=room.machine.waiting(who.name),
                recent=self._recent(who),
                classes=self._classes(),
            )

    def _queue(self, limit: int) -> forms.Queue:
        with self.room.lock:
            lines = list(self.room.machine.lines(self.room.clock()))
        rows = [forms.row_of(line) for line in lines if line.state != "published"]
        return forms.Queue(open=len(rows), requests=rows[:limit])

    async def _send(self, body: forms.Samples) -> forms.Sent:
        outputs = [self._sample(n, sample) for n, sample in enumerate(body.samples)]
        done = asyncio.wrap_future(self.room.send(outputs))
        try:
            await asyncio.wait_for(done, WRITE_S)
        except (TimeoutError, Unavailable):
            raise HTTPException(503, "the broker did not take the samples in time; send them again") from None
        return forms.Sent(accepted=len(outputs))

    def _sample(self, number: int, sample: dict[str, Any]) -> Output:
        topic = self.room.settings.topics.samples
        try:
            value = msgspec.json.encode(sample)
            self.decode(_Sent(value, topic))
        except (BadRecord, ValueError, RecursionError) as why:
            raise _Unfit(f"samples.{number}: {why}") from None
        return Output(topic, value)

    def _figures(self) -> forms.Figures:
        room, now = self.room, self.room.clock()
        picture = room.picture
        with room.lock:
            machine = room.machine
            lines = list(machine.lines(now))
            states = Counter(line.state for line in lines)
            oldest = min(
                (milliseconds(x.requested_at) for x in lines if x.state in {"waiting", "leased"}), default=now
            )
            people, agreement, anchor = (
                machine.figures.annotators,
                machine.figures.agreement,
                machine.figures.anchoring,
            )
            flagged = [
                forms.Flag(request_id=r, id=q.request.id, by=q.flagged_by)
                for r, q in machine.questions.items()
                if q.flagged_by
            ][:SHOWN]
            return forms.Figures(
                model=room.settings.name,
                queue=forms.QueueFigures(
                    open=states["waiting"] + states["leased"],
                    waiting=states["waiting"],
                    leased=states["leased"],
                    answered=states["answered"],
                    oldest_s=max(0.0, (now - oldest) / 1000),
                ),
                answers_last_hour=machine.figures.rate(now),
                budget=[
                    forms.Limit(window=name, limit=limit, spent=picture.spent.get(name, 0))
                    for name, limit in picture.limits.items()
                ],
                samples=picture.samples,
                labels=picture.labels,
                warming=picture.warming,
                accuracy=forms.between_of(picture.accuracy),
                history=[
                    forms.Stretch(samples=p.samples, accuracy=forms.between_of(p.accuracy))
                    for p in picture.history
                ],
                drift=list(picture.drift),
                anchoring=forms.Anchor(
                    shown=forms.Share(agreed=anchor.shown[0], of=anchor.shown[1]),
                    hidden=forms.Share(agreed=anchor.hidden[0], of=anchor.hidden[1]),
                    difference=forms.between_of(anchor.difference),
                ),
                agreement=forms.Agree(
                    pairs=agreement.pairs, agreed=agreement.agreed, kappa=forms.between_of(agreement.kappa)
                ),
                annotators=[
                    forms.PersonFigures(
                        name=name,
                        labels=p.labels,
                        skips=p.skips,
                        opinions=p.opinions,
                        disagreed=p.disagreed,
                        seconds=p.seconds,
                    )
                    for name, p in sorted(people.items(), key=lambda item: -item[1].labels)
                ],
                proposed=[
                    forms.Proposal(
                        label=forms.class_of(given[0].label),
                        answers=len(given),
                        annotators=sorted({g.annotator for g in given}),
                    )
                    for given in machine.held().values()
                    if given[0].label is not None
                ],
                flagged=flagged,
                classes=self._classes(),
            )


class _Sent:
    """A sample before it is a record, for the decoder."""

    partition, offset, timestamp, key = 0, 0, 0, None
    headers: tuple[tuple[str, bytes], ...] = ()

    def __init__(self, value: bytes, topic: str) -> None:
        self.value, self.topic = value, topic
