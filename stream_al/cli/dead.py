"""``dead-letters list`` and ``dead-letters replay``: records that could not be used, and their second chance.

Theory of operation ------------------- What was replayed is remembered as the position of the group
``<group>-dead-letters``, committed together with the records written: a replay that is interrupted or
repeated writes nothing twice. ``--reason`` and ``--limit`` leave letters behind, so the position stays at
the oldest one not replayed, and its state says which later ones are done::

    position ─▶ [.] [x] [x] [.] [x]      state: a bitmap of x from the position on, compressed
"""

from __future__ import annotations

import base64
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, attach, examples, settings_of
from stream_al.cli.outcome import misuse
from stream_al.cli.printing import one_line, print_json, print_line, text_of

if TYPE_CHECKING:
    from stream_al.config import Settings
    from stream_al.transport.port import Broker, Member, Output, Position, Record, TopicPartition

ERROR = "stream_al.error."
SHOWN = 20
START = 100
BATCH, BATCH_BYTES = 500, 4 << 20
JOIN_S = 60.0
STATE_CHARACTERS = 1_500

LIST_EXAMPLES = examples(
    "stream-al dead-letters list", "stream-al dead-letters list --reason unknown_request --json"
)
REPLAY_EXAMPLES = examples(
    "stream-al dead-letters replay --dry-run", "stream-al dead-letters replay --reason unknown_request --yes"
)

Reason = Annotated[
    str | None, typer.Option("--reason", metavar="REASON", help="Only those, for example unknown_request.")
]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the record as it came, and what its headers say."""

    record: Record
    error: dict[str, str]

    @classmethod
    def of(cls, record: Record) -> Letter:
        found = {k.removeprefix(ERROR): v for k, v in record.headers if k.startswith(ERROR)}
        return cls(record, {k: text_of(v) or "" for k, v in found.items()})

    @property
    def reason(self) -> str:
        return self.error.get("reason", "")

    @property
    def origin(self) -> str:
        return f"{self.error.get('topic')}-{self.error.get('partition')}@{self.error.get('offset')}"

    @property
    def whole(self) -> bool:
        """Whether all of the record is here: of a very large one only the beginning is kept."""
        from stream_al.codec import DEAD_LETTER_BYTES

        return self.reason != "too_large" or len(self.record.value or b"") != DEAD_LETTER_BYTES

    def again(self) -> Output:
        """Return the record as it was first written."""
        from stream_al.transport.port import Output

        r = self.record
        headers = tuple((k, v) for k, v in r.headers if not k.startswith(ERROR))
        return Output(self.error["topic"], r.value, key=r.key, headers=headers)


class Progress:
    """Which letters of one partition were replayed."""

    def __init__(self, position: Position | None, begin: int) -> None:
        self.position = max(begin, position.offset) if position else begin
        self.done: set[int] = set()
        if position is not None and position.state:
            bits = _bits(position.state)
            self.done = {position.offset + i for i in range(bits.bit_length()) if bits >> i & 1}
        self.left: list[int] = []  # letters passed over, in order

    def has(self, offset: int) -> bool:
        return offset < self.position or offset in self.done

    def at(self, end: int) -> Position:
        """Return what to commit when everything before ``end`` was looked at."""
        from stream_al.transport.port import Position

        start = self.left[0] if self.left else end
        bits = sum(1 << (offset - start) for offset in self.done if offset >= start)
        if not bits:
            return Position(start)
        packed = zlib.compress(bits.to_bytes(bits.bit_length() // 8 + 1, "little"), 9)
        return Position(start, base64.b85encode(packed).decode())


def _bits(state: str) -> int:
    from stream_al.transport.port import TransportError

    try:
        return int.from_bytes(zlib.decompress(base64.b85decode(state)), "little")
    except (ValueError, zlib.error) as problem:
        raise TransportError(
            "what was replayed cannot be read from beside the position of the group <group>-dead-letters"
            f" ({problem}); delete that group to replay all letters again"
        ) from None


def list_(
    reason: Reason = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The latest so many.")] = SHOWN,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """List the latest dead letters: why, where from, and how they begin."""
    settings = settings_of(config, overrides)
    with attach(settings) as broker:
        letters = sorted(_letters(broker, settings, reason), key=lambda found: found[0].record.timestamp)
    shown = letters[-limit:]
    for letter, replayed in shown:
        if as_json:
            print_json(_plain(letter, replayed=replayed))
        else:
            _print(letter, replayed=replayed)
    if not as_json:
        counts = Counter(letter.reason for letter, _ in letters)
        by = ": " + ", ".join(f"{name} {n:,}" for name, n in counts.most_common()) if counts else ""
        print_line(
            f"{len(letters):,} dead letters{by}"
            + (f"; the latest {limit} are shown" if len(letters) > limit else "")
        )


def replay(
    *,
    reason: Reason = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The oldest so many.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write dead letters to their topic again, as they first came, each exactly once.

    Do so after the cause was mended: a record that is still unreadable becomes another dead letter. What
    was replayed is remembered, also across interruptions, so that repeating the command writes nothing
    twice.
    """
    settings = settings_of(config, overrides)
    with attach(settings) as broker:
        due = [letter for letter, replayed in _letters(broker, settings, reason) if not replayed]
        whole = [letter for letter in due if letter.whole][:limit]
        counts = Counter(f"{letter.reason} to {letter.error['topic']}" for letter in whole)
        said = ", ".join(f"{n:,} {name}" for name, n in counts.most_common()) or "nothing"
        written = 0
        if whole and not dry_run:
            _confirm(said, yes=yes)
            written = _Replay(broker, settings, reason, len(whole)).run()
    if as_json:
        print_json(
            {
                "due": len(whole),
                "cut": len(due) - sum(x.whole for x in due),
                "written": written,
                "dry_run": dry_run,
            }
        )
    else:
        cut = sum(not letter.whole for letter in due)
        print_line(
            f"would write {said}"
            if dry_run
            else f"wrote {written:,} of {said}"
            if whole
            else "nothing to replay"
        )
        if cut:
            print_line(f"{cut:,} were too large to be kept whole; send them again from their source")


def _confirm(said: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise misuse(f"this writes {said}; add --yes to do so, or --dry-run to look only")
    typer.confirm(f"write {said}?", abort=True, err=True)


def _group(settings: Settings) -> str:
    return f"{settings.group}-dead-letters"


def _letters(broker: Broker, settings: Settings, reason: str | None) -> Iterator[tuple[Letter, bool]]:
    """Yield the letters that are held, oldest first in each partition, and whether each was replayed."""
    from stream_al.scan import begins, scan
    from stream_al.transport.port import TopicPartition

    topic = settings.topics.dead_letters
    first = begins(broker, topic)
    if not first:
        return
    kept = broker.positions(_group(settings), [TopicPartition(topic, p) for p in first])
    progress = {tp.partition: Progress(position, first[tp.partition]) for tp, position in kept.items()}
    for record in scan(broker, topic):
        letter = Letter.of(record)
        if "topic" in letter.error and reason in (None, letter.reason):
            yield letter, progress[record.partition].has(record.offset)


class _Replay:
    """One replay, as the only member of its group; a second one takes the right to write from the first."""

    def __init__(self, broker: Broker, settings: Settings, reason: str | None, most: int) -> None:
        from stream_al.scan import begins, ends

        self.broker, self.settings, self.reason, self.left = broker, settings, reason, most
        self.topic = settings.topics.dead_letters
        self.begins, self.ends = begins(broker, self.topic), ends(broker, self.topic)
        self.written = 0

    def run(self) -> int:
        """Write what is due; return how much that was."""
        group = _group(self.settings)
        with self.broker.join(group, self.topic, writer=group, fetch=False) as member:
            member.fence_predecessors()
            for tp, position in self._assigned(member).items():
                self._partition(member, tp, Progress(position, self.begins[tp.partition]))
        return self.written

    def _assigned(self, member: Member) -> dict[TopicPartition, Position | None]:
        import time

        from stream_al.transport.port import Unavailable

        found: dict[TopicPartition, Position | None] = {}
        deadline = time.monotonic() + JOIN_S
        while len(found) < len(self.begins):
            polled = member.poll(0, 0.2)
            found.update(polled.assigned)
            if time.monotonic() > deadline:
                raise Unavailable(f"the group {_group(self.settings)} gave this process no partitions")
        return found

    def _partition(self, member: Member, tp: TopicPartition, progress: Progress) -> None:
        from stream_al.scan import read

        end, size, outputs, at = self.ends.get(tp.partition, 0), 0, [], progress.position
        for record in read(self.broker, self.topic, {tp.partition: at}, {tp.partition: end}):
            letter = Letter.of(record)
            if not progress.has(record.offset):
                if (
                    self.left
                    and letter.whole
                    and "topic" in letter.error
                    and self.reason in (None, letter.reason)
                ):
                    outputs.append(letter.again())
                    progress.done.add(record.offset)
                    self.left -= 1
                    size += len(record.value or b"")
                else:
                    progress.left.append(record.offset)
            at = record.offset + 1
            if len(outputs) >= BATCH or size >= BATCH_BYTES:
                self._commit(member, tp, outputs, progress.at(at))
                outputs, size = [], 0
        if outputs:
            self._commit(member, tp, outputs, progress.at(at))

    def _commit(self, member: Member, tp: TopicPartition, outputs: list[Output], position: Position) -> None:
        from stream_al.transport.port import TransportError

        if len(position.state) > STATE_CHARACTERS:
            raise TransportError(
                f"{self.written:,} are written; too many letters of other reasons stand between the rest"
                " to remember which were replayed: replay those first, without --reason"
            )
        member.poll(0, 0.0)  # a replay may take longer than a session
        member.commit(outputs, {tp: position})
        self.written += len(outputs)


def _plain(letter: Letter, *, replayed: bool) -> dict[str, Any]:
    from stream_al.cli.tapping import fields

    return {**letter.error, "replayed": replayed, "record": fields(letter.record)}


def _print(letter: Letter, *, replayed: bool) -> None:
    value = one_line(text_of((letter.record.value or b"")[:START]) or "")
    done = " (replayed)" if replayed else ""
    where = f"{letter.record.topic}-{letter.record.partition}@{letter.record.offset}"
    print_line(one_line(f"{where}  {letter.reason}{done}  {letter.error.get('stage')}  from {letter.origin}"))
    print_line(f"    {one_line(letter.error.get('message', ''))}")
    print_line(f"    {value}")
