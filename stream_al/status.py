"""The state of a running service as seen from outside, and which link of its chain is silent.

Theory of operation
-------------------
``status_reading`` collects ``Facts`` from the topics; nothing here asks anybody anything. A label travels along a
chain, and each link that can fall silent is one function from the facts to a ``Finding``, in the order of the chain::

    samples ─▶ a scorer reads ─▶ tokens ─▶ a learner reads ─▶ somebody answers ─▶ with ids that are known
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stream_al.core.accuracy import Estimate
from stream_al.core.challenger import Standing
from stream_al.core.classification import ClassReport
from stream_al.core.cooperative import Cooperation
from stream_al.core.drift import Alarm
from stream_al.core.fold import Epoch
from stream_al.core.messages import Sums, Task
from stream_al.core.random_twin import Saved
from stream_al.core.regression import Errors
from stream_al.wording import duration, shortened

UNCOVERED_SHARE = 0.5
RETURNING_SHARE = 0.1
FEWEST_IDS = 20
CLOCKS_S = 5.0
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind in one partition; ``position`` is None where it has never committed."""

    group: str
    topic: str
    partition: int
    position: int | None
    end: int
    records: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Speeds over the latest buckets, in events per second; None while there is nothing to divide by."""

    samples_per_s: float | None = None
    requests_per_s: float | None = None
    over_s: float = 0.0
    last_bucket_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Spending:
    """The budget in force and what was used of it.

    ``query_rate`` is that of the latest buckets; requests never exceed ``fraction`` · ``samples`` +
    ``allowance``. ``uncovered`` samples could not be asked for; ``uncovered_share`` is that of the latest
    buckets, 0 while they hold few samples. The caps spread their requests: one in ``every_s`` on average, None
    without caps, and in a full window none for ``next_in_s``.
    """

    fraction: float | None = None
    allowance: int = 0
    query_rate: float | None = None
    samples: int = 0
    requests: int = 0
    invalid: int = 0
    uncovered: int = 0
    uncovered_share: float = 0.0
    per_hour: int | None = None
    requests_last_hour: int = 0
    per_day: int | None = None
    requests_last_day: int = 0
    max_outstanding: int | None = None
    every_s: float | None = None
    next_in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pending:
    """Requests that wait for an answer. ``ids`` are a few of them, the oldest first."""

    requests: int = 0
    oldest_s: float = 0.0
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Records that could not be used. ``reasons`` and ``unknown_ids`` are those of the latest ones."""

    records: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    unknown_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one link, and what to do."""

    link: str
    message: str
    todo: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read. Times are seconds; ``unmoved_s`` is how long the groups in ``still`` took nothing."""

    samples_topic: str
    samples_held: int = 0
    samples_start: str = "latest"
    founded: bool = False
    decided: int = 0
    lags: Sequence[Lag] = ()
    still: frozenset[tuple[str, str]] = frozenset()
    unmoved_s: float = 0.0
    scorer_group: str = ""
    learner_group: str = ""
    spending: Spending = Spending()
    pending: Pending = Pending()
    dead_letters: DeadLetters = DeadLetters()
    since_label_s: float | None = None
    answers_late_s: float = 3600.0
    latest_ids: Sequence[str] = ()
    clock_ahead_s: float = 0.0
    disagrees: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that ``status`` prints. In regression ``errors`` stand where otherwise ``accuracy`` does.

    ``labels_saved`` is None without a random twin; in JSON the open end of its interval is null.
    ``replay_s`` is how many seconds a start without a snapshot takes to fold the ledger.
    """

    at: str
    ledger_id: str
    founded_at: str
    model: str
    version: int
    position: int
    replay_s: float
    classes: tuple[str, ...]
    warming: bool
    strategy: str
    epoch: Epoch
    labels: Mapping[str, int]
    rates: Rates
    budget: Spending
    task: Task
    accuracy: Mapping[str, Estimate]
    errors: Mapping[str, Errors]
    by_class: ClassReport
    by_class_window: int
    drift_alarms: Mapping[str, int]
    last_drift_alarm: Alarm | None
    cooperative: Cooperation
    pseudo_labels: int
    challengers: tuple[Standing, ...]
    labels_saved: Saved | None
    promotions: int
    pending: Pending
    lags: tuple[Lag, ...]
    fold_errors: Mapping[str, int]
    dead_letters: DeadLetters
    silent: tuple[Finding, ...]


def pace_s(per_hour: int | None, per_day: int | None) -> float | None:
    """Return the seconds from one request to the next, on average, that the caps allow; None without caps.

    >>> pace_s(20, 1_000), pace_s(None, None)
    (180.0, None)
    """
    spans = [span / cap for cap, span in ((per_hour, 3_600), (per_day, 86_400)) if cap is not None]
    return max(spans, default=None)


def paced(spent: Spending, open_requests: int) -> str:
    """Say why little or nothing is asked although samples come; nothing where no cap is in force."""
    if spent.max_outstanding is not None and open_requests >= spent.max_outstanding:
        return (
            f"all {spent.max_outstanding:,} requests that may wait are open: answer some, or nothing is asked"
        )
    if spent.every_s is None:
        return ""
    often = f"spread evenly, one in {duration(spent.every_s)} on average"
    if not spent.requests:
        return f"{often}; the first may take as long"
    return (
        f"{often}; the next one in {duration(spent.next_in_s)} at the earliest" if spent.next_in_s else often
    )


def silent_links(facts: Facts) -> tuple[Finding, ...]:
    """Return what is wrong along the chain, the first link first."""
    found = (link(facts) for link in _CHAIN)
    return tuple(finding for finding in found if finding is not None)


def rates(buckets: Sequence[tuple[int, int, Sums]], now_ms: int) -> Rates:
    """Return the speeds over buckets given as (first, last, sums), times in milliseconds."""
    if not buckets:
        return Rates()
    last = max(end for _, end, _ in buckets)
    age_s = max(0.0, (now_ms - last) / 1000)
    over_s = (last - min(start for start, _, _ in buckets)) / 1000
    if over_s <= 0:
        return Rates(over_s=0.0, last_bucket_age_s=age_s)
    samples = sum(sums.samples for _, _, sums in buckets)
    requests = sum(sums.requests for _, _, sums in buckets)
    return Rates(samples / over_s, requests / over_s, over_s, age_s)


def returning_share(ids: Sequence[str]) -> float:
    """Return the share of samples whose id was seen before among them.

    >>> returning_share(["a", "b", "a", "a"])
    0.5
    """
    return 1 - len(set(ids)) / len(ids) if ids else 0.0


def returning_finding(ids: Sequence[str]) -> Finding | None:
    """Warn where ids return so often that they seem to name a source and not a sample."""
    share = returning_share(ids)
    if len(ids) < FEWEST_IDS or share < RETURNING_SHARE:
        return None
    most = max(set(ids), key=ids.count)
    return Finding(
        "samples",
        f"ids return: {share:.0%} of the latest {len(ids)} samples carry an id seen before,"
        f" {shortened(most)!r} {ids.count(most)} times; is this a device or user id?",
        "a label answers every open request of its id; map samples.id to something unique, or to a field"
        " that is not there: then samples are named by their position",
    )


def _no_ledger(facts: Facts) -> Finding | None:
    if facts.founded:
        return None
    return Finding(
        "ledger", "there is no ledger yet: the service has not run on this broker", "stream-al run"
    )


def _no_samples(facts: Facts) -> Finding | None:
    if facts.samples_held:
        return None
    topic = facts.samples_topic
    return Finding(
        "samples", f"no samples: {topic} is empty", f"stream-al send {topic} FILE, or check your feed"
    )


def _only_old_samples(facts: Facts) -> Finding | None:
    if not (facts.founded and facts.samples_held) or facts.decided or _behind(facts, facts.scorer_group):
        return None
    begun = any(lag.group == facts.scorer_group and lag.position is not None for lag in facts.lags)
    if facts.samples_start != "latest" or begun:  # the first bucket waits for 50 samples or a minute
        return None
    return Finding(
        "samples",
        f"nothing is decided: the {facts.samples_held:,} in {facts.samples_topic} came before the start",
        "send new ones; to read old ones too, set samples.start=earliest, another topics.ledger and group",
    )


def _behind(facts: Facts, group: str) -> int:
    return sum(lag.records for lag in facts.lags if lag.group == group)


def _unread(facts: Facts, group: str, who: str, role: str) -> Finding | None:
    topics = sorted(topic for name, topic in facts.still if name == group)
    if not topics or not facts.founded:
        return None
    waiting = sum(lag.records for lag in facts.lags if lag.group == group and lag.topic in topics)
    return Finding(
        role,
        f"nobody {who}: {waiting:,} records wait in {', '.join(topics)},"
        f" and none was taken for {facts.unmoved_s:.1f} s",
        f"stream-al run --role {role}, or see the log of the one that runs",
    )


def _nobody_scores(facts: Facts) -> Finding | None:
    return _unread(facts, facts.scorer_group, "reads the samples", "scorer")


def _nobody_learns(facts: Facts) -> Finding | None:
    return _unread(facts, facts.learner_group, "reads requests and labels", "learner")


def _no_tokens(facts: Facts) -> Finding | None:
    share = facts.spending.uncovered_share
    if share < UNCOVERED_SHARE:
        return None
    return Finding(
        "budget",
        f"no tokens: {share:.0%} of the latest samples could not be asked for{_used_up(facts.spending)}",
        "raise budget.fraction or the caps, or wait: tokens are earned with samples and with time",
    )


def _used_up(spent: Spending) -> str:
    hour = spent.per_hour is not None and spent.requests_last_hour >= spent.per_hour
    day = spent.per_day is not None and spent.requests_last_day >= spent.per_day
    if day:
        return f"; all {spent.per_day} requests of the day are spent"
    return f"; all {spent.per_hour} requests of the hour are spent" if hour else ""


def _nobody_answers(facts: Facts) -> Finding | None:
    late, oldest = facts.answers_late_s, facts.pending.oldest_s
    if oldest <= late or (facts.since_label_s is not None and facts.since_label_s <= late):
        return None
    ever = "ever" if facts.since_label_s is None else f"for {duration(facts.since_label_s)}"
    return Finding(
        "labels",
        f"nobody answers: {facts.pending.requests:,} requests are open, the oldest for {duration(oldest)},"
        f" and no label came {ever}",
        f"answer them, for example {', '.join(_named(facts.pending.ids))}, in the topic for labels",
    )


def _unknown_ids(facts: Facts) -> Finding | None:
    unknown = _named(facts.dead_letters.unknown_ids)
    if not unknown:
        return None
    asked = _named(facts.pending.ids)
    return Finding(
        "labels",
        f"labels name unknown ids, for example {', '.join(map(repr, unknown))};"
        + (f" open requests are named {', '.join(map(repr, asked))}" if asked else " no request is open"),
        "send back the id or the request_id of the request; for labels that came before it there is"
        " stream-al dead-letters replay --reason unknown_request",
    )


def _named(ids: Sequence[str]) -> list[str]:
    return [shortened(name) for name in ids[:EXAMPLES]]


def _clocks(facts: Facts) -> Finding | None:
    if facts.clock_ahead_s <= CLOCKS_S:
        return None
    return Finding(
        "clocks",
        f"clocks differ: the service's last record is {duration(facts.clock_ahead_s)} ahead of this machine",
        "synchronise the clocks; budgets per hour and day depend on them",
    )


def _disagrees(facts: Facts) -> Finding | None:
    if not facts.disagrees:
        return None
    return Finding(
        "learner",
        "the ledger folded here gives another model than its latest probe says: the learner's state is spoiled,"
        " or the libraries here are others",
        "compare the versions in stream_al_build_info; restart the learner with an empty state directory",
    )


def _returning(facts: Facts) -> Finding | None:
    return returning_finding(facts.latest_ids)


_CHAIN: tuple[Callable[[Facts], Finding | None], ...] = (
    _no_ledger, _no_samples, _only_old_samples, _nobody_scores, _no_tokens, _nobody_learns, _nobody_answers,
    _unknown_ids, _returning, _clocks, _disagrees,
)  # fmt: skip
