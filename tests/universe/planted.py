"""Bugs to plant into the production code, so that the universes are tested too.

Each is a plausible slip: a check left out, two steps in the wrong order, an account kept wrongly. It lives as long as
the monkeypatch does. The checks look at the topics only and know nothing of it; they must notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stream_al.core import coin, scorer
from stream_al.core.budget import PartitionBudget
from stream_al.core.challenger import Contest
from stream_al.core.grants import Dealer
from stream_al.core.learner import Learner
from stream_al.service.follower import Follower
from stream_al.service.learning import LearnerTask
from stream_al.service.scoring import ScorerTask
from stream_al.service.snapshot import Snapshots
from stream_al.transport.embedded_group import Seat
from tests.universe.world import FaultyMember, Killed

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, Plant] = {}


def bug(plant: Plant) -> Plant:
    BUGS[plant.__name__] = plant
    return plant


@bug
def outputs_before_positions(patch):
    """Two commits where one is promised: the naive order of writes."""

    def commit(self, outputs, positions):
        ends = self.inner.commit(outputs, {})
        if self.universe.happens("crash_before"):
            raise Killed
        return ends | self.inner.commit([], positions)

    patch.setattr(FaultyMember, "commit", commit)


@bug
def nobody_is_fenced(patch):
    """A commit shows no generation: a member that slept through its session still writes."""
    patch.setattr(Seat, "check", lambda self, tps, now_ms: None)


@bug
def lost_state_counts_as_fresh(patch):
    """A position without its state begins with all grants that are live, spent or not."""

    def assign(self, partition, offset, state, earliest=0):
        start = original(self, partition, offset, state, earliest)
        held = self.partitions[partition]
        if held.lost:
            held.budget.taken = 0
        return start

    original = scorer.Scorer.assign
    patch.setattr(scorer.Scorer, "assign", assign)


@bug
def state_stays_behind(patch):
    """Positions move without the partition's state."""
    original = PartitionBudget.encode
    patch.setattr(PartitionBudget, "encode", lambda _, *where: original(PartitionBudget(), *where))


@bug
def grants_are_taken_twice(patch):
    """Whoever sees a grant takes it, though it was taken before."""

    def take(self, given, budget, *, warming):
        self.taken = 0
        return original(self, given, budget, warming=warming)

    original = PartitionBudget.take
    patch.setattr(PartitionBudget, "take", take)


@bug
def grants_end_by_the_clock_alone(patch):
    """What a grant spent counts as known as soon as it lapsed, whatever a slow scorer still commits."""

    def settle(self, read_ms):
        for held in self.open.values():
            held.certain_ms = 0
        return original(self, self.clock_ms + 60_000)

    original = Dealer.settle
    patch.setattr(Dealer, "settle", settle)


@bug
def open_requests_are_not_counted(patch):
    """A restarted learner deals as if nothing waited for an answer."""

    def deal(self, now_ms, pending, budget, *, first, warming):
        return original(self, now_ms, 0, budget, first=first, warming=warming)

    original = Dealer.deal
    patch.setattr(Dealer, "deal", deal)


@bug
def the_coin_is_the_ids(patch):
    """A coin from something else than the position."""

    def coins(key, offsets):
        return original(key, offsets + 1)

    original = coin.coins
    patch.setattr(scorer.coin, "coins", coins)


@bug
def the_ledger_is_not_read_before_a_turn(patch):
    """The learner trusts the tables it has, though its last commit may have failed or another may have written."""
    patch.setattr(Follower, "catch_up", lambda self, end, *_, **__: self.advance(max_records=1))


@bug
def closed_requests_are_opened_again(patch):
    """A start forgets to look into the ledger for what is closed."""

    def remember(self, requests):
        closed, self.fold.closed = self.fold.closed, {}
        original(self, requests)
        self.fold.closed = closed

    original = Learner.remember
    patch.setattr(Learner, "remember", remember)


@bug
def answers_are_passed_by(patch):
    """The position of answers moves past those that still wait for their request."""
    patch.setattr(Learner, "answer_position", lambda self, topic, partition, read: (read, ""))


@bug
def reports_move_without_a_bucket(patch):
    """Tallies count as dealt with when they were read."""

    def positions(self, machine, *, reports):
        return original(self, machine, reports=True)

    original = LearnerTask._positions
    patch.setattr(LearnerTask, "_positions", positions)


@bug
def requests_expire_unread(patch):
    """A request expires by the clock, though its answer may stand unread in the topic."""

    def expire(self, read_answers_ms, step):
        original(self, self.clock_ms, step)

    original = Learner._expire
    patch.setattr(Learner, "_expire", expire)


@bug
def unreadable_samples_vanish(patch):
    """A sample that cannot be read is passed over without a dead letter."""

    def outputs(self, gathered):
        self.dead.clear()
        return original(self, gathered)

    original = ScorerTask._outputs
    patch.setattr(ScorerTask, "_outputs", outputs)


@bug
def a_rebuild_ends_early(patch):
    """The new model is taken over as soon as some of its records were folded."""

    def advance(self, rebuilding, max_records, timeout_s):
        handled = original(self, replace(rebuilding, until=rebuilding.until * 2 // 3), max_records, timeout_s)
        return handled

    original = Follower._advance_again
    patch.setattr(Follower, "_advance_again", advance)


@bug
def rebuilds_are_done_again(patch):
    """A learner that reads a report again does again what it asks for."""

    def rebuild(self, asked, step):
        self.fold.operations.clear()
        original(self, asked, step)

    original = Learner._rebuild
    patch.setattr(Learner, "_rebuild", rebuild)


@bug
def promotions_are_done_again(patch):
    """A learner that reads a report again exchanges the models back."""

    def promote(self, asked, step):
        self.fold.operations.clear()
        original(self, asked, step)

    original = Learner._promote
    patch.setattr(Learner, "_promote", promote)


@bug
def a_snapshot_forgets_the_challengers(patch):
    """Whoever starts from one promotes nobody."""

    def load(self, genesis, end):
        found = original(self, genesis, end)
        if found is not None:
            found.fold.contest = Contest()
        return found

    original = Snapshots.load
    patch.setattr(Snapshots, "load", load)


@bug
def snapshots_are_taken_on_trust(patch):
    """A snapshot is used at whatever position its name says."""

    def load(self, genesis, end):
        found = original(self, genesis, end)
        if found is not None:
            found.position = max(found.position - 1, 1)  # the last record is folded once more
        return found

    original = Snapshots.load
    patch.setattr(Snapshots, "load", load)
