"""The desk: who gets which question, what can be taken back, and what is published."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_al.core.desk import MOST_OPEN, MOST_RECENT, Desk
from stream_al.core.desk_facts import Refused, Rules, why
from stream_al.core.desk_figures import FEWEST_PAIRS, anchoring, kappa
from stream_al.core.learner import Withdrawal
from stream_al.core.messages import Answer, AtDesk, LabelRequest, Query, Shown, Source, timestamp

GRACE, LEASE, HOUR = 10_000, 300_000, 3_600_000
RULES = Rules(seed=1, blind=0.0, grace_ms=GRACE, lease_ms=LEASE)


def request(n=0, *, reason="informative", name=None, probabilities=None, **features):
    query = Query("margin", reason, 0.9, 0.5, 0.3, 0.01, 0.1, 0.6)
    shown = Shown("default", 7, {"fraud": 0.48, "ok": 0.44} if probabilities is None else probabilities)
    source = Source("samples", 0, n)
    return LabelRequest(
        name or f"s-{n}",
        f"0-{n}",
        features or {"x": float(n)},
        source,
        query,
        shown,
        timestamp(n),
        timestamp(HOUR),
    )


def desk(n=3, rules=RULES, classes=("fraud", "ok")):
    made = Desk(rules)
    made.known = classes
    for i in range(n):
        made.open(request(i))
    return made


def publish(made, now):
    """Write what is due and read it back, as the topic would."""
    answers = made.due(now)
    for answer in answers:
        made.published(answer, now)
    return answers


def names(items):
    return [item.request_id for item in items]


# --- leases ------------------------------------------------------------------------------------------------------


def test_questions_come_in_the_order_in_which_they_were_asked():
    assert names(desk().lease("ann", 2, 0)) == ["0-0", "0-1"]


def test_two_people_never_hold_the_same_question():
    made = desk()
    assert names(made.lease("ann", 2, 0)) == ["0-0", "0-1"]
    assert names(made.lease("bob", 5, 0)) == ["0-2"]


def test_a_page_that_is_loaded_again_gets_its_own_questions():
    made = desk()
    made.lease("ann", 2, 0)
    assert names(made.lease("ann", 2, 1)) == ["0-0", "0-1"]


def test_an_expired_lease_is_somebody_elses():
    made = desk(1)
    made.lease("ann", 1, 0)
    assert made.lease("bob", 1, LEASE - 1) == []
    assert names(made.lease("bob", 1, LEASE)) == ["0-0"]
    assert made.lease("ann", 1, LEASE + 1) == []


def test_a_late_answer_counts_unless_somebody_else_was_faster():
    made = desk(2)
    made.lease("ann", 2, 0)
    made.lease("bob", 2, LEASE)
    assert made.answer("ann", "0-0", "ok", LEASE + 1) is not None
    made.answer("bob", "0-1", "ok", LEASE + 1)
    with pytest.raises(Refused) as refused:
        made.answer("ann", "0-1", "fraud", LEASE + 2)
    assert refused.value.reason == "answered"


def test_a_lease_can_be_given_back_by_its_holder_only():
    made = desk(1)
    made.lease("ann", 1, 0)
    made.give_back("bob", "0-0")
    assert made.lease("bob", 1, 1) == []
    made.give_back("ann", "0-0")
    assert names(made.lease("bob", 1, 1)) == ["0-0"]


# --- answers -----------------------------------------------------------------------------------------------------


def test_an_answer_is_published_after_its_grace_and_not_before():
    made = desk()
    made.lease("ann", 1, 0)
    made.answer("ann", "0-0", "fraud", 1_000, seconds=2.0)
    assert publish(made, 1_000 + GRACE - 1) == []
    (answer,) = publish(made, 1_000 + GRACE)
    assert answer == Answer(
        "s-0", "fraud", False, "0-0", "ann", timestamp(1_000), desk=AtDesk(False, "fraud", 2.0, False)
    )
    assert "0-0" not in made.questions


def test_an_answer_can_be_changed_until_it_is_published_and_its_grace_begins_anew():
    made = desk()
    made.answer("ann", "0-0", "fraud", 0)
    made.answer("ann", "0-0", "ok", GRACE - 1)
    assert publish(made, GRACE) == []
    assert [a.label for a in publish(made, 2 * GRACE)] == ["ok"]
    with pytest.raises(Refused, match="published already"):
        made.answer("ann", "0-0", "fraud", 2 * GRACE)


def test_the_same_answer_again_changes_nothing_whenever_it_comes():
    made = desk()
    first = made.answer("ann", "0-0", "fraud", 0)
    assert made.answer("ann", "0-0", "fraud", 5) == first
    publish(made, GRACE)
    assert made.answer("ann", "0-0", "fraud", GRACE) is None
    assert publish(made, 10 * GRACE) == []


def test_a_skip_closes_the_question_for_everybody():
    made = desk(1)
    made.answer("ann", "0-0", None, 0)
    assert made.lease("bob", 1, 1) == []
    (answer,) = publish(made, GRACE)
    assert (answer.skip, answer.label) == (True, None)


def test_undo_brings_the_question_back_to_the_same_person():
    made = desk()
    made.lease("ann", 1, 0)
    made.answer("ann", "0-0", "fraud", 0)
    assert made.undo("ann", "0-0", 1).request_id == "0-0"
    assert publish(made, 10 * GRACE) == []
    assert names(made.lease("ann", 2, 2)) == ["0-0", "0-1"]
    assert made.undo("ann", "0-0", 3) is None


@pytest.mark.parametrize("read_back", [False, True])
def test_what_is_being_written_cannot_be_taken_back(read_back):
    made = desk()
    made.answer("ann", "0-0", "fraud", 0)
    answers = made.due(GRACE)
    if read_back:
        made.published(answers[0], GRACE)
    for act in (lambda: made.undo("ann", "0-0", GRACE), lambda: made.answer("ann", "0-0", "ok", GRACE)):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.reason == "published"


def test_what_could_not_be_written_is_due_again():
    made = desk()
    made.answer("ann", "0-0", "fraud", 0)
    made.returned(made.due(GRACE))
    assert len(made.due(GRACE)) == 1


def test_the_last_ten_answers_are_listed_and_can_be_changed():
    made = desk(MOST_RECENT + 2)
    for n in range(MOST_RECENT + 2):
        made.answer("ann", f"0-{n}", "ok", n)
    listed = made.latest("ann", 100)
    assert [r.request_id for r in listed] == [f"0-{n}" for n in range(MOST_RECENT + 1, 1, -1)]
    made.answer("ann", listed[-1].request_id, "fraud", 200)
    assert (made.latest("ann", 200)[0].label, made.latest("ann", 200)[0].publishes_in_s) == ("fraud", 10.0)
    publish(made, 300 + GRACE)
    assert {r.state for r in made.latest("ann", 300 + GRACE)} == {"published"}


def test_a_flagged_question_waits_for_its_owner():
    made = desk(1)
    made.flag("ann", "0-0")
    assert made.lease("bob", 1, 0) == []
    assert [line.state for line in made.lines(0)] == ["flagged"]
    made.release("0-0")
    assert names(made.lease("bob", 1, 0)) == ["0-0"]


def test_a_flag_is_taken_back_by_who_put_it():
    made = desk(1)
    made.flag("ann", "0-0")
    assert made.undo("bob", "0-0", 0) is None
    assert made.undo("ann", "0-0", 0).request_id == "0-0"


# --- topics ------------------------------------------------------------------------------------------------------


def test_what_is_closed_elsewhere_is_not_asked():
    made = desk(4)
    made.close("0-0")
    made.open(Withdrawal("s-1", None))
    made.published(Answer("s-2", "ok", request_id="0-2", annotator="tool"), 0)
    assert names(made.lease("ann", 5, 0)) == ["0-3"]


def test_an_accepted_answer_is_published_even_if_its_request_was_closed_meanwhile():
    made = desk(1)
    made.answer("ann", "0-0", "ok", 0)
    made.close("0-0")
    assert [a.label for a in publish(made, GRACE)] == ["ok"]
    assert not made.questions


def test_a_kept_answer_is_taken_up_again_unless_it_was_published():
    made = desk()
    kept = made.answer("ann", "0-0", "ok", 0)
    again = desk()
    assert again.restore(kept)
    assert [a.label for a in again.due(GRACE)] == ["ok"]
    third = desk()
    third.published(made.due(GRACE)[0], 0)
    assert not third.restore(kept)
    assert third.due(10 * GRACE) == []


def test_requests_are_left_unread_while_there_is_no_room():
    made = desk(MOST_OPEN)
    assert not made.room
    made.close("0-5")
    assert made.room


def test_large_samples_leave_less_room():
    made = desk(0)
    made.open(request(0, text="x" * (64 << 20)))
    assert not made.room


def test_embeddings_are_not_held_and_ranges_are_of_numbers():
    made = desk(0)
    made.open(request(0, x=1.0, vector=[0.5] * 100, word="a", flag=True))
    made.open(request(1, x=-3, missing=None))
    (first, _) = made.lease("ann", 2, 0)
    assert first.features == {"x": 1.0, "word": "a", "flag": True}
    assert made.ranges == {"x": (-3, 1.0)}


# --- classes -----------------------------------------------------------------------------------------------------


def test_an_unknown_class_is_refused_unless_it_is_said_to_be_new():
    with pytest.raises(Refused) as refused:
        desk().answer("ann", "0-0", "typo", 0)
    assert refused.value.reason == "no_class"


@pytest.mark.parametrize("label", [1, True, "1"])
def test_classes_keep_their_type(label):
    made = desk(classes=(2,))
    with pytest.raises(Refused):
        made.answer("ann", "0-0", label, 0)
    made.known = (label,)
    assert made.answer("ann", "0-0", label, 0).label is label


def test_a_new_class_is_held_until_the_owner_accepts_it():
    made = desk()
    made.answer("ann", "0-0", "theft", 0, new_class=True)
    assert publish(made, 10 * GRACE) == []
    assert list(made.held()) == ["theft"]
    assert made.lease("bob", 1, 0)[0].request_id == "0-1"
    made.decide("theft", 50_000, as_label="theft")
    assert made.classes == ("fraud", "ok", "theft")
    assert [a.label for a in publish(made, 50_000 + GRACE)] == ["theft"]
    assert made.classes == ("fraud", "ok", "theft")


def test_a_new_class_can_turn_out_to_be_another_name_of_one():
    made = desk()
    made.answer("ann", "0-0", "Fraud!", 0, new_class=True)
    made.decide("Fraud!", 0, as_label="fraud")
    assert [a.label for a in publish(made, GRACE)] == ["fraud"]
    assert made.classes == ("fraud", "ok")


def test_a_dismissed_class_puts_its_question_back():
    made = desk(1)
    made.answer("ann", "0-0", "theft", 0, new_class=True)
    assert [g.label for g in made.decide("theft", 0, as_label=None)] == ["theft"]
    assert names(made.lease("bob", 1, 0)) == ["0-0"]


def test_the_owners_new_class_needs_nobody_and_is_gone_when_it_is_taken_back():
    made = desk()
    made.answer("own", "0-0", "theft", 0, new_class=True, owner=True)
    assert "theft" in made.classes
    made.undo("own", "0-0", 1)
    assert "theft" not in made.classes


def test_fixed_classes_have_no_others():
    made = desk()
    made.fixed = True
    with pytest.raises(Refused):
        made.answer("ann", "0-0", "theft", 0, new_class=True, owner=True)
    made.published(Answer("s-9", "theft", annotator="tool"), 0)
    made.published(Answer("s-0", "theft", request_id="0-0", annotator="tool"), 0)
    assert made.classes == ("fraud", "ok")


def test_in_regression_an_answer_is_a_number():
    made = desk()
    made.task = "regression"
    for label in ("a", True):
        with pytest.raises(Refused):
            made.answer("ann", "0-0", label, 0)
    assert made.answer("ann", "0-0", 2.5, 0).label == 2.5


# --- blind, why --------------------------------------------------------------------------------------------------


def test_the_blind_share_is_the_rules_and_anybody_can_derive_it_again():
    def blind():
        made = desk(2_000, replace(RULES, blind=0.5))
        return [q.blind for q in made.questions.values()]

    assert blind() == blind()
    assert 0.45 < sum(blind()) / 2_000 < 0.55
    assert not any(q.blind for q in desk(50).questions.values())


def test_a_blind_question_tells_nothing_of_what_the_model_thinks():
    (item,) = desk(1, replace(RULES, blind=1.0)).lease("ann", 1, 0)
    assert (item.guess, item.confidence, item.blind) == (None, None, True)
    assert not re.search(r"fraud|ok|0\.4", item.why)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request(), "the model is torn between fraud (0.48) and ok (0.44)"),
        (
            request(probabilities={"ok": 0.9, "fraud": 0.1}),
            "the model says ok (0.90) and would learn from this one",
        ),
        (request(probabilities={}), "the model has no answer"),
        (request(reason="explore"), "random check: drawn by lot from all samples"),
        (request(reason="warm_up"), "warming up: the model has seen too few labels"),
    ],
)
def test_why_a_label_is_wanted(asked, said):
    assert why(asked) == said


# --- second opinions and figures ---------------------------------------------------------------------------------

BOTH = replace(RULES, second_opinion=1.0)


def test_a_second_person_is_asked_and_that_answer_is_an_opinion():
    made = desk(1, BOTH)
    made.answer("ann", "0-0", "ok", 0)
    assert made.lease("ann", 1, 1) == []
    assert names(made.lease("bob", 1, 1)) == ["0-0"]
    assert [a.desk.opinion for a in publish(made, GRACE)] == [False]
    made.close("0-0")  # learned: the question stays for the other one
    made.answer("bob", "0-0", "fraud", GRACE)
    assert [(a.label, a.desk.opinion) for a in publish(made, 2 * GRACE)] == [("fraud", True)]
    assert made.figures.pairs == Counter({("ok", "fraud"): 1})
    assert made.lease("cleo", 1, 0) == []
    assert not made.questions


def test_two_answers_that_are_due_together_are_one_label_and_one_opinion():
    made = desk(1, BOTH)
    made.answer("ann", "0-0", "ok", 0)
    made.answer("bob", "0-0", "ok", 1)
    assert [(a.annotator, a.desk.opinion) for a in made.due(2 * GRACE)] == [("ann", False), ("bob", True)]


def test_nobody_waits_for_a_second_opinion_for_ever():
    made = desk(1, BOTH)
    made.answer("ann", "0-0", "ok", 0)
    publish(made, GRACE)
    made.forget_expired(HOUR + 1)
    assert not made.questions


def test_kappa_of_a_known_table():
    """Two of ten pairs disagree and 8 of 20 answers are a: p0 = .8, pe = .4² + .6²."""
    found = kappa(Counter({("a", "a"): 3, ("b", "b"): 5, ("a", "b"): 1, ("b", "a"): 1}))
    pe = 0.4**2 + 0.6**2
    assert found.kappa.value == pytest.approx((0.8 - pe) / (1 - pe))
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert kappa(Counter({("a", "b"): FEWEST_PAIRS - 1})).kappa is None
    assert kappa(Counter({("a", "a"): 50})).kappa is None


def test_newcombes_interval_is_the_published_one():
    """Newcombe (1998), table II, (a): 56/70 - 48/80, method 10: .0524 to .3339."""
    found = anchoring((56, 70), (48, 80)).difference
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (pytest.approx(0.2), 0.0524, 0.3339)


def test_figures_count_each_published_answer_once():
    made = desk(2)
    made.answer("ann", "0-0", "fraud", 0, seconds=2.0)
    made.answer("ann", "0-1", None, 0, seconds=4.0)
    answers = publish(made, GRACE)
    for answer in answers:
        made.published(answer, GRACE)
    ann = made.figures.annotators["ann"]
    assert (ann.labels, ann.skips, ann.seconds) == (1, 1, 3.0)
    assert made.figures.anchoring.shown == (1, 1)
    assert (made.figures.rate(GRACE), made.figures.rate(GRACE + HOUR)) == (2, 0)


# --- whatever people do ------------------------------------------------------------------------------------------

PEOPLE = st.sampled_from(["ann", "bob", "cleo"])
KINDS = [
    "lease",
    "answer",
    "answer",
    "answer",
    "skip",
    "undo",
    "flag",
    "release",
    "close",
    "publish",
    "publish",
    "write",
]
ACTS = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, "tick", "crash"]),
        PEOPLE,
        st.integers(0, 2),
        st.sampled_from(["fraud", "ok"]),
    ),
    min_size=25,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(ACTS, st.sampled_from([0.0, 0.5, 1.0]))
def test_whatever_people_do_each_request_gets_one_label_and_nothing_accepted_is_lost(acts, second):
    rules = replace(RULES, second_opinion=second)
    made, now = desk(3, rules), 0
    topic, kept, closed, writing = [], {}, set(), []
    for act, who, n, label in acts:
        name = f"0-{n}"
        try:
            if act == "lease":
                for item in made.lease(who, 2, now):
                    others = [q for q in made.questions.values() if q.request.request_id == item.request_id]
                    assert [q.holder for q in others] == [who]
            elif act in ("answer", "skip"):
                found = made.answer(who, name, label if act == "answer" else None, now)
                if found is not None:
                    kept[name, who] = found
            elif act == "undo":
                if made.undo(who, name, now) is not None:
                    kept.pop((name, who), None)
            elif act == "flag":
                made.flag(who, name)
            elif act == "release":
                made.release(name)
        except Refused:
            pass
        if act == "close":
            closed.add(name)
            made.close(name)
        elif act == "write":  # the outcome is not known yet
            writing += made.due(now)
        elif act == "publish":
            now += GRACE
            for answer in [*writing, *made.due(now)]:
                made.published(answer, now)
                topic.append(answer)
                assert kept.pop((answer.request_id, answer.annotator)).label == answer.label
            writing = []
        elif act == "tick":
            now += GRACE // 2
        elif act == "crash":
            writing = []
            made = desk(3, rules)
            for answer in topic:
                made.published(answer, now)
            for one in kept.values():
                assert made.restore(one)
            for gone in closed:
                made.close(gone)
        assert {(g.request_id, g.annotator): g for g in made.kept()} == kept
    made.returned(writing)
    topic += publish(made, now + 10 * GRACE)
    labels = Counter(a.request_id for a in topic if not a.desk.opinion)
    assert all(count == 1 for count in labels.values())
    assert all(count == 1 for count in Counter((a.request_id, a.annotator) for a in topic).values())
    assert all(count <= 2 for count in Counter(a.request_id for a in topic).values())
