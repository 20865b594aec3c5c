"""The learner joins answers to requests: late, early, twice, wrong, never."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import pytest

from stream_al.core.fold import Fold
from stream_al.core.learner import MOST_WAITING, Learner, Place, Turn, Withdrawal
from stream_al.core.messages import (
    Answer,
    Bucket,
    Budget,
    Correction,
    Expired,
    Genesis,
    Grant,
    LabelRequest,
    Learned,
    Observe,
    Query,
    Rebuild,
    Shown,
    Skipped,
    Source,
    Spent,
    Sums,
    Tally,
    Unsolicited,
    timestamp,
)

pytestmark = pytest.mark.fault(
    "answers late, twice, changed, withdrawn, for nobody",
    "the sequencer's own rules, with restarts and redelivery",
)

NOW = 1_800_000_000_000
SPEC = ["river.naive_bayes.GaussianNB"]


def request(offset, name=None, partition=0, at=NOW, ttl=100_000):
    source = Source("samples", partition, offset)
    query = Query("margin", "informative", 0.9, 0.8, 0.25, 0.01, 0.1, 0.6)
    shown = Shown("default", 0, {"a": 0.6, "b": 0.4})
    name = name or f"s-{offset}"
    return LabelRequest(
        name, source.request_id, {"x": 1.0}, source, query, shown, timestamp(at), timestamp(at + ttl)
    )


def tally(start, end, partition=0, at=NOW, grants=None, samples=None):
    n = end - start if samples is None else samples
    sums = Sums(samples=n, sum_p=0.25 * n, sum_m=0.6 * n, sum_v=0.24 * n, sum_v_over_p=0.96 * n)
    return Tally(partition, start, end, timestamp(at), timestamp(at), sums, grants or {})


class Desk:
    """A learner with its ledger: what one turn writes is folded before the next."""

    def __init__(self, budget=None, **more):
        self.fold, self.now = Fold(), NOW
        self.budget = budget or Budget(fraction=0.05)
        self.write(
            [
                Genesis("id", "samples", {0: 0, 1: 0}, "default", SPEC, None, "margin", 1, timestamp(NOW)),
                self.budget,
            ]
        )
        self.places = itertools.count()
        self.options = {
            "label_ttl_ms": 100_000,
            "wait_unknown_ms": 5_000,
            "bucket_ms": 1_000,
            "transaction_timeout_ms": 10_000,
            **more,
        }
        self.restart()

    def restart(self):
        self.learner = Learner(self.fold, self.budget, now_ms=self.now, **self.options)

    def write(self, records):
        for record in records:
            self.fold.apply(self.fold.position, record)

    def turn(self, requests=(), reports=(), answers=(), later_ms=0, read=True):
        self.now += later_ms
        given = [(a if isinstance(a, tuple) else (Place("labels", 0, next(self.places)), a)) for a in answers]
        through = dict.fromkeys(("requests", "reports", "answers"), self.now) if read else {}
        step = self.learner.on(
            Turn(self.now, list(requests), list(reports), [(p, self.now, a) for p, a in given], through)
        )
        self.write(step.ledger)
        return step

    def of(self, step, kind):
        return [r for r in step.ledger if isinstance(r, kind)]


@pytest.fixture
def desk():
    return Desk()


def test_an_answer_closes_its_request_and_is_learned(desk):
    desk.turn([request(1)])
    step = desk.turn(answers=[Answer("s-1", "a", request_id="0-1", annotator="ann")])
    [learned] = desk.of(step, Learned)
    assert (learned.label, learned.learn, learned.annotator, learned.answer) == (
        "a",
        True,
        "ann",
        "labels-0-0",
    )
    assert not desk.learner.pending


def test_an_answer_without_request_id_answers_all_open_requests_of_the_id_and_is_learned_once(desk):
    desk.turn([request(1, "same"), request(2, "same"), request(3)])
    step = desk.turn(answers=[Answer("same", "a")])
    assert [r.learn for r in desk.of(step, Learned)] == [True, False]
    assert set(desk.learner.pending) == {"0-3"}


def test_the_same_answer_twice_is_rejected_the_second_time(desk):
    desk.turn([request(1)])
    desk.turn(answers=[Answer("s-1", "a", request_id="0-1")])
    step = desk.turn(answers=[Answer("s-1", "a", request_id="0-1")])
    assert [r for _, r in step.rejected] == ["closed_request"]
    assert not step.ledger


def test_the_same_answer_twice_in_one_turn_is_learned_once(desk):
    desk.turn([request(1)])
    first = desk.turn(answers=[Answer("s-1", "a", request_id="0-1"), Answer("s-1", "b", request_id="0-1")])
    second = desk.turn(later_ms=10)
    assert len(desk.of(first, Learned)) == 1
    assert [c.label for c in desk.of(second, Correction)] == ["b"]


def test_another_label_for_a_learned_one_is_a_correction_and_changes_no_model(desk):
    desk.turn([request(1)])
    desk.turn(answers=[Answer("s-1", "a", request_id="0-1")])
    model, version = desk.fold.model, desk.fold.version
    answer = Answer("s-1", "b", request_id="0-1", annotator="eve")
    [found] = desk.of(desk.turn(answers=[answer]), Correction)
    assert (found.request_id, found.id, found.old, found.label, found.annotator) == (
        "0-1",
        "s-1",
        "a",
        "b",
        "eve",
    )
    assert (found.corrects, found.answer) == ("labels-0-0", "labels-0-1")
    assert (desk.fold.model, desk.fold.version) == (model, version)
    assert desk.fold.outcomes["corrected"] == 1


def test_an_id_alone_corrects_its_latest_label(desk):
    desk.turn([request(1)])
    desk.turn(answers=[Answer("s-1", "a")])
    [found] = desk.of(desk.turn(answers=[Answer("s-1", "b")]), Correction)
    assert found.request_id is None
    [known] = desk.of(desk.turn([request(7, "s-1")]), Learned)
    assert (known.label, known.learn) == ("b", False), "what is known of the id is the corrected label"


def test_a_label_as_it_is_now_is_no_correction_and_one_may_be_taken_back(desk):
    desk.turn([request(1)])
    answers = [
        (Place("labels", 0, n), Answer("s-1", label, request_id="0-1")) for n, label in enumerate("abba")
    ]
    for answer in answers[:2]:
        desk.turn(answers=[answer])
    assert [r for _, r in desk.turn(answers=answers[2:3]).rejected] == ["closed_request"]
    [back] = desk.of(desk.turn(answers=answers[3:]), Correction)
    assert (back.old, back.label) == ("b", "a")
    again = desk.turn(answers=[answers[n] for n in (0, 1, 3)])
    assert not again.ledger, "what is read again is recognised by its place"
    assert not again.rejected


def test_a_label_that_is_learned_again_from_its_place_is_corrected_again(desk):
    """Positions of answers were lost, and the id was asked about once more."""
    first = (Place("labels", 0, 0), Answer("s-1", "a"))
    second = (Place("labels", 0, 1), Answer("s-1", "b", request_id="0-1"))
    desk.turn([request(1)])
    desk.turn(answers=[first])
    assert desk.of(desk.turn(answers=[second]), Correction)
    desk.turn([request(7, "s-1", ttl=300_000)], later_ms=100_001)
    [learned] = desk.of(desk.turn(answers=[first]), Learned)
    assert (learned.request_id, learned.learn) == ("0-7", True)
    [corrected] = desk.of(desk.turn(answers=[second]), Correction)
    assert (corrected.old, corrected.label) == ("a", "b")
    assert desk.fold.known("s-1").label == "b"


def test_labels_of_another_type_differ(desk):
    desk.turn([request(1)])
    desk.turn(answers=[Answer("s-1", 1, request_id="0-1")])
    assert desk.of(desk.turn(answers=[Answer("s-1", True, request_id="0-1")]), Correction)


def test_what_was_not_learned_is_not_corrected(desk):
    desk.turn([request(1), request(2)])
    desk.turn(answers=[Answer("s-1", skip=True), Answer("s-2", "a", request_id="0-2")])
    late = [Answer("s-1", "a", request_id="0-1"), Answer("s-2", skip=True, request_id="0-2")]
    step = desk.turn(answers=[*late, Answer("s-9", "b", request_id="0-2")])
    assert [r for _, r in step.rejected] == ["closed_request", "closed_request", "id_mismatch"]


def test_a_rebuild_is_written_once_and_only_for_this_ledger(desk):
    asked = Rebuild("one", "id", 10**6, timestamp(NOW))
    [written] = desk.of(desk.turn(reports=[asked, replace(asked, ledger_id="another")]), Rebuild)
    assert written.from_offset <= written_at(desk), "it begins in the ledger, wherever it was told to"
    desk.fold.rebuilt()
    assert not desk.of(desk.turn(reports=[asked], later_ms=10), Rebuild), "reports are read again"


def written_at(desk):
    return desk.fold.rebuilding.until


def test_a_record_that_is_read_again_is_recognised_by_its_place(desk):
    desk.turn([request(1)])
    place = Place("labels", 0, 7)
    desk.turn(answers=[(place, Answer("s-1", "a", request_id="0-1"))])
    again = desk.turn(answers=[(place, Answer("s-1", "a", request_id="0-1"))])
    assert not again.rejected
    assert not again.ledger


def test_an_answer_that_comes_first_waits_for_its_request(desk):
    desk.turn(answers=[Answer("s-1", "a", request_id="0-1")])
    assert desk.learner.answer_position("labels", 0, 1)[0] == 0, "the position does not pass it"
    step = desk.turn([request(1)], later_ms=1_000)
    assert desk.of(step, Learned)
    assert desk.learner.answer_position("labels", 0, 1) == (1, "")


def test_an_answer_that_names_nothing_is_rejected_after_a_while(desk):
    assert not desk.turn(answers=[Answer("nobody", "a")]).rejected
    assert not desk.turn(later_ms=4_000).rejected
    step = desk.turn(later_ms=2_000)
    assert [r for _, r in step.rejected] == ["unknown_request"]


def test_it_is_not_rejected_before_requests_were_read_past_it(desk):
    desk.turn(answers=[Answer("s-1", "a")])
    step = desk.turn(later_ms=60_000, read=False)
    assert not step.rejected


def test_what_was_taken_after_a_waiting_answer_is_not_taken_again_after_a_restart(desk):
    desk.turn([request(1)])
    answers = [(Place("labels", 0, 0), Answer("nobody", "a")), (Place("labels", 0, 1), Answer("s-1", "a", request_id="0-1")),
               (Place("labels", 0, 2), Answer("s-9", "a", request_id="wrong")), (Place("labels", 0, 3), Answer("s-1", "a", request_id="0-1"))]  # fmt: skip
    desk.turn(answers=answers)
    desk.turn(later_ms=1)
    offset, state = desk.learner.answer_position("labels", 0, 4)
    assert offset == 0
    assert state.isascii()
    desk.restart()
    desk.learner.resume_answers("labels", 0, state)
    step = desk.turn(answers=answers)
    assert not step.rejected, "the closed one was rejected before the restart already"
    assert {p.offset for p in desk.learner.waiting} == {0, 2}


def test_two_restarts_in_a_row_forget_no_waiting_answer(desk):
    flood = [(Place("labels", 0, o), Answer(f"early-{o}", "a")) for o in range(0, 100, 10)]
    desk.turn(answers=flood)
    _, state = desk.learner.answer_position("labels", 0, 100)
    desk.restart()
    desk.learner.resume_answers("labels", 0, state)
    desk.turn(answers=flood[:2])
    offset, state = desk.learner.answer_position("labels", 0, 20)
    assert offset == 0
    desk.restart()
    desk.learner.resume_answers("labels", 0, state)
    desk.turn(answers=flood)
    assert {p.offset for p in desk.learner.waiting} == set(range(0, 100, 10))


def test_what_was_done_before_a_restart_stays_done_when_nothing_waits_any_more(desk):
    desk.turn([request(1)])
    answers = [
        (Place("labels", 0, 0), Answer("nobody", "a")),
        (Place("labels", 0, 1), Answer("s-9", "a", request_id="gone")),
    ]
    desk.turn(answers=answers)
    desk.turn(later_ms=6_000)
    desk.learner.done["labels", 0] = (50, frozenset())
    assert desk.learner.answer_position("labels", 0, 3) == (3, "[50]")


def test_a_flood_of_unknown_answers_keeps_the_state_small(desk):
    flood = [(Place("labels", 0, 10**12 + 37 * i), Answer(f"nobody-{i}", "a")) for i in range(500)]
    step = desk.turn(answers=flood)
    assert len(desk.learner.waiting) == MOST_WAITING
    assert len(step.rejected) == 400
    assert len(desk.learner.answer_position("labels", 0, 10**13)[1]) <= 1_500


def test_id_and_request_id_must_name_the_same_sample(desk):
    desk.turn([request(1), request(2)])
    step = desk.turn(answers=[Answer("s-2", "a", request_id="0-1")])
    assert [r for _, r in step.rejected] == ["id_mismatch"]
    assert len(desk.learner.pending) == 2


def test_a_skip_closes_without_learning(desk):
    desk.turn([request(1)])
    step = desk.turn(answers=[Answer("s-1", skip=True, request_id="0-1")])
    assert desk.of(step, Skipped)
    assert desk.fold.learned == 0


def test_an_id_with_a_known_label_is_not_asked_again(desk):
    desk.turn([request(1, "same")])
    desk.turn(answers=[Answer("same", "a")])
    step = desk.turn([request(5, "same")], later_ms=10)
    [known] = desk.of(step, Learned)
    assert (known.request_id, known.label, known.learn) == ("0-5", "a", False)
    assert step.withdrawn == [("same", "0-5")]


def test_a_known_label_is_known_for_the_life_of_a_request_only(desk):
    desk.turn([request(1, "same")])
    desk.turn(answers=[Answer("same", "a")])
    step = desk.turn([request(5, "same", at=NOW + 200_000)], later_ms=200_000)
    assert not desk.of(step, Learned)
    assert "0-5" in desk.learner.pending


def test_a_label_does_not_stay_young_by_being_used_again(desk):
    desk.turn([request(1, "same")])
    desk.turn(answers=[Answer("same", "a")])
    for k in range(2, 5):
        last = desk.turn([request(k, "same", at=desk.now + 40_000)], later_ms=40_000)
    assert not desk.of(last, Learned)


def test_a_scorers_clock_does_not_move_the_memory_of_closed_requests(desk):
    desk.turn([request(1)])
    desk.turn(answers=[Answer("s-1", "a", request_id="0-1")])
    desk.turn(reports=[tally(0, 60, at=NOW + 30 * 86_400_000)])
    desk.turn([request(70)])
    desk.turn(answers=[Answer("s-70", "a", request_id="0-70")])
    assert "0-1" in desk.fold.closed


def test_requests_older_than_the_memory_are_not_opened_again(desk):
    desk.turn([request(1)])
    desk.turn(answers=[Answer("s-1", "a", request_id="0-1")], later_ms=desk.fold.keep_closed_ms * 2)
    desk.restart()
    desk.learner.remember([request(0)])
    assert not desk.learner.pending


def test_a_bucket_closes_within_a_minute_however_quiet_the_stream(desk):
    desk.turn(reports=[tally(0, 3)])
    assert not desk.of(desk.turn(reports=[tally(3, 5)], later_ms=59_000), Bucket)
    step = desk.turn(later_ms=1_000)
    assert [b.sums.samples for b in desk.of(step, Bucket)] == [5]
    assert not desk.of(desk.turn(later_ms=90_000), Bucket), "an empty one does not"


def test_a_scorers_clock_that_is_behind_closes_no_bucket_early(desk):
    desk.turn(reports=[tally(0, 60)])
    assert not desk.of(desk.turn(reports=[tally(60, 63, at=NOW - 90_000)], later_ms=5_000), Bucket)


def test_nobody_answered(desk):
    desk.turn([request(1)])
    assert not desk.of(desk.turn(later_ms=99_000), Expired)
    assert not desk.of(desk.turn(later_ms=5_000, read=False), Expired), "answers may still be unread"
    step = desk.turn(later_ms=1_000)
    assert [e.reason for e in desk.of(step, Expired)] == ["expired"]
    assert step.withdrawn == [("s-1", "0-1")]
    late = desk.turn(answers=[Answer("s-1", "a", request_id="0-1")])
    assert [r for _, r in late.rejected] == ["closed_request"]


def test_an_answer_that_names_no_open_request_is_told_what_is_known_of_its_id(desk):
    desk.turn([request(n) for n in range(1, 6)])
    desk.turn(answers=[Answer("s-1", skip=True), Answer("s-2", "a"), Answer("s-3", skip=True)])
    late = [
        Answer("s-1", "a"), Answer("s-2", "a", request_id="0-3"), Answer("s-3", "a", request_id="0-3"),
        Answer("s-4", "a", request_id="9-9"), Answer("s-3", "a", request_id="9-9"), Answer("s-9", "a"),
        Answer("s-9", "a", request_id="9-9"),
    ]  # fmt: skip
    first = desk.turn(answers=late)
    assert [r for _, r in first.rejected] == ["id_mismatch", "closed_request"]
    rest = desk.turn(later_ms=6_000)
    assert [r for _, r in rest.rejected] == [
        "closed_request", "id_mismatch", "id_mismatch", "unknown_request", "unknown_request",
    ]  # fmt: skip


def test_ids_without_a_label_are_forgotten_in_time(desk):
    desk.turn([request(1)])
    desk.turn(answers=[Answer("s-1", skip=True)])
    desk.turn([request(2)], later_ms=desk.fold.keep_closed_ms + 1)
    desk.turn(answers=[Answer("s-2", skip=True)])
    assert list(desk.fold.unlabelled) == ["s-2"]


def test_a_withdrawal_closes_one_request_or_all_of_an_id(desk):
    desk.turn([request(1, "same"), request(2, "same"), request(3, "same")])
    first = desk.turn([Withdrawal("same", "0-2")])
    assert [e.request_id for e in desk.of(first, Expired)] == ["0-2"]
    rest = desk.turn([Withdrawal("same", None)])
    assert {e.request_id for e in desk.of(rest, Expired)} == {"0-1", "0-3"}
    assert {e.reason for e in desk.of(rest, Expired)} == {"withdrawn"}
    assert not desk.turn([Withdrawal("same", None)]).ledger


def test_a_redelivered_request_is_ignored(desk):
    desk.turn([request(1), request(1)])
    desk.turn(answers=[Answer("s-1", "a", request_id="0-1")])
    desk.turn([request(1)])
    assert not desk.learner.pending


def test_a_redelivered_tally_is_ignored_and_so_are_its_requests(desk):
    desk.turn([request(10)], [tally(0, 60)])
    desk.turn(later_ms=2_000)
    step = desk.turn([request(20)], [tally(0, 60)], later_ms=10)
    assert not desk.of(step, Bucket)
    assert "0-20" not in desk.learner.pending, "offset 20 was decided before, and not chosen"


def test_tallies_that_are_read_in_another_order_are_counted_once_each(desk):
    """As from a reports topic that grew: the later ones stand in another partition."""
    desk.turn(reports=[tally(90, 120), tally(60, 90)], read=False)
    assert not desk.of(desk.turn(later_ms=60_000, read=False), Bucket), "its place must not be committed"
    step = desk.turn(reports=[tally(0, 60), tally(60, 90), tally(90, 120)], later_ms=10, read=False)
    [bucket] = desk.of(step, Bucket)
    assert (bucket.ranges, bucket.sums.samples) == ({0: (0, 120)}, 120)
    assert desk.learner.dropped["tally_again"] == 2
    assert not desk.learner.early


def test_a_gap_is_taken_as_it_is_when_nothing_can_come_any_more(desk):
    """As of samples that retention deleted."""
    assert not desk.of(desk.turn(reports=[tally(70, 130), tally(140, 150)]), Bucket)
    [bucket] = desk.of(desk.turn(later_ms=1), Bucket)
    assert (bucket.ranges, bucket.sums.samples) == ({0: (70, 150)}, 70)
    desk.turn(reports=[tally(160, 170)])
    [last] = desk.learner.flush().ledger[:1]
    assert last.ranges == {0: (160, 170)}


def test_an_early_tally_is_no_reason_to_wait_for_other_partitions(desk):
    desk.turn(reports=[tally(10, 20, partition=1), tally(0, 60)], read=False)
    assert desk.learner.ends == {0: 60}
    [bucket] = desk.of(desk.turn(reports=[tally(0, 10, partition=1)], later_ms=10, read=False), Bucket)
    assert bucket.ranges == {0: (0, 60), 1: (0, 20)}


def test_the_first_bucket_closes_at_fifty_samples_the_next_ones_in_time(desk):
    assert not desk.of(desk.turn(reports=[tally(0, 49)]), Bucket)
    [first] = desk.of(desk.turn(reports=[tally(49, 60)]), Bucket)
    assert (first.ranges, first.sums.samples) == ({0: (0, 60)}, 60)
    assert not desk.of(desk.turn(reports=[tally(60, 160)]), Bucket)
    [second] = desk.of(desk.turn(reports=[tally(0, 5, partition=1)], later_ms=1_500), Bucket)
    assert second.ranges == {0: (60, 160), 1: (0, 5)}


def test_observes_enter_with_a_bucket_and_the_excess_is_dropped(desk):
    many = [Observe(Source("samples", 0, i), {"x": float(i)}) for i in range(1_500)]
    assert not desk.of(desk.turn(reports=many), Observe)
    step = desk.turn(reports=[tally(0, 60)])
    assert len(desk.of(step, Observe)) == 1_000
    step = desk.turn(reports=[tally(60, 120, at=NOW + 30_000), *many], later_ms=30_000)
    assert len(desk.of(step, Observe)) <= 3, "one in ten seconds from then on"


# --- what nobody asked for -------------------------------------------------------------------------------------


def unasked(name="u", label="a", **more):
    return Answer(name, label, **{"features": {"x": 1.0}, **more})


def test_a_label_that_nobody_asked_for_is_rejected_unless_it_is_wanted(desk):
    desk.turn(answers=[unasked()])
    assert [reason for _, reason in desk.turn(later_ms=6_000).rejected] == ["unknown_request"]
    wanting = Desk(unsolicited=True)
    wanting.turn(
        answers=[
            unasked(),
            unasked("v", features=None),
            unasked("w", request_id="0-9"),
            Answer("z", skip=True),
        ]
    )
    step = wanting.turn(later_ms=6_000)
    assert [r.id for r in wanting.of(step, Unsolicited)] == ["u"]
    assert len(step.rejected) == 3, "without features, for a request that is not known, and a skip"


def test_it_is_learned_and_in_no_estimate():
    desk, asked = Desk(unsolicited=True), Desk(unsolicited=True)
    for each in (desk, asked):
        each.turn([request(k) for k in range(5)], [tally(0, 60)])
    answers = [Answer(f"s-{k}", "ab"[k % 2], request_id=f"0-{k}") for k in range(5)]
    asked.turn(answers=answers)
    desk.turn(
        answers=[*answers, *(unasked(f"u-{k}", "ab"[k % 2], features={"x": float(k)}) for k in range(20))]
    )
    desk.turn(later_ms=6_000)
    assert (desk.fold.learned, asked.fold.learned) == (25, 5)
    assert desk.fold.version > asked.fold.version
    assert desk.fold.outcomes["unsolicited"] == 20
    assert desk.fold.accuracy.window(None) == asked.fold.accuracy.window(None)
    assert desk.fold.accuracy.everything == asked.fold.accuracy.everything
    batch = [{"x": 1.0}]
    for name in ("calibration", "drift"):
        assert pickle.dumps(getattr(desk.fold, name)) == pickle.dumps(getattr(asked.fold, name))
    assert desk.fold.model.predict(batch).tolist() != asked.fold.model.predict(batch).tolist()


def test_it_is_learned_once_whatever_comes_again():
    desk = Desk(unsolicited=True)
    place = Place("labels", 0, 7)
    desk.turn(answers=[(place, unasked()), unasked(), unasked(label="b")])
    desk.turn(later_ms=6_000)
    assert [reason for _, reason in desk.turn().rejected] == ["closed_request"], "the same label once more"
    step = desk.turn(answers=[(place, unasked())], later_ms=6_000)
    assert not step.ledger, "read again"
    assert not step.rejected
    assert desk.fold.learned == 1
    assert list(desk.fold.corrections.values()) == ["b"], "another label for the same sample is a correction"
    step = desk.turn([request(3, name="u")], answers=[Answer("u", "a", request_id="0-3")])
    assert [r.learn for r in desk.of(step, Learned)] == [False], (
        "credited, with the probability it was asked with"
    )
    assert desk.fold.learned == 1


def test_one_sent_again_and_again_waits_no_more_than_the_state_can_hold():
    desk, many = Desk(unsolicited=True), 20 * MOST_WAITING
    step = desk.turn(answers=[unasked() for _ in range(many)])
    assert len(desk.learner.waiting) == MOST_WAITING
    assert len(desk.learner.answer_position("labels", 0, many)[1]) <= 1_500
    assert desk.fold.learned == 1
    assert len(step.rejected) == many - MOST_WAITING - 1
    step = desk.turn(later_ms=6_000)
    assert len(step.rejected) == MOST_WAITING
    assert desk.fold.learned == 1


def test_it_is_forgotten_in_time():
    desk = Desk(unsolicited=True)
    desk.turn(answers=[unasked()])
    desk.turn(later_ms=6_000)
    desk.turn(answers=[unasked("later")], later_ms=desk.fold.keep_closed_ms)
    desk.turn(later_ms=6_000)
    assert set(desk.fold.unsolicited) == {"later"}
    assert len(desk.fold.given) == 1


# --- grants --------------------------------------------------------------------------------------------------


def test_burst_and_advance_are_dealt_evenly_right_after_genesis(desk):
    dealt = desk.of(desk.turn(read=False), Grant)
    assert {(g.grant, g.partition): g.tokens for g in dealt} == {
        ("burst", 0): 10, ("burst", 1): 10, ("advance", 0): 15, ("advance", 1): 15,
    }  # fmt: skip
    assert not desk.of(desk.turn(later_ms=1_000), Grant)


def test_unspent_tokens_return_when_it_is_certain_that_they_were_not_spent(desk):
    grants = {g.number: g for g in desk.of(desk.turn(read=False), Grant)}
    burst = {
        n: Spent(g.tokens, closed=True) for n, g in grants.items() if g.grant == "burst" and g.partition == 0
    }
    desk.turn(reports=[tally(0, 60, grants=burst)])
    for k in range(8):
        step = desk.turn(reports=[tally(60 + k, 61 + k)], later_ms=5_000)
        assert not desk.of(step, Grant), "a transaction may be open"
    dealt = desk.of(desk.turn(reports=[tally(80, 90)], later_ms=5_000), Grant)
    assert {(g.grant, g.partition): g.tokens for g in dealt} == {("burst", 0): 10, ("advance", 0): 30}


def test_a_restart_deals_nothing_twice(desk):
    desk.turn(read=False)
    desk.restart()
    assert not desk.of(desk.turn(reports=[tally(0, 60)], later_ms=6_000), Grant)


def test_a_clock_that_jumps_proves_nothing_about_grants(desk):
    desk.turn(read=False)
    assert not desk.of(desk.turn(reports=[tally(0, 60)], later_ms=45_000), Grant)


def test_a_restart_remembers_what_was_spent_of_an_open_grant(desk):
    grants = {g.number: g for g in desk.of(desk.turn(read=False), Grant)}
    spent = {n: Spent(g.tokens - 1) for n, g in grants.items() if g.grant == "advance" and g.partition == 0}
    desk.turn(reports=[tally(0, 60, grants=spent)], later_ms=10)
    assert desk.fold.buckets == 1
    desk.restart()
    dealt = []
    for k in range(12):
        at = desk.now + 5_000
        dealt += desk.of(
            desk.turn(reports=[tally(60 * k, 60 * k + 60, partition=1, at=at)], later_ms=5_000), Grant
        )
    advance = sum(g.tokens for g in grants.values() if g.grant == "advance" and g.partition == 0) - 1
    again = sum(g.tokens for g in dealt if g.grant == "advance")
    assert advance + again <= 30 * 2, "dealt again only when it lapsed unspent"
    assert desk.learner.dealer.spent["advance"] >= advance


def test_caps_count_requests_and_open_grants_and_never_exceed_the_limit():
    desk = Desk(Budget(fraction=None, per_hour=10))
    first = desk.of(desk.turn(read=False), Grant)
    assert sum(g.tokens for g in first) <= 3
    live, asked, dealt = list(first), [], len(first)
    for k in range(1_500):  # a little over two hours in which every token is spent as soon as possible
        at = NOW + 5_000 * (k + 1)
        spending = {g.number: Spent(g.tokens, closed=True) for g in live if g.partition == 0}
        n = sum(s.spent for s in spending.values())
        requests = [request(60 * k + i, at=at) for i in range(n)]
        asked += [at] * n
        step = desk.turn(requests, [tally(60 * k, 60 * k + 60, at=at, grants=spending)], later_ms=5_000)
        live = desk.of(step, Grant)
        dealt += len(live)
        open_now = desk.learner.dealer.open_tokens("cap")
        assert sum(at - 3_600_000 < t for t in asked) + open_now <= 10 or not live
    most = max(sum(t <= s < t + 3_600_000 for s in asked) for t in asked)
    assert most <= 10
    assert len(asked) >= 14


def test_outstanding_requests_limit_what_is_dealt():
    desk = Desk(Budget(fraction=0.5, max_outstanding=4))
    desk.turn([request(i) for i in range(3)], [tally(0, 60)])
    for _ in range(20):
        desk.turn(
            reports=[tally(desk.learner.ends.get(0, 60), desk.learner.ends.get(0, 60) + 60, at=desk.now)],
            later_ms=5_000,
        )
        assert len(desk.learner.pending) + desk.learner.dealer.open_tokens("cap") <= 4
