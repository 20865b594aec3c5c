"""The bookkeeping between topics and Label Studio."""

import pytest

from stream_al.bridges.studio_table import StudioTable, chosen, news
from stream_al.core.learner import Withdrawal
from stream_al.core.messages import Answer, LabelRequest, Query, Shown, Source, timestamp

NOW = 1_000_000


def request(n, ttl=1_000):
    return LabelRequest(
        f"s-{n}", f"0-{n}", {}, Source("samples", 0, n), Query("margin", "explore", 1, 1, 1, 1, 0, 0.5),
        Shown("default", 0), timestamp(NOW), timestamp(NOW + ttl),
    )  # fmt: skip


def task(number, n=0, annotations=(), **meta):
    return {
        "id": number,
        "annotations": list(annotations),
        "meta": {"id": f"s-{n}", "request_id": f"0-{n}", "requested_at": timestamp(NOW), **meta},
    }


def table(n=1):
    t = StudioTable()
    for i in range(n):
        t.request(request(i), b"{}")
    return t


@pytest.mark.parametrize(
    ("first", "second", "spare"),
    [((), (), 8), ([{"id": 1}], (), 8), ((), [{"id": 1}], 7), ([{"id": 1}], [{"id": 2}], 8)],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_tasks_the_annotated_or_else_the_first_stays(first, second, spare, turned):
    t = table()
    seen = [task(7, annotations=first), task(8, annotations=second)]
    for one in reversed(seen) if turned else seen:
        t.task(one, NOW)
    assert list(t.unneeded()) == [spare]
    assert t.asked["0-0"].task == 15 - spare
    t.deleted(spare)
    assert list(t.unneeded()) == []


@pytest.mark.parametrize("meta", [{"id": "s-1"}, {"requested_at": timestamp(NOW + 1)}, {"request_id": None}])
def test_a_task_of_another_ledger_is_none_of_ours(meta):
    t = table()
    assert t.task(task(7, **meta), NOW) is None
    assert t.batch(10)
    assert not t.spare


def test_a_question_of_long_ago_is_spare_once_it_has_expired():
    t = StudioTable()
    stranger = task(7, 5, schema="stream-al/label-request/1", expires_at=timestamp(NOW))
    assert t.task(stranger, NOW - 1) is None
    assert not t.spare
    t.task(stranger, NOW)
    assert t.spare == {7}
    answered = task(8, 5, [{"id": 1}], schema="stream-al/label-request/1", expires_at=timestamp(NOW))
    t.task(answered, NOW)
    t.task({**task(9), "meta": {"expires_at": timestamp(NOW)}}, NOW)  # somebody else's
    assert t.spare == {7}


def test_a_tombstone_withdraws_one_or_all_of_an_id():
    t = table(2)
    t.request(Withdrawal("s-0", "0-1"), b"")  # of another id
    assert len(t.batch(10)) == 2
    t.request(Withdrawal("s-0", None), b"")
    t.request(Withdrawal("s-1", "0-1"), b"")
    assert t.batch(10) == []


def test_what_has_expired_is_not_imported_and_withdrawn():
    t = table(2)
    t.task(task(7, 0), NOW)
    t.expire(NOW + 1_000)
    assert t.batch(10) == []
    assert list(t.unneeded()) == [7]


def test_batches_are_bounded_and_what_was_refused_goes_alone():
    t = table(5)
    assert [a.request_id for a in t.batch(3)] == ["0-0", "0-1", "0-2"]
    for asked in t.batch(3):
        asked.alone = True
    assert [a.request_id for a in t.batch(3)] == ["0-0"]
    t.refuse(t.batch(3)[0])
    assert [a.request_id for a in t.batch(3)] == ["0-1"]
    t.imported(t.batch(3)[0])
    t.imported(t.batch(3)[0])
    assert [a.request_id for a in t.batch(3)] == ["0-3", "0-4"]


@pytest.mark.parametrize(
    ("label", "by", "at", "closed", "new"),
    [
        ("b", "ann", "2", False, True),
        ("b", "ann", "2", True, True),
        ("a", "ann", "2", False, False),  # saved once more
        ("b", "ann", "0", False, False),  # older than what is known
        ("a", "bob", "0", False, True),
        (None, "ann", "2", False, True),
        (None, "ann", "2", True, False),  # a skip of what is closed
    ],
)
def test_only_news_is_published(label, by, at, closed, new):
    t = table()
    t.answered(Answer("s-0", "a", request_id="0-0", annotator="ann", labeled_at="1"))
    asked = t.asked["0-0"]
    asked.closed = closed
    assert news(asked, Answer("s-0", label, skip=label is None, annotator=by, labeled_at=at)) is new


def test_one_and_true_are_two_answers():
    t = table()
    t.answered(Answer("s-0", 1, request_id="0-0", annotator="ann", labeled_at="1"))
    assert news(t.asked["0-0"], Answer("s-0", True, annotator="ann", labeled_at="2"))


def test_the_answer_of_a_task_is_the_truth_or_the_first():
    skip, a, b = {"id": 1, "was_cancelled": True}, {"id": 2}, {"id": 3}
    assert chosen({"annotations": []}) is None
    assert chosen({"annotations": [skip]}) == skip
    assert chosen({"annotations": [b, skip, a]}) == a
    truth = {**b, "ground_truth": True}
    assert chosen({"annotations": [a, truth]}) == truth
