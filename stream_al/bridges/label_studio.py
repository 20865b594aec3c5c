"""The bridge to Label Studio: requests become tasks there, annotations become answers on ``labels``.

Whoever owns partition 0 of the ledger in the group ``<group>-label-studio`` works; others stand by. Its answers are
written in a commit of that group, so that one whose place was taken writes nothing. What Label Studio was told cannot
be fenced; ``studio_table`` says how that is mended.

A round, every ``label_studio.poll_s`` seconds, makes one HTTP call after the other; between two of them the topics are
followed, so that a slow Label Studio costs the membership nothing:

1. at the first: the token, the project and its labelling configuration are looked at, or made;
2. tasks that changed since the last round are read, with an overlap, and their answers written;
3. classes that are new are added to the project;
4. open requests that are no tasks yet are imported. After an import whose outcome is not known, 2 comes first;
5. tasks of requests that are closed, and duplicates, are deleted, if nobody has annotated them.

Label Studio may be away at any point: the round ends, and another begins after a pause that grows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import structlog

from stream_al.bridges.label_config import NoControl, new_config, widened
from stream_al.bridges.studio_client import Away, Denied, Refused, StudioClient
from stream_al.bridges.studio_table import Asked, StudioTable, chosen, news
from stream_al.codec import BadRecord, annotated, answer_bytes, decode_answer, decode_request
from stream_al.config import ConfigError, Settings
from stream_al.core.labels import label_key, same
from stream_al.core.messages import Answer, timestamp
from stream_al.service.follower import Follower
from stream_al.service.trouble import Trouble
from stream_al.transport.port import (
    Broker,
    Closeable,
    Member,
    Output,
    Reader,
    Rebalanced,
    Record,
    TopicPartition,
    Unavailable,
)

log = structlog.get_logger("stream_al.label_studio")

AT_ONCE = 500
PAGE = 500
OVERLAP_MS = 30_000  # a task's time is taken before its transaction is visible
CLOCKS_DIFFER_MS = 3_600_000  # at the first look, by the clock of requests
SWEEP_MS = 250
FIRST_WAIT_MS, LONGEST_WAIT_MS = 500, 60_000
TITLES = 1_000  # of projects a page
# of tasks, and of the annotations inside them: Label Studio drops what is not named here on both levels
FIELDS = "id,meta,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at"


class LabelStudioTask(Closeable):
    """One member of the bridges' group: at work or standing by.

    Raises
    ------
    ConfigError
        There is no address, or no token.
    """

    def __init__(
        self, broker: Broker, settings: Settings, follower: Follower, clock: Callable[[], int]
    ) -> None:
        self.broker, self.settings, self.follower, self.clock = broker, settings, follower, clock
        self.client = StudioClient(*address(settings))
        self.ledger = TopicPartition(settings.topics.ledger, 0)
        self.member: Member | None = None
        self.table: StudioTable | None = None  # None: standing by
        self.requests: Reader | None = None
        self.labels: Reader | None = None
        self.ends: dict[TopicPartition, int] = {}  # to be read before Label Studio is asked
        self.settled = False
        self.swept_ms, self.swept_at = 0, -1
        self.project = 0  # its number; 0: not looked at yet
        self.config = ""
        self.people: dict[int, str] = {}  # e-mail addresses by the number that annotations give
        self.since_ms = 0  # Label Studio's clock at the last look; 0: there was none
        self.round: Iterator[None] | None = None
        self.next_ms = 0
        self.wait_ms = FIRST_WAIT_MS
        self.away = ""  # why Label Studio does not answer
        self.done: Counter[str] = Counter()
        self.unusable = Trouble(log, "an annotation holds no answer; it stays in Label Studio")

    @property
    def ready(self) -> bool:
        """Whether this process is at work and Label Studio answers, or stands by."""
        joined = self.member is not None and self.follower.fold.genesis is not None
        return joined and (self.table is None or (self.project > 0 and not self.away))

    @property
    def why_not(self) -> str:
        """What a bridge that is not ready waits for."""
        if self.away:
            return f"Label Studio is away: {self.away}"
        return "joining the group of the bridges" if self.member is None else "looking at Label Studio"

    # --- turns -----------------------------------------------------------------------------------------------

    def turn(self) -> int:
        """Read what is new, and make one call; return the records read."""
        if self.follower.fold.genesis is None:
            return 0
        if self.member is None:
            self.follower.catch_up(self.follower.end())  # nobody is asked what is closed already
            group = f"{self.settings.group}-label-studio"
            self.member = self.broker.join(group, self.ledger.topic, writer=group, fetch=False)
        polled = self.member.poll(0, 0.0)
        if self.ledger in polled.revoked:
            self._stand_by()
        if self.ledger in polled.assigned:
            self._begin(self.member)
        if self.table is None:
            return 0
        done = self._follow(self.table)
        if self.settled:
            self._call()
        return done

    def _begin(self, member: Member) -> None:
        """Take the place of whoever had it: read both topics from their start, and Label Studio anew."""
        self._stand_by()
        member.fence_predecessors()
        member.seek(self.ledger, self.follower.position())
        t = self.settings.topics
        self.requests = self._reader(t.labels_requested)
        self.labels = self._reader(t.labels)
        for topic in (t.labels_requested, t.labels):
            self.ends |= _places(topic, self.broker.ends(topic))
        self.table = StudioTable()
        log.info("at work", url=self.client.url)

    def _reader(self, topic: str) -> Reader:
        return self.broker.reader(_places(topic, self.broker.begins(topic)))

    def _stand_by(self) -> None:
        for reader in (self.requests, self.labels):
            if reader is not None:
                reader.close()
        self.requests = self.labels = self.table = self.round = None
        self.ends = {}
        self.settled = False
        self.swept_at = -1
        self.project = self.since_ms = 0

    # --- topics ----------------------------------------------------------------------------------------------

    def _follow(self, table: StudioTable) -> int:
        """Take in what is new on both topics, and what the ledger closed."""
        assert self.requests is not None
        assert self.labels is not None
        done = self._read(self.requests, self._request)
        if self._behind(self.requests):
            return done  # an answer is understood only if its request is known
        done += self._read(self.labels, self._answered)
        self.settled = not self._behind(self.labels)
        now, fold = self.clock(), self.follower.fold
        if now - self.swept_ms >= SWEEP_MS:
            self.swept_ms = now
            if fold.position != self.swept_at:
                self.swept_at = fold.position
                table.close_all(fold.closed)
            table.expire(now)
        return done

    def _behind(self, reader: Reader) -> bool:
        """Whether a topic is not read yet to where it ended at the beginning."""
        t = self.settings.topics
        topic = t.labels if reader is self.labels else t.labels_requested
        return any(reader.position(tp) < end for tp, end in self.ends.items() if tp.topic == topic)

    def _read(self, reader: Reader, take: Callable[[Record], None]) -> int:
        done = 0
        for records in reader.poll(AT_ONCE, 0.0).values():
            for record in records:
                take(record)
            done += len(records)
        return done

    def _request(self, record: Record) -> None:
        assert self.table is not None
        try:
            request = decode_request(record)
        except BadRecord:
            return  # the learner makes it a dead letter
        closed = request.request_id in self.follower.fold.closed
        self.table.request(request, record.value or b"", closed=closed)

    def _answered(self, record: Record) -> None:
        assert self.table is not None
        try:
            self.table.answered(decode_answer(record, self.follower.fold.task))
        except BadRecord:
            return

    # --- Label Studio ----------------------------------------------------------------------------------------

    def _call(self) -> None:
        """Make the next call of a round, or begin one that is due."""
        now = self.clock()
        if self.round is None:
            longest = max(LONGEST_WAIT_MS, self._poll_ms)  # more is a clock that was set back
            if now < self.next_ms <= now + longest or self._grown():
                return
            self.round = self._calls()
        try:
            next(self.round)
        except StopIteration:
            self.round = None
            self.next_ms = self.clock() + self._poll_ms
            self._tell()
        except Away as why:
            self._pause(str(why))
        except Refused as why:
            if why.status == 404:  # the project is gone: look for it once more, and read everything anew
                self.abandon()
            self._pause(f"{self.client.url} answers {why}")
        except Denied as why:
            self._deny(str(why), self._token_key if why.token else "label_studio.url")

    def _grown(self) -> bool:
        """Begin anew if a topic has more partitions than are read."""
        read = Counter(tp.topic for tp in self.ends)
        if all(self.broker.partitions(topic) == count for topic, count in read.items()):
            return False
        self.abandon()
        return True

    @property
    def _token_key(self) -> str:
        return f"label_studio.{'token_file' if self.settings.label_studio.token_file else 'token'}"

    @property
    def _poll_ms(self) -> int:
        return round(self.settings.label_studio.poll_s * 1000)

    def _pause(self, why: str) -> None:
        log.warning("Label Studio is away; trying again", why=why, seconds=self.wait_ms / 1000)
        self.away, self.round = why, None
        self.next_ms = self.clock() + self.wait_ms
        self.wait_ms = min(LONGEST_WAIT_MS, 2 * self.wait_ms)

    def _tell(self) -> None:
        if self.away:
            log.info("Label Studio is back")
        self.away, self.wait_ms = "", FIRST_WAIT_MS
        if self.done:
            log.info("exchanged with Label Studio", **self.done)
            self.done.clear()

    def _deny(self, why: str, key: str) -> NoReturn:
        raise ConfigError(f"{self.settings.where(key)} {key}: {why}")

    def _calls(self) -> Iterator[None]:
        """Yield after each call of a round."""
        table = self.table
        assert table is not None
        if not self.project:
            yield from self._connect(table)
        yield from self._pull(table)
        yield from self._offer(table)
        yield from self._import(table)
        yield from self._withdraw(table)

    # --- the project -----------------------------------------------------------------------------------------

    def _connect(self, table: StudioTable) -> Iterator[None]:
        """Find the project, or make it."""
        try:
            version = str(self.client.get("/api/version")["release"])
        except (Refused, KeyError, TypeError) as why:
            if isinstance(why, Refused) and why.status >= 500:
                raise
            self._deny(f"{self.client.url} is no Label Studio: it has no /api/version", "label_studio.url")
        yield
        self.client.get("/api/current-user/whoami")
        yield
        wanted = self.settings.label_studio.project
        found = self._numbered(wanted) if isinstance(wanted, int) else self._titled(wanted)
        yield
        if found is None:
            found = self._make(str(wanted), table)
            yield
        self.config = str(found["label_config"])
        self._widened(self.config, [])
        log.info("exchanging with a project", project=found["id"], title=found["title"], version=version)
        self.project = int(found["id"])

    def _numbered(self, number: int) -> Any:
        try:
            return self.client.get(f"/api/projects/{number}")
        except Refused as why:
            if why.status != 404:
                raise
            self._deny(f"there is no project {number} at {self.client.url}", "label_studio.project")

    def _titled(self, title: str) -> Any:
        page = self.client.get("/api/projects", {"title": title, "page_size": TITLES})
        found = [project for project in page["results"] if project["title"] == title]
        return min(found, key=lambda project: int(project["id"])) if found else None

    def _make(self, title: str, table: StudioTable) -> Any:
        shown, fold = self.settings.samples, self.follower.fold
        try:
            config = new_config(
                fold.task, self._classes(table), fixed=self._fixed, text=shown.text, image=shown.image
            )
        except NoControl as why:
            self._deny(str(why), "model.classes")
        project = {
            "title": title,
            "description": "Questions of stream-al. Tasks come and go by themselves.",
            "label_config": config,
            "sampling": "Sequential sampling",  # another order would leave out what it puts last
            "skip_queue": "IGNORE_SKIPPED",  # a skip is an answer
            "enable_empty_annotation": False,
            "show_collab_predictions": self.settings.label_studio.guess,
        }
        log.info("making the project", title=title)
        return self.client.call("POST", "/api/projects", json.dumps(project).encode())

    @property
    def _fixed(self) -> bool:
        genesis = self.follower.fold.genesis
        return genesis is not None and genesis.classes is not None

    def _classes(self, table: StudioTable) -> list[str]:
        """Return the keys of the classes that are known, or that an open request's guess names."""
        fold = self.follower.fold
        if fold.task == "regression" or fold.genesis is None:
            return []
        keys = [label_key(label) for label in fold.genesis.classes or fold.classes]
        guessed = {key for asked in table.waiting.values() for key in asked.classes}
        return [*keys, *sorted(guessed.difference(keys))]

    def _offer(self, table: StudioTable) -> Iterator[None]:
        """Add classes that the project does not offer yet."""
        keys = self._classes(table)
        if not self._widened(self.config, keys)[1]:
            return
        path = f"/api/projects/{self.project}"
        current = self.client.get(path)["label_config"]  # people may have changed it
        yield
        self.config, new = self._widened(str(current), keys)
        if not new:
            return
        try:
            self.client.call("PATCH", path, json.dumps({"label_config": self.config}).encode())
            log.info("the project offers more classes", new=new)
        except Refused as why:
            log.warning("Label Studio refuses more classes; add them there", new=new, why=str(why))
        yield

    def _widened(self, config: str, keys: list[str]) -> tuple[str, tuple[str, ...]]:
        """Return a configuration that offers these classes, too, and which are new in it; end where none can."""
        try:
            return widened(config, keys, self.follower.fold.task)
        except NoControl as why:
            self._deny(
                f"the labelling configuration of the project at {self.client.url} has no place for an answer: {why};"
                " add it, or name a project that is not there yet: it will be made",
                "label_studio.project",
            )

    # --- answers ---------------------------------------------------------------------------------------------

    def _pull(self, table: StudioTable) -> Iterator[None]:
        """Read what changed since the last look; at the first also what nobody has answered, however old."""
        since = self.since_ms - OVERLAP_MS
        looked_ms = 0
        if not self.since_ms:
            since = (table.first_ms or self.clock()) - CLOCKS_DIFFER_MS
        filters = [_filter("updated_at", "greater", "Datetime", timestamp(since))]
        if not self.since_ms:
            filters.append(_filter("completed_at", "empty", "Datetime", "true"))
        for one in filters:
            last, more = 0, True
            while more:  # by number, not by page: whatever comes and goes meanwhile, none is passed over
                tasks = self._page(one, last)
                looked_ms = looked_ms or self.client.server_ms
                more = len(tasks) == PAGE
                last = max((int(task["id"]) for task in tasks), default=last)
                yield from self._take(table, tasks)
                yield
        self.since_ms = max(looked_ms, self.since_ms)

    def _page(self, one: dict[str, Any], last: int) -> list[dict[str, Any]]:
        items = [one, _filter("id", "greater", "Number", last)]
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
        page = self.client.get(
            "/api/tasks",
            {
                "project": self.project,
                "fields": "all",
                "include": FIELDS,
                "page_size": PAGE,
                "query": json.dumps(query),
            },
        )
        return list(page["tasks"])

    def _take(self, table: StudioTable, tasks: list[dict[str, Any]]) -> Iterator[None]:
        """Note tasks and write what their annotations say."""
        found: list[tuple[Asked, Answer]] = []
        for task in tasks:
            asked, annotation = table.task(task, self.clock()), chosen(task)
            if asked is None or annotation is None:
                continue
            by = annotation.get("completed_by")
            if isinstance(by, int):
                if by not in self.people:
                    self._meet(by)
                    yield
                annotation = {**annotation, "completed_by": self.people[by]}
            try:
                answer = annotated(task, annotation, self.follower.fold.task)
            except BadRecord as problem:
                self.unusable.note(problem.reason, "task", int(task["id"]), int(annotation.get("id") or 0))
                continue
            if news(asked, answer) and not self._given(asked, answer):
                found.append((asked, answer))
        self._write(table, found)

    def _meet(self, number: int) -> None:
        """Learn people's names; whoever is not told is known by number."""
        try:
            users = self.client.get("/api/users")
        except (Refused, Denied):
            users = []
        self.people |= {
            int(u["id"]): str(u["email"]) for u in users if isinstance(u.get("id"), int) and u.get("email")
        }
        self.people.setdefault(number, str(number))

    def _given(self, asked: Asked, answer: Answer) -> bool:
        """Whether the ledger holds this very label for the request: its answer may be long gone from the topic."""
        fold = self.follower.fold
        given = fold.given.get(fold.answer_to(asked.request_id) or "")
        return given is not None and answer.label is not None and same(given, answer.label)

    def _write(self, table: StudioTable, found: list[tuple[Asked, Answer]]) -> None:
        if not found or self.member is None:
            return
        answers = [answer for _, answer in found]
        topic = self.settings.topics.labels
        outputs = [
            Output(topic, value, key=a.id.encode("utf-8", "surrogatepass"))
            for a, value in zip(answers, answer_bytes(answers), strict=True)
        ]
        try:
            self.member.commit(outputs, {})
        except Rebalanced as why:
            log.warning("commit refused; another bridge is at work", why=str(why))
            self.abandon()
            return
        except Unavailable:  # perhaps they are written: the topic says so
            self.abandon()
            raise
        for answer in answers:
            table.answered(answer)
        self.done["answers"] += len(answers)

    # --- tasks -----------------------------------------------------------------------------------------------

    def _import(self, table: StudioTable) -> Iterator[None]:
        """Make tasks of open requests; each that is refused is tried alone, because one spoils a whole batch."""
        while batch := table.batch(self.settings.label_studio.batch):
            try:
                self._send(batch)
            except Refused as why:
                if why.status == 404:
                    raise
                if len(batch) == 1:
                    table.refuse(batch[0])
                    self.done["refused"] += 1
                    log.warning(
                        "Label Studio refuses a request; it stays open, for others to answer, until it expires",
                        request_id=batch[0].request_id,
                        why=str(why),
                    )
                else:
                    for asked in batch:
                        asked.alone = True
                    yield from self._pull(table)  # with status 500 some may have become tasks
            else:
                for asked in batch:
                    table.imported(asked)
                self.done["imported"] += len(batch)
            yield

    def _send(self, batch: list[Asked]) -> None:
        values = [self._task(asked.value or b"") for asked in batch]
        self.client.call("POST", f"/api/projects/{self.project}/import", b"[" + b",".join(values) + b"]")

    def _task(self, value: bytes) -> bytes:
        """Return a request as it shall be imported: as it is, or without anything that tells the guess."""
        task = json.loads(value)
        if self.settings.label_studio.guess and not task["meta"].get("blind"):
            return value
        meta = {k: v for k, v in task["meta"].items() if k != "model"}
        return json.dumps({**task, "meta": meta, "predictions": []}).encode()

    def _withdraw(self, table: StudioTable) -> Iterator[None]:
        """Delete tasks that nobody shall answer any more, if nobody has."""
        for number in list(table.unneeded()):
            path = f"/api/tasks/{number}"
            try:
                annotations = self.client.get(path).get("annotations")
                yield
                if not annotations:
                    self.client.call("DELETE", path)
                    self.done["withdrawn"] += 1
            except Refused as why:
                if why.status != 404:  # else it is gone already
                    raise
            table.deleted(number)
            yield

    # --- the end ---------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Leave the group; the next turn joins anew and reads everything again."""
        self._stand_by()
        if self.member is not None:
            self.member.close()
            self.member = None

    def close(self) -> None:
        self.abandon()


def address(settings: Settings) -> tuple[str, str]:
    """Return where Label Studio is, and the token.

    Raises
    ------
    ConfigError
    """
    s = settings.label_studio
    if s.url is None:
        raise ConfigError("label_studio.url: there is none; write for example http://127.0.0.1:8080")
    token = s.token or ""
    if s.token_file is not None:
        where = f"{settings.where('label_studio.token_file')} label_studio.token_file"
        try:
            token = s.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as why:
            raise ConfigError(f"{where}: {s.token_file} cannot be read: {why}") from None
    if not token:
        raise ConfigError(
            "label_studio.token: there is none; write the token of Label Studio's Account & Settings into the"
            " environment (STREAM_AL_LABEL_STUDIO__TOKEN), or name a file that holds it (label_studio.token_file)"
        )
    if not (token.isascii() and token.isprintable()):
        raise ConfigError("label_studio.token: it has characters that no token has")
    return s.url, token


def _places(topic: str, offsets: Mapping[int, int]) -> dict[TopicPartition, int]:
    return {TopicPartition(topic, p): offset for p, offset in offsets.items()}


def _filter(field: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    """Return one condition on tasks in the words of Label Studio's data manager."""
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": kind, "value": value}
