"""What must hold in every universe, seen from the topics."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import msgspec
import numpy as np

from stream_al.codec import BadRecord, decode_ledger, decode_report, decode_request
from stream_al.core.alike import likeness
from stream_al.core.coin import coin
from stream_al.core.messages import (
    Bucket,
    Correction,
    Expired,
    Genesis,
    Grant,
    LabelRequest,
    Learned,
    Probe,
    Promote,
    Rebuild,
    Skipped,
    Spent,
    Tally,
    Unsolicited,
    Vote,
    milliseconds,
)
from stream_al.service.learning import wanted_budget
from stream_al.transport.port import TopicPartition
from tests.folding import folded
from tests.universe.world import Universe

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SKEW_MS = 10_000


def records(u: Universe, topic: str):
    for p, end in sorted(u.broker.ends(topic).items()):
        if end:
            with u.broker.reader({TopicPartition(topic, p): 0}) as reader:
                yield from itertools.chain.from_iterable(reader.poll(10**7, 0).values())


class Seen:
    """The topics' contents, decoded once."""

    def __init__(self, u: Universe) -> None:
        self.u = u
        self.ledger = [(r.offset, decode_ledger(r)) for r in records(u, "ledger")]
        self.requests, self.requested_ms = [], {}  # the latter by the broker's clock, when it could be read
        for r in records(u, "labels-requested"):
            try:
                found = decode_request(r)
            except BadRecord:
                continue
            if isinstance(found, LabelRequest):
                self.requests.append(found)
                self.requested_ms[found.request_id] = r.timestamp
        self.tallies = []
        for r in records(u, "reports"):
            try:
                found = decode_report(r)
            except BadRecord:
                continue
            if isinstance(found, Tally):
                self.tallies.append(found)

    def of(self, *kinds):
        return [r for _, r in self.ledger if isinstance(r, kinds)]


def check_each_sample_is_decided_once(s: Seen) -> None:
    for partition, end in s.u.broker.ends("samples").items():
        tiles = sorted((t.from_offset, t.to_offset) for t in s.tallies if t.partition == partition)
        if end:
            assert tiles, f"partition {partition} was never decided"
            assert tiles[0][0] == 0
            assert tiles[-1][1] == end
            for (_, a), (b, _) in itertools.pairwise(tiles):
                assert a == b, f"partition {partition}: {a} is followed by {b}"


def check_buckets_tile_too(s: Seen) -> None:
    ends: dict[int, int] = {}
    for number, b in enumerate(s.of(Bucket)):
        assert b.number == number
        for p, (start, end) in b.ranges.items():
            assert start == ends.get(p, 0), f"bucket {number}, partition {p}"
            ends[p] = end
    assert ends == {p: e for p, e in s.u.broker.ends("samples").items() if e}
    total = sum(b.sums.samples + b.sums.invalid for b in s.of(Bucket))
    assert total == sum(s.u.broker.ends("samples").values())


def check_decisions_can_be_derived(s: Seen) -> None:
    assert len({q.request_id for q in s.requests}) == len(s.requests), "a request was made twice"
    for q in s.requests:
        assert q.query.coin == coin(s.u.settings.seed, "samples", q.source.partition, q.source.offset)
        assert q.query.coin < q.query.inclusion_probability <= 1
    assert sum(t.sums.requests for t in s.tallies) == len(s.requests)


def check_budgets(s: Seen) -> None:
    budget = wanted_budget(s.u.settings)
    granted, spent = Counter(), Counter()
    for g in s.of(Grant):
        if g.grant != "cap":
            granted[g.partition] += g.tokens
    offsets = defaultdict(list)
    for q in s.requests:
        offsets[q.source.partition].append(q.source.offset)
    for partition, found in offsets.items():
        for i, offset in enumerate(sorted(found), start=1):
            assert i <= budget.fraction * (offset + 1) + granted[partition] + 1e-9, (partition, i, offset)
            spent[partition] = i
    n = sum(s.u.broker.ends("samples").values())
    assert len(s.requests) <= budget.fraction * n + budget.allowance, "beyond the allowance"
    times = sorted(milliseconds(q.requested_at) for q in s.requests)
    for limit, window in ((budget.per_hour, HOUR_MS), (budget.per_day, DAY_MS)):
        if limit is not None:
            for i, t in enumerate(times):
                inside = sum(1 for other in times[i:] if other < t + window - SKEW_MS)
                assert inside <= limit, f"{inside} requests in a window of {limit}"


def check_accounts_of_grants(s: Seen) -> None:
    """A grant is spent by its own partition, never beyond its tokens, and no more once its account is closed."""
    dealt = {g.number: g for g in s.of(Grant)}
    last: dict[int, Spent] = {}
    for t in sorted(s.tallies, key=lambda t: (t.partition, t.from_offset)):
        for number, account in t.grants.items():
            assert dealt[number].partition == t.partition
            before = last.get(number, Spent(0))
            assert not before.closed, f"grant {number} was closed, and is spent again at {t.from_offset}"
            assert before.spent <= account.spent <= dealt[number].tokens
            last[number] = account


def check_requests_are_paid_for(s: Seen) -> None:
    """Under a cap each request spends one token of a grant that its partition was dealt, and no token is spent twice."""
    if not wanted_budget(s.u.settings).capped:
        return
    dealt = {g.number: g for g in s.of(Grant) if g.grant == "cap"}
    spent: Counter[int] = Counter()
    for t in s.tallies:
        for number, account in t.grants.items():
            if number in dealt:
                spent[number] = max(spent[number], account.spent)
    asked = Counter(q.source.partition for q in s.requests)
    for partition, n in asked.items():
        paid = sum(v for number, v in spent.items() if dealt[number].partition == partition)
        assert n == paid, f"partition {partition}: {n} requests, {paid} tokens"


def check_outstanding(s: Seen) -> None:
    """Open requests, in the order in which the ledger learned of them, never exceed the limit."""
    limit = s.u.settings.budget.max_outstanding
    if limit is None:
        return
    closed_at = {c.request_id: milliseconds(_time(c)) for c in s.of(Learned, Skipped, Expired)}
    moments = [(milliseconds(q.requested_at), 1) for q in s.requests]
    moments += [(closed_at[q.request_id] + SKEW_MS, -1) for q in s.requests if q.request_id in closed_at]
    asked = sorted(milliseconds(q.requested_at) for q in s.requests)
    for t in asked:
        # a request is certainly open from its own clock's time on and until its closing's, clocks differing
        surely_open = sum(
            1
            for q in s.requests
            if milliseconds(q.requested_at) <= t - SKEW_MS
            and closed_at.get(q.request_id, 1 << 60) > t + SKEW_MS
        )
        assert surely_open <= limit, f"{surely_open} open requests"


def _time(closing) -> str:
    return closing.expired_at if isinstance(closing, Expired) else closing.received_at


def _disagreed(s: Seen, made: dict[str, LabelRequest], request_id: str) -> bool:
    """Whether several people were asked, who did not all say the same of this request or one alike, or all passed."""
    if s.u.settings.labels.votes == 1:
        return False
    names = {request_id}
    if s.u.settings.labels.near_duplicates == "once":
        like = likeness(made[request_id].features)
        names |= {name for name, q in made.items() if like is not None and likeness(q.features) == like}
    said = {(type(a.label), a.label) for name in names for _, a in s.u.answered.get(name, []) if not a.skip}
    return len(said) != 1


def check_closed_once_and_answered(s: Seen) -> None:
    closings = s.of(Learned, Skipped, Expired)
    ids = [c.request_id for c in closings]
    assert len(ids) == len(set(ids)), "a request was closed twice"
    made = {q.request_id: q for q in s.requests}
    assert set(ids) == set(made), "a request is open for ever, or was closed without being made"
    served = defaultdict(list)
    for c in s.of(Learned):
        served[c.answer].append(c.request_id)
    for c in closings:
        answers = s.u.answered.get(c.request_id, [])
        timely = [a for at, a in answers if at < milliseconds(made[c.request_id].expires_at) - 2 * SKEW_MS]
        if isinstance(c, Expired) and c.reason == "expired":
            assert not timely or _disagreed(s, made, c.request_id), (
                f"{c.request_id} expired although it was answered"
            )
        if isinstance(c, Learned):
            allowed = [a.label for _, a in answers] + [s.u.truth[c.id]]
            for name in served[c.answer]:  # those alike: what was said of one counts for all
                allowed += [a.label for _, a in s.u.answered.get(name, [])] + [s.u.truth[made[name].id]]
            allowed += [x.label for x in s.of(Correction) if x.id == c.id]
            assert any(c.label == a and type(c.label) is type(a) for a in allowed)
    learned = Counter(c.answer for c in s.of(Learned) if c.learn)
    assert not [a for a, n in learned.items() if n > 1], "an answer was learned twice"


def check_votes_make_the_label(s: Seen) -> None:
    """Each person counts once, what is decided was said by somebody, and those alike have one label, learned once."""
    votes = s.of(Vote)
    assert len({(v.answer, v.request_id) for v in votes}) == len(votes), "a vote was counted twice"
    if s.u.settings.labels.votes == 1:
        assert not votes
    closings = {c.request_id: c for c in s.of(Learned, Skipped)}
    for c in closings.values():
        if isinstance(c, Learned) and c.decision is not None:
            served = {c.request_id, c.same_as or c.request_id}
            served |= {x.request_id for x in closings.values() if x.same_as in served}
            assert any(v.answer == c.answer and v.request_id in served and v.label == c.label for v in votes)
        if c.same_as is not None:
            leader = closings[c.same_as]
            assert (c.answer, type(c)) == (leader.answer, type(leader))
            assert not isinstance(c, Learned) or (not c.learn and c.label == leader.label)


def check_corrections_follow_what_they_correct(s: Seen) -> None:
    """Each changes what was learned or corrected before it, and no other answer of its kind is lost."""
    now, places = {}, set()
    for r in s.of(Learned, Unsolicited, Correction):
        if isinstance(r, Learned | Unsolicited):
            now.setdefault(r.answer, r.label)
            continue
        assert r.answer not in places, f"{r.answer} corrects twice"
        places.add(r.answer)
        before = now[r.corrects]
        assert (r.old, type(r.old)) == (before, type(before))
        assert (r.label, type(r.label)) != (before, type(before))
        now[r.corrects] = r.label


def check_operations_are_done_once(s: Seen) -> None:
    names = [r.id for r in (*s.of(Rebuild), *s.of(Promote))]
    assert len(names) == len(set(names)), "an operation was written twice"
    assert all(r.from_offset <= offset for offset, r in s.ledger if isinstance(r, Rebuild))
    assert {r.ledger_id for r in s.of(Rebuild)} <= {g.ledger_id for g in s.of(Genesis)}


def check_early_answers_wait(s: Seen) -> None:
    """An answer that came shortly before its request is not lost."""
    if s.u.settings.labels.votes > 1:  # others may say something else
        return
    wait_ms = round(s.u.settings.labels.wait_unknown_s * 1000)
    made = Counter(q.id for q in s.requests)
    for c in s.of(Expired):
        if made[c.id] == 1 and c.reason == "expired":
            waited = [s.requested_ms[c.request_id] - at for at in s.u.early.get(c.id, ())]
            assert not [w for w in waited if 0 <= w <= wait_ms - SKEW_MS], (
                f"the early answer to {c.request_id} is lost"
            )


def check_folds_are_equal(s: Seen) -> None:
    fresh = folded(s.ledger)
    assert not fresh.errors["closed_twice"]
    assert not fresh.errors["unreadable"]
    batch = [{"x": x / 3, "y": -x / 5, "where": "a", "flag": True} for x in range(-6, 7)] + [{}]
    expected = fresh.model.predict(batch)
    for p in s.u.processes:
        fold = p.service.follower.fold
        assert fold.position == fresh.position, p.name
        assert (fold.version, fold.epoch, fold.rebuilding) == (fresh.version, fresh.epoch, None), p.name
        assert fold.classes == fresh.classes
        np.testing.assert_allclose(fold.model.predict(batch), expected, atol=1e-9, err_msg=p.name)
        assert (fold.champion, fold.standings) == (fresh.champion, fresh.standings), p.name
        assert fold.contest.saved() == fresh.contest.saved(), p.name
        assert fold.grants == fresh.grants
        assert vars(fold.panel) == vars(fresh.panel), p.name
        assert fold.ends == fresh.ends


def check_versions_never_go_back(s: Seen) -> None:
    versions = defaultdict(list)
    for q in s.requests:
        versions[q.source.partition].append((q.source.offset, q.model.version))
    for partition, found in versions.items():
        ordered = [v for _, v in sorted(found)]
        assert ordered == sorted(ordered), f"partition {partition}"


def check_nothing_vanished(s: Seen) -> None:
    """Every unreadable sample is a dead letter, once."""
    letters = Counter()
    for r in records(s.u, "dead-letters"):
        headers = dict(r.headers)
        place = tuple(headers[f"stream_al.error.{k}"] for k in ("topic", "partition", "offset"))
        letters[place] += 1
    bad = sum(t.sums.invalid for t in s.tallies)
    assert sum(n for (topic, _, _), n in letters.items() if topic == b"samples") == bad
    twice = {place: n for place, n in letters.items() if n > 1}
    assert not twice, twice


def check_memory(s: Seen) -> None:
    for p in s.u.processes:
        if p.service.scorer is not None:
            assert p.service.scorer.machine.gathered == 0
        if p.service.learner is not None and p.service.learner.machine is not None:
            machine = p.service.learner.machine
            assert not machine.pending
            assert not machine.by_id
            assert not machine.by_likeness
            assert not machine.touched
            assert not machine.waiting
            assert not p.service.learner.answers


def check_what_nobody_asked_for(s: Seen) -> None:
    """It is learned, once, where that is wanted, and is in no estimate."""
    found = [r.id for r in s.of(Unsolicited)]
    wanted = s.u.settings.labels.unsolicited == "train"
    assert sorted(found) == (sorted(s.u.unasked) if wanted else [])
    without = [(offset, r) for offset, r in s.ledger if not isinstance(r, Unsolicited | Probe)]
    assert folded(without).accuracy.window(None) == folded(s.ledger).accuracy.window(None)


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


def check(u: Universe) -> None:
    """Run every check on a universe that has come to rest."""
    seen = Seen(u)
    for one in CHECKS:
        one(seen)


def summary(u: Universe) -> str:
    return msgspec.json.encode(u.events).decode()
