"""Votes of several people: what they decide, whom the panel believes, and what the learner makes of it."""

from __future__ import annotations

import math
import pickle
import random
from dataclasses import replace
from statistics import mean, stdev

import pytest

from stream_al.core.alike import likeness
from stream_al.core.messages import (
    Answer,
    AtDesk,
    Correction,
    Decision,
    Expired,
    Learned,
    Skipped,
    Unsolicited,
    Vote,
    timestamp,
)
from stream_al.core.votes import Cast, Panel, Policy, told, verdict
from tests.core.test_learner import NOW, Desk, request, tally

pytestmark = pytest.mark.fault(
    "people who disagree, pass, vote twice or late", "the policies and the sequencer"
)


def said(text):
    """Return votes from ``ann:a bob:b eve:-``; a dash is a skip."""
    pairs = [one.split(":") for one in text.split()]
    return {who: Cast(None if key == "-" else key, who, n) for n, (who, key) in enumerate(pairs)}


@pytest.mark.parametrize(
    ("votes", "people", "label"),
    [
        ("x:a", 2, "open"), ("x:a y:a", 3, "a"), ("x:a y:b", 3, "open"), ("x:a y:b z:b", 3, "b"),
        ("x:a y:b", 2, "open"), ("x:a y:b z:c", 3, "open"), ("x:a y:-", 2, "a"), ("x:- y:-", 2, None),
        ("x:-", 2, "open"), ("x:a y:a z:b u:b v:c", 5, "open"), ("x:a y:-", 3, "open"),
    ],
)  # fmt: skip
def test_more_than_half_of_those_who_have_an_opinion_decide(votes, people, label):
    found = verdict(Policy(people), said(votes), {})
    assert ("open" if found is None else found.label) == label


def test_what_there_is_decides_when_no_more_will_come():
    assert verdict(Policy(3), said("x:a"), {}, last=True).label == "a"
    assert verdict(Policy(3), said("x:a y:b"), {}, last=True) is None
    assert verdict(Policy(3), said("x:-"), {}, last=True) is None


def test_the_first_label_counts_and_a_skip_is_none():
    assert verdict(Policy(3, "first"), said("x:- y:b z:a"), {}).label == "b"


def test_one_word_alone_is_never_certain():
    policy = Policy(3, "dawid_skene", 0.9)
    assert verdict(policy, said("x:a"), {"a": 0.999}) is None
    assert verdict(policy, said("x:a y:a"), {"a": 0.95}).label == "a"
    assert verdict(policy, said("x:a y:b z:b"), {"a": 0.95}).label == "a"
    assert verdict(policy, said("x:a y:b z:b"), {"a": 0.7}) is None, (
        "most say another class than the likeliest"
    )


def test_the_panel_learns_whom_to_believe_and_beats_the_majority():
    """Three who guess are outvoted by two who know, once it is seen who they are."""
    rng, panel = random.Random(3), Panel()
    skill = {"ann": 0.95, "bob": 0.95, "g1": 0.52, "g2": 0.52, "g3": 0.52}
    right = {"dawid_skene": 0, "majority": 0}
    for n in range(600):
        truth = rng.choice("ab")
        for m, (who, p) in enumerate(skill.items()):
            label = truth if rng.random() < p else "b" if truth == "a" else "a"
            panel.vote(Vote(f"0-{n}", "s", label, timestamp(NOW), f"{n}-{m}", who), 5 * n + m, is_open=True)
        votes = panel.votes_on([f"0-{n}"])
        p = panel.probabilities(votes, ["a", "b"])
        assert sum(p.values()) == pytest.approx(1)
        likeliest = max(p, key=p.get)
        panel.close(f"0-{n}", Decision("dawid_skene", 5, p))
        if n >= 200:
            right["dawid_skene"] += likeliest == truth
            right["majority"] += verdict(Policy(5), votes, {}).label == truth
    assert right["dawid_skene"] / 400 > 0.9 > right["majority"] / 400
    found = panel.reliability()
    assert min(found["ann"], found["bob"]) > 0.85 > 0.65 > max(found["g1"], found["g2"], found["g3"])


def test_nobody_becomes_reliable_alone():
    panel = Panel()
    for n in range(20):
        panel.vote(Vote(f"0-{n}", "s", "a", timestamp(NOW), f"p{n}", "ann"), n, is_open=True)
        panel.close(f"0-{n}", Decision("first", 1, {"a": 0.8, "b": 0.2}))
    assert panel.reliability() == {}
    panel.vote(Vote("0-3", "s", "b", timestamp(NOW), "late", "bob"), 99, is_open=False)
    assert panel.reliability() == {"ann": pytest.approx(0.8), "bob": pytest.approx(0.2)}


# --- the learner -------------------------------------------------------------------------------------------------


def vote(who, label, offset=1, decides=False):
    desk = AtDesk(decides=True) if decides else None
    return Answer(f"s-{offset}", label, label is None, f"0-{offset}", who, desk=desk)


def several(k=3, agreement="majority", **more):
    return Desk(policy=Policy(k, agreement), **more)


def settle(desk, *answers):
    """Do a turn with answers and one more, in which the ledger's votes decide."""
    first, second = desk.turn(answers=answers), desk.turn(later_ms=10)
    return first.ledger + second.ledger


def kinds(records):
    return [r.kind for r in records if r.kind not in ("bucket", "grant")]


def unsettled(desk):
    return [r for r, b in desk.fold.panel.ballots.items() if not b.closed and len(b.votes) >= 2]


def test_a_record_tells_of_what_was_voted_for_and_of_few_others():
    probabilities = {f"c{n}": 1 / (n + 2) for n in range(1000)}
    kept = told(probabilities, {"ann": Cast("c999", "labels-0-1", 1)})
    assert set(kept) == {*(f"c{n}" for n in range(20)), "c999"}
    assert kept["c999"] == probabilities["c999"]


def test_a_changed_answer_corrects_once_one_vote_is_enough():
    desk = several(2)
    desk.turn([request(1)])
    settle(desk, vote("ann", "a"), vote("bob", "a"))
    desk.restart()
    desk.learner.policy = Policy(1, "majority")
    [found] = [r for r in settle(desk, vote("bob", "b")) if isinstance(r, Correction)]
    assert (found.old, found.label) == ("a", "b")


def test_votes_make_a_label_when_they_agree_and_it_says_what_it_rests_on():
    desk = several()
    desk.turn([request(1)])
    assert kinds(settle(desk, vote("ann", "a"))) == ["vote"]
    *_, label = [r for r in settle(desk, vote("bob", "a")) if r.kind in ("vote", "label")]
    assert (label.label, label.learn, label.answer, label.annotator) == ("a", True, "labels-0-1", "bob")
    assert (label.decision.policy, label.decision.votes) == ("majority", 2)
    assert label.decision.probabilities["a"] > 0.9
    assert desk.fold.outcomes["voted"] == 2
    assert not desk.learner.pending


def test_who_votes_twice_counts_once_by_the_latest():
    desk = several(2)
    desk.turn([request(1)])
    assert kinds(settle(desk, vote("ann", "a"), vote("ann", "b"))) == ["vote", "vote"]
    assert [r.label for r in settle(desk, vote("bob", "b")) if isinstance(r, Learned)] == ["b"]


def test_answers_without_a_name_are_one_persons():
    desk = several(2)
    desk.turn([request(1)])
    assert "label" not in kinds(settle(desk, vote(None, "a"), vote(None, "a")))


def test_who_do_not_agree_leave_it_to_the_owner():
    desk = several(2)
    desk.turn([request(1)])
    assert kinds(settle(desk, vote("ann", "a"), vote("bob", "b"))) == ["vote", "vote"]
    assert unsettled(desk) == ["0-1"]
    [label] = [r for r in settle(desk, vote("own", "b", decides=True)) if isinstance(r, Learned)]
    assert (label.label, label.annotator) == ("b", "own")
    assert label.decision == Decision("owner", 2, {"b": 1.0})
    assert unsettled(desk) == []
    assert desk.fold.panel.reliability() == {"ann": 0.0, "bob": 1.0}


def test_a_late_vote_changes_nothing_but_what_is_known_of_people():
    desk = several(3)
    desk.turn([request(1)])
    settle(desk, vote("ann", "a"), vote("bob", "a"))
    model = pickle.dumps(desk.fold.model)
    assert kinds(settle(desk, vote("eve", "b"))) == ["vote"]
    assert desk.turn(answers=[vote("eve", "a"), vote("ann", "b"), vote("max", "b")]).rejected
    assert desk.fold.outcomes["corrected"] == 0
    assert pickle.dumps(desk.fold.model) == model
    assert desk.fold.panel.reliability()["eve"] < 0.1
    by_id = desk.turn(answers=[Answer("s-1", "b", annotator="zoe")])
    assert ([r for _, r in by_id.rejected], kinds(by_id.ledger)) == (["closed_request"], [])


def test_the_owner_corrects_what_was_decided():
    desk = several(2)
    desk.turn([request(1)])
    settle(desk, vote("ann", "a"), vote("bob", "a"))
    [found] = [r for r in settle(desk, vote("own", "b", decides=True)) if isinstance(r, Correction)]
    assert (found.old, found.label) == ("a", "b")


def test_votes_read_again_count_once_and_a_restart_decides_what_was_left():
    desk = several(2)
    asked = request(1)
    desk.turn([asked])
    step = desk.turn(answers=[vote("ann", "a"), vote("bob", "a")])
    assert kinds(step.ledger) == ["vote", "vote"]
    desk.restart()  # before the votes were looked at
    desk.learner.remember([asked])
    step = desk.turn()
    assert kinds(step.ledger) == ["label"]
    places = [r.answer for r in desk.of(step, Learned)]
    again = desk.turn(answers=[(place, vote(who, "a")) for place, who in _places(desk, "ann", "bob")])
    assert (kinds(again.ledger), again.rejected) == ([], [])
    assert places == ["labels-0-1"]


def _places(desk, *people):
    from stream_al.core.learner import Place

    return [(Place("labels", 0, n), who) for n, who in enumerate(people)]


def test_when_the_time_is_over_the_votes_at_hand_decide_and_a_tie_expires():
    desk = several(3)
    desk.turn([request(1), request(2), request(3)])
    settle(desk, vote("ann", "a", 1), vote("ann", "a", 2), vote("bob", "b", 2))
    records = desk.turn(later_ms=200_000).ledger + desk.turn(later_ms=10).ledger
    assert [(r.request_id, r.label) for r in records if isinstance(r, Learned)] == [("0-1", "a")]
    assert sorted(r.request_id for r in records if isinstance(r, Expired)) == ["0-2", "0-3"]


def test_a_vote_in_the_last_moment_counts():
    desk = several(2)
    desk.turn([request(1)])
    records = desk.turn(answers=[vote("ann", "a")], later_ms=200_000).ledger + desk.turn(later_ms=10).ledger
    assert kinds(records) == ["vote", "label"]


def test_if_everybody_passes_it_is_a_skip():
    desk = several(2)
    desk.turn([request(1)])
    assert [r.kind for r in settle(desk, vote("ann", None), vote("bob", None))] == ["vote", "vote", "skip"]


def test_an_early_decision_is_told_to_those_who_would_still_answer():
    desk = several(3)
    desk.turn([request(1)])
    desk.turn(answers=[vote("ann", "a"), vote("bob", "a")])
    assert desk.turn(later_ms=10).withdrawn == [("s-1", "0-1")]


def test_with_one_vote_nothing_changes():
    one, plain = Desk(policy=Policy(1, "dawid_skene")), Desk()
    for desk in (one, plain):
        desk.turn([request(1), request(2)])
    answers = [
        vote("ann", "a", 1),
        vote("bob", "b", 1),
        vote("bob", "b", 2),
        vote("own", None, 2, decides=True),
    ]
    assert settle(one, *answers) == settle(plain, *answers)
    assert not one.fold.panel.ballots


# --- samples that are alike --------------------------------------------------------------------------------------


def alike(offset, x=1.0, p=0.25):
    made = request(offset)
    return replace(made, features={"x": x}, query=replace(made.query, inclusion_probability=p))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"x": 0.1}, {"x": 0.10000000149}, True), ({"x": 0.1}, {"x": 0.10001}, False), ({"x": 2}, {"x": 2.0}, True),
        ({"x": 1_800_000_001}, {"x": 1_800_000_002}, False), ({"x": 1}, {"x": True}, False), ({"x": 1}, {"x": "1"}, False),
        ({"x": 1, "gone": None}, {"x": 1}, True), ({"v": [0.5, 1]}, {"v": [0.5, 1.0]}, True), ({"v": [1, 2]}, {"v": [2, 1]}, False),
        ({"x": -0.0}, {"x": 0}, True), ({"t": "a"}, {"t": "A"}, False), ({"x": 1e300}, {"x": 1e300}, True),
        ({"t": "\ud800"}, {"t": "\ud800"}, True),
    ],
)  # fmt: skip
def test_what_is_alike(one, other, same):
    assert (likeness(one) == likeness(other)) == same


def test_one_answer_serves_all_that_are_alike_each_with_its_own_probability():
    desk = Desk(share_alike=True)
    desk.turn([alike(1, p=0.25), alike(2, p=0.5), alike(3, x=7.0), alike(4, p=0.125)])
    step = desk.turn(answers=[vote("ann", "a", 2)])
    found = {r.request_id: r for r in desk.of(step, Learned)}
    assert {r: (f.learn, f.same_as) for r, f in found.items()} == {
        "0-2": (True, None), "0-1": (False, "0-2"), "0-4": (False, "0-2"),
    }  # fmt: skip
    assert [f.query.inclusion_probability for f in found.values()] == [0.5, 0.25, 0.125]
    assert sorted(step.withdrawn) == [("s-1", "0-1"), ("s-4", "0-4")]
    assert set(desk.learner.pending) == {"0-3"}
    assert (desk.fold.learned, desk.fold.outcomes["alike"]) == (1, 2)


def test_an_answer_to_one_that_was_served_by_another_corrects_nothing():
    desk = Desk(share_alike=True, unsolicited=True)
    desk.turn([alike(1), alike(2)])
    desk.turn(answers=[vote("ann", "a", 1)])
    step = desk.turn(answers=[vote("bob", "b", 2), Answer("s-2", "b", features={"x": 1.0})])
    later = desk.turn(later_ms=10_000)
    assert [r for _, r in step.rejected + later.rejected] == ["closed_request"] * 2
    assert not desk.of(step, Correction) + desk.of(later, Unsolicited)


def test_a_skip_serves_those_alike_too_and_each_expires_by_itself():
    desk = Desk(share_alike=True)
    desk.turn([alike(1), alike(2)])
    assert [r.same_as for r in desk.of(desk.turn(answers=[vote("ann", None, 1)]), Skipped)] == [None, "0-1"]
    desk.turn([alike(3), alike(4)])
    assert len(desk.of(desk.turn(later_ms=200_000), Expired)) == 2


def test_votes_about_those_alike_are_counted_together():
    desk = several(2, share_alike=True)
    desk.turn([alike(1), alike(2)])
    records = settle(desk, vote("ann", "a", 1), vote("bob", "a", 2))
    found = [r for r in records if isinstance(r, Learned)]
    assert [(r.request_id, r.learn, r.decision.votes) for r in found] == [("0-1", True, 2), ("0-2", False, 2)]


SAMPLES, STREAMS = 240, 60


def estimated(seed, *, served=True):
    """Return by how much the accuracy is off on a stream in which a row that the model gets wrong returns often."""
    rng, desk = random.Random(seed), Desk(share_alike=served)
    truth, asked, p_of = [], [], []
    for n in range(SAMPLES):
        again = rng.random() < 0.35
        truth.append("b" if again or rng.random() < 0.2 else "a")  # the model says a
        p_of.append(0.5 if n % 3 == 0 else 0.1)
        if rng.random() < p_of[-1]:
            asked.append(alike(n, -1.0 if again else float(n), p_of[-1]))
    sums = tally(0, SAMPLES).sums
    sums.sum_p, sums.sum_v_over_p = sum(p_of), sum(0.24 / p for p in p_of)
    desk.turn(asked, [replace(tally(0, SAMPLES), sums=sums)])
    shown = set()
    for q in asked:  # as at the desk: of those alike the first is shown
        if q.features["x"] not in shown:
            shown.add(q.features["x"])
            desk.turn(answers=[vote("ann", truth[q.source.offset], q.source.offset)])
    assert bool(desk.learner.pending) != served
    return desk.fold.accuracy.window(None).dr.value - truth.count("a") / SAMPLES


@pytest.mark.slow
def test_an_answer_that_serves_many_does_not_bias_the_accuracy():
    """Each is credited with its own p; if only the one that was asked counted, errors that return would be missed."""
    off = [estimated(seed) for seed in range(STREAMS)]
    error = stdev(off) / math.sqrt(STREAMS)
    assert error < 0.02
    assert abs(mean(off)) < 3 * error
    assert mean(estimated(seed, served=False) for seed in range(STREAMS)) > 10 * error
