"""Kills, an absent Label Studio, wrong tokens."""

import contextlib
import signal
import time
import urllib.request
from collections import Counter

import pytest

from stream_al.config import ConfigError, load
from tests.studio.conftest import rows, truth
from tests.studio.server import TOKEN, free_port


def copies(w):
    return Counter(task["meta"]["request_id"] for task in w.studio.tasks(w.title))


def importing(path):
    return "/import" in path


@pytest.mark.parametrize("how", ["lose", "drop"])
def test_a_bridge_killed_between_an_import_and_its_answer_leaves_no_duplicates(world, relay, how):
    w = world(url=relay.url)
    w.feed(rows(6))
    w.until(lambda: len(w.records("labels-requested")) == 6)
    bridge = w.process()

    def strike(method, path):
        if not importing(path) or relay.calls.count((method, path)) > 1:
            return None
        if how == "drop":
            bridge.send_signal(signal.SIGKILL)
        return how

    relay.on = strike
    w.until(lambda: any(importing(path) for _, path in relay.calls))
    if how == "lose":
        w.until(lambda: copies(w))
        bridge.send_signal(signal.SIGKILL)
    assert bridge.wait(10) == -signal.SIGKILL
    w.process()
    w.until(lambda: len(copies(w)) == 6)
    for task in w.tasks().values():
        w.studio.annotate(task, truth(task))
    w.until(lambda: w.service.follower.fold.outcomes["learned"] == 6)
    assert set(copies(w).values()) == {1}
    assert len(w.labels()) == 6
    assert w.letters() == []


def test_an_import_that_arrives_late_is_taken_back(world, relay):
    """The killed bridge's import is still on its way when the next one has imported the same."""
    w = world(url=relay.url)
    relay.on = lambda method, path: "late" if importing(path) and not relay.held else None
    w.feed(rows(3))
    w.connect()
    w.until(lambda: relay.held)
    relay.on = lambda *_: None
    tasks = w.tasks(3)
    w.studio.annotate(tasks["s-0"], "fraud")
    assert relay.release() == [201]
    assert sum(copies(w).values()) == 6
    w.until(lambda: sum(copies(w).values()) == 3)
    w.rounds()
    assert {t["id"] for t in tasks.values()} == {t["id"] for t in w.tasks().values()}
    assert [a.id for a in w.labels()] == ["s-0"]


def test_another_bridge_says_nothing_twice(world, studio):
    w = world()
    w.connect()
    w.feed(rows(3))
    tasks = w.tasks(3)
    changed = studio.annotate(tasks["s-0"], "ok")
    studio.annotate(tasks["s-1"], skip=True)
    w.until(lambda: len(w.labels()) == 2)
    studio.change(changed, "fraud")
    w.until(lambda: w.ledger("correction"))
    w.connect()
    w.rounds()
    assert [(a.id, a.label) for a in w.labels()] == [("s-0", "ok"), ("s-1", None), ("s-0", "fraud")]
    assert len(w.tasks()) == 3
    assert w.letters() == []


def answers(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()
    return ""


def test_of_two_bridges_one_works_and_the_other_takes_over(world):
    port = free_port()
    w = world(**{"label_studio.port": port})
    task = w.connect()
    w.feed(rows(2))
    w.tasks(2)
    w.process()
    w.until(lambda: answers(f"http://127.0.0.1:{port}/readyz"))  # it stands by
    assert task.table is not None
    assert "stream_al_build_info" in answers(f"http://127.0.0.1:{port}/metrics")
    w.bridge.close()
    w.bridge = None
    w.feed(rows(2, first=2))
    w.until(lambda: len(copies(w)) == 4)
    assert set(copies(w).values()) == {1}


def test_people_go_on_when_label_studio_was_away(world, studio):
    w = world()
    task = w.connect()
    w.feed(rows(2))
    tasks = w.tasks(2)
    studio.annotate(tasks["s-0"], "fraud")
    studio.stop()
    try:
        w.until(lambda: task.away)
        assert "cannot be reached (Connection refused)" in task.why_not
        assert not w.bridge.ready
        w.feed(rows(2, first=2))
        w.until(lambda: len(w.records("labels-requested")) == 4)
        w.until(lambda: task.wait_ms >= 2_000)  # it asks less and less often
    finally:
        studio.start()
    w.until(lambda: not task.away)
    assert w.bridge.ready
    assert len(w.tasks(4)) == 4
    assert set(copies(w).values()) == {1}
    w.until(lambda: [a.label for a in w.labels()] == ["fraud"])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(world, relay, status):
    w = world(url=relay.url)
    w.feed(rows(2))
    relay.on = lambda method, path: status if len(relay.calls) in (1, 6) else None
    w.connect()
    w.until(lambda: len(copies(w)) == 2)
    assert set(copies(w).values()) == {1}


def test_an_import_that_fails_in_the_middle_is_tried_one_by_one(world, relay):
    w = world(url=relay.url)
    relay.on = lambda method, path: (
        500 if importing(path) and len(relay.held) < 1 and not relay.held.append(0) else None
    )
    w.feed(rows(3))
    w.connect()
    w.tasks(3)
    assert sum(importing(path) for _, path in relay.calls) == 4


def test_a_project_that_is_deleted_is_made_again(world, studio):
    w = world()
    w.connect()
    w.feed(rows(2))
    w.tasks(2)
    studio.call("DELETE", f"/api/projects/{studio.project(w.title)['id']}")
    assert len(w.tasks(2)) == 2


def test_tasks_of_another_ledger_are_not_answers_to_this_one(world, studio):
    """Request ids begin anew with a new log."""
    old = world()
    old.connect()
    old.feed(rows(2))
    tasks = old.tasks(2)
    old.bridge.close()
    old.bridge = None
    for task in tasks.values():
        studio.annotate(task, "fraud")
    new = world(**{"label_studio.project": old.title})
    new.title = old.title
    new.feed(rows(2))
    new.connect()
    new.until(lambda: len(studio.tasks(new.title)) == 4)
    new.rounds()
    assert new.labels() == []


def test_a_personal_access_token_works_and_is_renewed(world, studio):
    w = world()
    w.environment = {"STREAM_AL_LABEL_STUDIO__TOKEN": studio.call("POST", "/api/token/", {})["token"]}
    w.settings = load(None, w.arguments, environ=w.environment)
    task = w.connect()
    w.feed(rows(1))
    w.tasks(1)
    assert task.client._access
    task.client._access = task.client._access[:-4] + "AAAA"  # as one that has lapsed
    w.feed(rows(1, first=1))
    w.tasks(2)


def ended(process):
    text, _ = process.communicate(timeout=30)
    return process.returncode, text


def test_a_wrong_token_ends_it_with_a_clear_message(world):
    w = world()
    wrong = "f" * 40
    w.environment = {"STREAM_AL_LABEL_STUDIO__TOKEN": wrong}
    w.until(lambda: w.ledger("genesis"))
    code, text = ended(w.process())
    assert code == 78
    assert (
        f"error: environment STREAM_AL_LABEL_STUDIO__TOKEN label_studio.token: {w.studio.url} does not accept the"
        " token (Invalid token.)" in text
    )
    assert wrong not in text
    assert TOKEN not in text


def test_a_token_may_stand_in_a_file(world, tmp_path):
    w = world()
    (tmp_path / "token").write_text("f" * 40 + "\n")
    w.environment = {"STREAM_AL_LABEL_STUDIO__TOKEN_FILE": str(tmp_path / "token")}
    w.until(lambda: w.ledger("genesis"))
    code, text = ended(w.process())
    assert code == 78
    assert "label_studio.token_file: " in text
    (tmp_path / "token").write_text(TOKEN + "\n")
    process = w.process()
    w.feed(rows(1))
    w.tasks(1)
    process.send_signal(signal.SIGTERM)
    code, text = ended(process)
    assert code == 0, text
    assert TOKEN not in text


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        ({"label_studio.project": 999_999}, None, "label_studio.project: there is no project 999999 at "),
        ({}, 404, "is no Label Studio: it has no /api/version"),
        ({}, 301, "sends elsewhere, to http://elsewhere.example; write that address"),
    ],
)
def test_what_no_waiting_mends_ends_it(world, relay, overrides, status, message):
    w = world(url=relay.url, **overrides)
    relay.on = lambda *_: status
    w.connect()
    with pytest.raises(ConfigError, match=message):
        w.until(lambda: False, 5)


def test_a_project_without_a_place_for_answers_is_refused(world, studio):
    config = '<View><Text name="text" value="$text"/><Choices name="kind" toName="text"><Choice value="ok"/></Choices></View>'
    studio.call("POST", "/api/projects", {"title": "something else", "label_config": config})
    w = world(**{"label_studio.project": "something else"})
    w.connect()
    with pytest.raises(ConfigError, match='it has no <Choices name="label"'):
        w.until(lambda: False, 5)


def test_a_stop_is_quick(world):
    w = world()
    process = w.process()
    w.feed(rows(1))
    w.tasks(1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert time.monotonic() - began < 5
