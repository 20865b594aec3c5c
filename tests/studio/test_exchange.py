"""From samples over a real Label Studio back to a model that has learned."""

import json

import pytest

from stream_al.codec import decode_request
from stream_al.transport.port import Output
from tests.studio.conftest import rows, truth
from tests.studio.server import ANN


def test_samples_become_tasks_and_annotations_labels_that_are_learned(world, studio):
    w = world()
    w.connect()
    w.feed(rows(20))
    tasks = w.tasks(20)
    assert {t["meta"]["request_id"] for t in tasks.values()} == {f"0-{i}" for i in range(20)}
    for task in tasks.values():
        studio.annotate(task, truth(task))
    w.until(lambda: w.service.follower.fold.outcomes["learned"] == 20)
    labels = {answer.id: answer for answer in w.labels()}
    assert {name: a.label for name, a in labels.items()} == {name: truth(t) for name, t in tasks.items()}
    assert {(a.annotator, a.request_id == tasks[a.id]["meta"]["request_id"]) for a in labels.values()} == {
        (ANN, True)
    }
    # what it learned shows in the guesses of the next questions
    w.feed(rows(10, first=100))
    later = [t for name, t in w.tasks(30).items() if name not in tasks]
    assert len(later) == 10
    guesses = [t["predictions"][0]["result"][0]["value"]["choices"] for t in later]
    assert guesses == [[truth(t)] for t in later]
    assert len(w.labels()) == 20
    assert w.letters() == []


def test_the_page_offers_the_known_classes_and_those_that_come(world, studio):
    w = world(**{"model.classes": None})
    w.connect()
    w.feed(rows(4))
    tasks = w.tasks(4)
    assert "Choices" not in studio.project(w.title)["label_config"]
    studio.annotate(tasks["s-0"], typed=" fraud ")
    w.until(lambda: "fraud" in studio.project(w.title)["label_config"])
    studio.annotate(tasks["s-1"], choice="fraud")
    studio.annotate(tasks["s-2"], choice="fraud", typed="1")  # typed, after the guess was filled in
    studio.annotate(tasks["s-3"], typed='"1"')
    w.until(lambda: w.service.follower.fold.outcomes["learned"] == 4)
    assert {a.id: a.label for a in w.labels()} == {"s-0": "fraud", "s-1": "fraud", "s-2": 1, "s-3": "1"}
    parsed = w.until(lambda: studio.project(w.title)["parsed_label_config"])
    w.until(lambda: len(studio.project(w.title)["parsed_label_config"]["label"]["labels"]) == 3)
    parsed = studio.project(w.title)["parsed_label_config"]
    assert parsed["label"]["labels"] == ["fraud", "1", '"1"']


def test_what_people_made_of_the_page_stays_when_a_class_is_added(world, studio):
    config = (
        '<View><Header value="Ours"/><Text name="text" value="$text"/>'
        '<Choices name="label" toName="text"><Choice value="ok" hotkey="o"/></Choices>'
        '<TextArea name="why" toName="text"/></View>'
    )
    made = studio.call("POST", "/api/projects", {"title": "made by hand", "label_config": config})
    w = world(**{"label_studio.project": made["id"], "samples.text": "country"})
    w.title = "made by hand"
    w.connect()
    w.feed(rows(1))
    tasks = w.tasks(1)
    now = studio.project(w.title)["label_config"]
    assert 'hotkey="o"' in now
    assert 'value="Ours"' in now
    assert studio.project(w.title)["parsed_label_config"]["label"]["labels"] == ["ok", "fraud"]
    studio.annotate(tasks["s-0"], "fraud")
    w.until(lambda: w.labels())
    assert w.labels()[0].label == "fraud"


def test_a_number_is_asked_for_in_regression(world, studio):
    w = world(**{"model.task": "regression", "model.classes": None})
    w.connect()
    w.feed(rows(2))
    tasks = w.tasks(2)
    for value, task in zip((1.5, 0), tasks.values(), strict=True):
        studio.annotate(task, number=value)
    w.until(lambda: w.service.follower.fold.outcomes["learned"] == 2)
    assert sorted(a.label for a in w.labels()) == [0, 1.5]


def test_a_skip_closes_the_question(world, studio):
    w = world()
    w.connect()
    w.feed(rows(2))
    task = w.tasks(2)["s-1"]
    studio.annotate(task, skip=True)
    w.until(lambda: w.ledger("skip"))
    w.rounds()
    assert [(a.id, a.skip, a.label) for a in w.labels()] == [("s-1", True, None)]
    assert len(w.tasks(2)) == 2  # what people did stays
    assert (
        studio.call("GET", f"/api/projects/{studio.project(w.title)['id']}")["skip_queue"] == "IGNORE_SKIPPED"
    )


def test_a_changed_annotation_is_a_correction(world, studio):
    w = world()
    w.connect()
    w.feed(rows(2))
    tasks = w.tasks(2)
    first = studio.annotate(tasks["s-0"], "fraud")
    w.until(lambda: w.ledger("label"))
    studio.change(first, "fraud")  # saved once more: nothing new
    w.rounds()
    studio.change(first, "ok")
    (correction,) = w.until(lambda: w.ledger("correction"))
    w.rounds()
    assert (correction.old, correction.label, correction.annotator) == ("fraud", "ok", ANN)
    assert [a.label for a in w.labels()] == ["fraud", "ok"]
    assert w.letters() == []


def test_of_several_annotations_the_first_counts_until_one_is_made_the_truth(world, studio):
    w = world()
    w.connect()
    w.feed(rows(1))
    task = w.tasks(1)["s-0"]
    studio.annotate(task, "fraud")
    w.until(lambda: w.ledger("label"))
    second = studio.annotate(task, "ok")
    w.rounds()
    assert [a.label for a in w.labels()] == ["fraud"]
    studio.call("PATCH", f"/api/annotations/{second['id']}", {"ground_truth": True})
    w.until(lambda: w.ledger("correction"))
    assert [a.label for a in w.labels()] == ["fraud", "ok"]


def test_questions_that_nobody_needs_answered_disappear(world, studio):
    w = world(**{"labels.ttl_s": 8})
    w.connect()
    w.feed(rows(4))
    tasks = w.tasks(4)
    studio.annotate(tasks["s-0"], "fraud")
    w.broker.append(  # somebody answered elsewhere, and the owner withdrew one
        [
            Output("labels", json.dumps({"id": "s-1", "label": "ok", "request_id": "0-1"}).encode()),
            Output("labels-requested", None, key=b"s-2"),
        ]
    )
    w.until(lambda: not {"s-1", "s-2"} & set(w.tasks()))
    w.until(lambda: set(w.tasks()) == {"s-0"})
    w.until(lambda: {r.id: r.reason for r in w.ledger("expire")} == {"s-2": "withdrawn", "s-3": "expired"})
    tombstones = [decode_request(r) for r in w.records("labels-requested") if r.value is None]
    assert [t.id for t in tombstones] == ["s-2", "s-3"]


def test_one_bad_task_does_not_keep_the_others_away(world, studio):
    config = '<View><Text name="text" value="$text"/><Choices name="label" toName="text"><Choice value="ok"/></Choices></View>'
    studio.call("POST", "/api/projects", {"title": "needs a text", "label_config": config})
    w = world(**{"label_studio.project": "needs a text", "samples.text": "country"})
    w.title = "needs a text"
    w.feed(rows(5))
    w.until(lambda: len(w.records("labels-requested")) == 5)
    good = json.loads(w.records("labels-requested")[0].value)
    bad = json.loads(json.dumps(good).replace('"0-0"', '"0-77"').replace('"s-0"', '"s-77"'))
    bad["meta"]["source"]["offset"] = 77
    del bad["data"]["text"]  # as it was before somebody set samples.text
    w.broker.append([Output("labels-requested", json.dumps(bad).encode(), key=b"s-77", partition=0)])
    w.feed(rows(3, first=10))
    w.until(lambda: len(w.records("labels-requested")) == 9)
    task = w.connect()
    assert set(w.tasks(8)) == {*rows(5), *rows(3, first=10)}
    w.rounds()
    assert [a.request_id for a in task.table.asked.values() if a.refused] == ["0-77"]
    w.feed(rows(1, first=20))
    assert "s-20" in w.tasks(9)


@pytest.mark.parametrize(("guess", "blind"), [(True, 0), (False, 0), (True, 1)])
def test_the_guess_is_shown_or_not(world, studio, guess, blind):
    w = world(**{"label_studio.guess": guess, "desk.blind": blind})
    w.connect()
    w.feed(rows(1))
    task = w.tasks(1)["s-0"]
    studio.annotate(task, truth(task))
    w.until(lambda: w.ledger("label"))
    w.feed(rows(1, first=1))
    shown, task = guess and not blind, w.tasks(2)["s-1"]
    assert len(task["predictions"]) == int(shown)
    assert ("model" in task["meta"]) == shown
