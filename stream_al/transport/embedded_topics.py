"""Topics of the embedded log: creation, checks and retention.

The log obeys three settings of a topic, named as in Kafka: ``cleanup.policy`` (``delete``; anything without
that word keeps every record), ``retention.ms`` and ``retention.bytes`` (of the whole topic, shared by its
partitions in proportion to what they hold). -1 is unlimited, and so is what is not set. Other settings are
kept and ignored.

Retention removes the oldest records of a partition in steps, each a short write transaction, so that
writers wait for milliseconds; what does not fit in one call's time is left to the next call.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stream_al.transport.embedded_log import (
    MAX_PARTITIONS,
    RECORD_OVERHEAD_BYTES,
    Log,
    base_id,
    create_advice,
)
from stream_al.transport.port import TopicError, TopicSpec

UNLIMITED = -1
OBEYED: Mapping[str, str | int] = {
    "cleanup.policy": "delete",
    "retention.ms": UNLIMITED,
    "retention.bytes": UNLIMITED,
}

STEP_RECORDS = 5_000
VACUUM_STEP_PAGES = 512
SPARE_PAGES = 256  # free pages kept for the next records
MAINTENANCE_S = 1.0

WINDOW = """SELECT id, timestamp,
        coalesce(length(key), 0) + coalesce(length(value), 0) + coalesce(length(headers), 0)
    FROM record WHERE id >= ?1 AND id < ?1 + 1099511627776 ORDER BY id LIMIT ?2"""


# creation and checks


def ensure(log: Log, specs: Sequence[TopicSpec], *, create: bool) -> None:
    with log.transaction("IMMEDIATE" if create else "DEFERRED"):
        problems = [problem for spec in specs for problem in _problems(log, spec, create=create)]
        if problems:
            raise TopicError("\n".join(problems))


def _problems(log: Log, spec: TopicSpec, *, create: bool) -> Iterator[str]:
    if not 0 < spec.partitions <= MAX_PARTITIONS:
        yield (
            f"topic {spec.name!r}: {spec.partitions} partitions, but the embedded log holds up to"
            f" {MAX_PARTITIONS}: correct the number, or set broker.url to a Kafka cluster"
        )
        return
    row = log.db.execute("SELECT partitions, config FROM topic WHERE name = ?", (spec.name,)).fetchone()
    if row is not None:
        yield from _differences(log, spec, row[0], json.loads(row[1]))
    elif create:
        config = json.dumps(dict(spec.config), sort_keys=True)
        row = (spec.name, spec.partitions, config)
        log.db.execute("INSERT INTO topic (name, partitions, config) VALUES (?, ?, ?)", row)
    else:
        yield f"topic {spec.name!r} does not exist in {log.path}: {create_advice()}"


def _differences(
    log: Log, spec: TopicSpec, partitions: int, config: Mapping[str, str | int]
) -> Iterator[str]:
    if spec.exact_partitions and partitions != spec.partitions:
        yield (
            f"topic {spec.name!r} in {log.path} has {partitions} partitions and needs exactly"
            f" {spec.partitions}: name another topic in the config, or a new file in broker.url"
        )
    for name, default in OBEYED.items():
        have, want = config.get(name, default), spec.config.get(name)
        if want is not None and not _satisfies(have, want):
            yield (
                f"topic {spec.name!r} in {log.path} has {name}={have} and needs {want}:"
                f" {_config_command(log.path, spec.name, name, want)}"
            )


def _satisfies(have: str | int, want: str | int) -> bool:
    if not (_is_number(have) and _is_number(want)):
        return str(have) == str(want)
    if int(have) == UNLIMITED or int(want) == UNLIMITED:
        return int(have) == UNLIMITED
    return int(have) >= int(want)


def _is_number(value: str | int) -> bool:
    return str(value).removeprefix("-").isdecimal()


def _config_command(path: str, topic: str, name: str, value: str | int) -> str:
    literal = value if isinstance(value, int) else f"'{value}'"
    setting = f"config = json_set(config, '$.\\\"{name}\\\"', {literal})"
    update = f"UPDATE topic SET {setting} WHERE name = '{topic}'"  # noqa: S608 (printed for people, not run)
    return f'sqlite3 {shlex.quote(path)} "{update}"'


def grow(log: Log, name: str, partitions: int) -> None:
    """Give a topic more partitions; members of its groups take them at their next renewal."""
    with log.transaction():
        have = log.topic(name).partitions
        if not have <= partitions <= MAX_PARTITIONS:
            raise TopicError(
                f"topic {name!r} has {have} partitions in {log.path} and cannot have {partitions}:"
                f" give a number from {have} to {MAX_PARTITIONS}"
            )
        log.db.execute("UPDATE topic SET partitions = ? WHERE name = ?", (partitions, name))
    log.group_changes += 1


# retention


@dataclass(frozen=True, slots=True)
class _Excess:
    """What a partition holds too much: records before a time, and a number of bytes."""

    topic_id: int
    partition: int
    before_ms: int
    size: int


def maintain(log: Log, now_ms: int) -> None:
    """Remove what retention no longer covers, shrink the file and fold the write-ahead log back into it."""
    deadline = time.monotonic() + MAINTENANCE_S
    with log.transaction("DEFERRED"):
        excesses = list(_excesses(log, now_ms))
    for excess in excesses:
        _trim(log, excess, deadline)
    with log.errors():
        _vacuum(log, deadline)
        log.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _excesses(log: Log, now_ms: int) -> Iterator[_Excess]:
    for topic_id, text in log.db.execute("SELECT id, config FROM topic").fetchall():
        config = {**OBEYED, **json.loads(text)}
        age_ms, limit = int(config["retention.ms"]), int(config["retention.bytes"])
        if "delete" not in str(config["cleanup.policy"]) or age_ms == limit == UNLIMITED:
            continue
        before_ms = now_ms - age_ms if age_ms != UNLIMITED else 0
        tails = log.db.execute("SELECT partition, bytes FROM tail WHERE topic = ?", (topic_id,)).fetchall()
        total = sum(size for _, size in tails)
        over = max(0, total - limit) if limit != UNLIMITED else 0
        for partition, size in tails:
            excess = _Excess(topic_id, partition, before_ms, over * size // max(total, 1))
            if excess.size or _begins_before(log, excess):
                yield excess


def _begins_before(log: Log, excess: _Excess) -> bool:
    base = base_id(excess.topic_id, excess.partition)
    head = log.db.execute(WINDOW, (base, 1)).fetchone()
    return head is not None and head[1] < excess.before_ms


def _trim(log: Log, excess: _Excess, deadline: float) -> None:
    freed = 0
    while time.monotonic() < deadline:
        with log.transaction():
            step = _trim_step(log, excess, freed)
        if not step:
            return
        freed += step


def _trim_step(log: Log, excess: _Excess, freed: int) -> int:
    """Delete up to `STEP_RECORDS` of the oldest records and return their bytes."""
    base = base_id(excess.topic_id, excess.partition)
    window = log.db.execute(WINDOW, (base, STEP_RECORDS)).fetchall()
    size, last = 0, None
    for record_id, timestamp, record_size in window:
        if timestamp >= excess.before_ms and freed + size >= excess.size:
            break
        size, last = size + record_size + RECORD_OVERHEAD_BYTES, record_id
    if last is not None:
        log.db.execute("DELETE FROM record WHERE id >= ? AND id <= ?", (base, last))
        log.db.execute(
            "UPDATE tail SET bytes = bytes - ? WHERE topic = ? AND partition = ?",
            (size, excess.topic_id, excess.partition),
        )
    return size


def _vacuum(log: Log, deadline: float) -> None:
    while time.monotonic() < deadline:
        spare = log.number("PRAGMA freelist_count") - max(SPARE_PAGES, log.number("PRAGMA page_count") // 8)
        if spare <= 0:
            return
        log.db.execute(f"PRAGMA incremental_vacuum({min(spare, VACUUM_STEP_PAGES)})").fetchall()
