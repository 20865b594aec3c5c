"""The desk's API over the real service: what people send, what becomes of it, and who may."""

from __future__ import annotations

import re
import sqlite3

import pytest
from starlette.testclient import TestClient

from stream_al.transport.port import Unavailable
from stream_al.web.access import Access, Denied
from stream_al.web.app import create_app, secured
from stream_al.web.board import Board
from tests.web.desk_bench import TOKENS, Bench


@pytest.fixture
def made():
    """Build benches that are closed at the end."""
    benches = []

    def make(*arguments, **options):
        benches.append(Bench(*arguments, **options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(made):
    bench = made()
    bench.ask(5)
    return bench


class Person:
    def __init__(self, bench, name, **headers):
        token = {"authorization": f"Bearer {TOKENS[name]}"} if name in TOKENS else {}
        self.client = TestClient(
            create_app(Board(), bench.room), base_url="http://127.0.0.1", headers={**token, **headers}
        )

    def get(self, path, status=200):
        return self._checked(self.client.get(path), status)

    def post(self, path, body=None, status=200):
        return self._checked(self.client.post(path, json={} if body is None else body), status)

    def _checked(self, answer, status):
        assert answer.status_code == status, answer.text
        return answer.json()

    def lease(self, count=1):
        return [q["request_id"] for q in self.post("/requests/lease", {"count": count})["questions"]]

    def label(self, request_id, label, status=200, **more):
        return self.post("/labels", {"request_id": request_id, "label": label, **more}, status)


# --- answers -----------------------------------------------------------------------------------------------------


def test_an_answer_is_learned_after_its_grace(bench):
    ann = Person(bench, "ann")
    (first,) = ann.lease()
    taken = ann.label(first, "fraud", seconds=1.5)
    assert (taken["state"], taken["recent"][0]["label"]) == ("answered", {"label": "fraud", "key": "fraud"})
    bench.wait(8)
    assert bench.answers() == []
    bench.wait(4)
    (answer,) = bench.answers()
    assert (answer.label, answer.annotator, answer.desk.seconds) == ("fraud", "ann", 1.5)
    assert bench.service.follower.fold.outcomes["learned"] == 1
    assert ann.lease() != [first]


def test_an_answer_taken_back_is_never_published(bench):
    ann = Person(bench, "ann")
    (first,) = ann.lease()
    ann.label(first, "fraud")
    assert ann.post(f"/requests/{first}/undo")["question"]["request_id"] == first
    bench.wait(30)
    assert bench.answers() == []
    ann.label(first, "ok")
    bench.wait(12)
    assert [a.label for a in bench.answers()] == ["ok"]
    ann.post(f"/requests/{first}/undo", status=409)


def test_the_same_answer_again_is_accepted_however_late(bench):
    ann = Person(bench, "ann")
    (first,) = ann.lease()
    ann.label(first, "fraud")
    assert ann.label(first, "fraud")["state"] == "answered"
    bench.wait(15)
    assert ann.label(first, "fraud")["state"] == "published"
    assert ann.label(first, "ok", status=409)["reason"] == "published"
    bench.wait(15)
    assert len(bench.answers()) == 1


def test_two_people_get_different_questions_and_the_slower_one_is_told(bench):
    ann, bob = Person(bench, "ann"), Person(bench, "bob")
    (hers,), (his,) = ann.lease(), bob.lease()
    assert hers != his
    bob.label(hers, "ok")
    assert ann.label(hers, "fraud", status=409)["reason"] == "answered"


def test_skip_and_flag(bench):
    ann, own = Person(bench, "ann"), Person(bench, "own")
    first, second = ann.lease(2)
    ann.post(f"/requests/{first}/skip")
    ann.post(f"/requests/{second}/flag")
    bench.wait(12)
    assert [a.skip for a in bench.answers()] == [True]
    assert bench.service.follower.fold.outcomes["skipped"] == 1
    (flag,) = own.get("/figures")["flagged"]
    assert (flag["request_id"], flag["by"]) == (second, "ann")
    own.post(f"/requests/{second}/release")
    assert second in Person(bench, "bob").lease(5)


def test_only_who_put_a_question_aside_takes_that_back(made, tmp_path):
    bench = made(tmp_path)
    bench.ask(1)
    ann, bob = Person(bench, "ann"), Person(bench, "bob")
    (first,) = ann.lease()
    ann.post(f"/requests/{first}/flag")
    assert bob.post(f"/requests/{first}/undo")["question"] is None
    assert bench.room.store.flagged(bench.room.ledger_id) == [(first, "ann")]
    assert ann.post(f"/requests/{first}/undo")["question"]["request_id"] == first
    assert bench.room.store.flagged(bench.room.ledger_id) == []


def test_looking_at_the_queue_takes_nothing(bench):
    ann = Person(bench, "ann")
    before = ann.get("/requests?limit=2")
    assert (before["open"], len(before["requests"]), before["requests"][0]["state"]) == (5, 2, "waiting")
    assert ann.get("/requests?limit=2") == before


def test_samples_are_durable_when_they_are_accepted(bench):
    import threading

    own, stop = Person(bench, "own"), threading.Event()
    loop = threading.Thread(target=lambda: [bench.turn(1) for _ in iter(stop.is_set, True)])
    loop.start()
    try:
        assert own.post("/samples", {"samples": [{"id": "new", "features": {"x": 1.0}}]}, 201) == {
            "accepted": 1
        }
    finally:
        stop.set()
        loop.join()
    assert b'"new"' in bench.topic("samples")[-1].value
    assert "samples.0" in own.post("/samples", {"samples": [{"features": {"x": {}}}]}, 409)["detail"]


def test_two_people_do_not_agree_and_the_owner_decides(made, tmp_path):
    bench = made(tmp_path, "labels.votes=2", "labels.agreement=dawid_skene")
    bench.ask(2)
    ann, bob, own = (Person(bench, name) for name in ("ann", "bob", "own"))
    first, second = ann.lease(2)
    assert bob.lease(2) == [first, second]
    for n, request_id in enumerate((first, second)):
        ann.label(request_id, "fraud")
        bob.label(request_id, ["fraud", "ok"][n])
    bench.wait(12)
    fold = bench.service.follower.fold
    assert (fold.outcomes["voted"], fold.outcomes["learned"]) == (4, 1)
    found = own.get("/figures")
    (dispute,) = found["disputes"]
    assert (dispute["request_id"], found["disputed"], found["agreement"]["pairs"]) == (second, 1, 2)
    assert {v["name"]: v["label"]["key"] for v in dispute["votes"]} == {"ann": "fraud", "bob": "ok"}
    ann.label(second, "ok", 403, decides=True)
    own.label(second, "ok", decides=True)
    bench.kill()
    bench.open()
    bench.wait(12)
    fold = bench.service.follower.fold
    assert (fold.outcomes["learned"], all(b.closed for b in fold.panel.ballots.values())) == (2, True)
    assert fold.panel.reliability()["bob"] > fold.panel.reliability()["ann"]
    assert [a.label for a in bench.answers() if a.desk.decides] == ["ok"]


# --- blind, classes, regression ----------------------------------------------------------------------------------


def test_a_blind_question_carries_no_prediction(made):
    bench = made(None, "desk.blind=1")
    bench.ask(12)
    for n, q in enumerate(bench.room.machine.questions):
        Person(bench, "ann").label(q, ["fraud", "ok"][n % 2])
    bench.wait(12)
    bench.ask(3)
    work = Person(bench, "bob").post("/requests/lease", {"count": 3})
    assert [(q["guess"], q["confidence"], q["blind"]) for q in work["questions"]] == [(None, None, True)] * 3
    assert bench.answers()[0].desk.blind


def test_a_class_of_an_annotator_is_published_when_the_owner_accepts_it(made):
    bench = made(None, "model.classes=null")
    bench.ask(3)
    ann, own = Person(bench, "ann"), Person(bench, "own")
    (first,) = ann.lease()
    assert ann.label(first, "theft", status=409)["reason"] == "no_class"
    assert ann.label(first, "theft", new_class=True)["state"] == "held"
    bench.wait(30)
    assert bench.answers() == []
    (proposed,) = own.get("/figures")["proposed"]
    assert (proposed["label"]["key"], proposed["answers"], proposed["annotators"]) == ("theft", 1, ["ann"])
    assert own.post("/classes", {"label": "theft", "as_label": "theft"}) == {"answers": 1}
    bench.wait(12)
    assert [a.label for a in bench.answers()] == ["theft"]
    assert bench.service.follower.fold.classes == ("theft",)
    assert [c["key"] for c in ann.get("/me")["classes"]] == ["theft"]


def test_in_regression_a_number_is_asked_for(made):
    bench = made(None, "model.task=regression")
    bench.ask(2)
    ann = Person(bench, "ann")
    (first,) = ann.lease()
    assert ann.label(first, "high", status=409)["reason"] == "no_class"
    ann.label(first, 2.5)
    bench.wait(12)
    assert [a.label for a in bench.answers()] == [2.5]


# --- crashes -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("the process is killed", "between accepting an answer and publishing it")
def test_an_accepted_answer_survives_a_crash(made, tmp_path):
    bench = made(tmp_path)
    bench.ask(2)
    ann = Person(bench, "ann")
    first, second = ann.lease(2)
    ann.label(first, "ok")
    ann.post(f"/requests/{second}/flag")
    bench.kill()
    bench.open()
    assert Person(bench, "ann").get("/figures", 403)
    assert Person(bench, "own").get("/figures")["flagged"][0]["request_id"] == second
    bench.wait(12)
    assert [a.label for a in bench.answers()] == ["ok"]


@pytest.mark.fault("the process is killed", "between publishing an answer and noting that it is published")
def test_an_answer_is_published_once_whenever_the_process_ends(made, tmp_path):
    bench = made(tmp_path)
    bench.ask(2)
    (first,) = Person(bench, "ann").lease()
    Person(bench, "ann").label(first, "ok")
    bench.room.store.forget = lambda *_: None
    bench.wait(12)
    assert len(bench.answers()) == 1
    bench.kill()
    with sqlite3.connect(tmp_path / "desk.db") as db:
        assert db.execute("SELECT COUNT(*) FROM given").fetchone() == (1,)
    bench.open()
    bench.wait(15)
    assert len(bench.answers()) == 1
    assert bench.room.store.kept(bench.room.ledger_id) == []


@pytest.mark.fault("the state directory is deleted", "while answers are published")
def test_without_its_file_the_desk_comes_back_with_all_figures(made, tmp_path):
    bench = made(tmp_path)
    bench.ask(3)
    ann = Person(bench, "ann")
    for request_id in ann.lease(2):
        ann.label(request_id, "ok", seconds=2.0)
    bench.wait(12)
    before = Person(bench, "own").get("/figures")
    bench.kill()
    (tmp_path / "desk.db").unlink()
    bench.open()
    bench.wait(2)
    after = Person(bench, "own").get("/figures")
    kept = ("queue", "annotators", "anchoring", "labels", "classes", "answers_last_hour")
    without_age = {name: before[name] for name in kept}
    without_age["queue"]["oldest_s"] = after["queue"]["oldest_s"]
    assert {name: after[name] for name in kept} == without_age


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.fault("the broker goes away", "while an answer is published; it is read back or written again")
def test_an_answer_whose_writing_failed_is_published_once(made, tmp_path, written):
    bench = made(tmp_path)
    bench.ask(1)
    (first,) = Person(bench, "ann").lease()
    Person(bench, "ann").label(first, "ok")
    real = bench.broker.append
    bench.broker.append = lambda outputs: (real(outputs) if written else None, away())
    with pytest.raises(Unavailable):
        bench.wait(12)
    bench.broker.append = real
    bench.wait(15)
    assert [a.label for a in bench.answers()] == ["ok"]


def away():
    raise Unavailable("the broker is away")


def test_what_the_disk_refuses_is_not_accepted(made, tmp_path):
    bench = made(tmp_path)
    bench.ask(1)
    ann = Person(bench, "ann")
    (first,) = ann.lease()
    bench.room.store.db.execute("DROP TABLE given")
    assert ann.label(first, "ok", status=503)["reason"] == "unavailable"
    bench.wait(15)
    assert bench.answers() == []


def test_two_processes_do_not_share_the_file(made, tmp_path):
    first, second = made(tmp_path), made(tmp_path)
    assert (first.room.store.durable, second.room.store.durable) == (True, False)


def test_without_a_file_a_clean_end_publishes_what_was_accepted(made):
    bench = made()
    bench.ask(1)
    (first,) = Person(bench, "ann").lease()
    Person(bench, "ann").label(first, "ok")
    bench.service.desk.drain()
    assert [a.label for a in bench.answers()] == ["ok"]


def test_the_second_answer_is_compared_and_not_learned(made):
    bench = made(None, "desk.second_opinion=1")
    bench.ask(1)
    for name, label in (("ann", "ok"), ("bob", "fraud")):
        (first,) = Person(bench, name).lease()
        Person(bench, name).label(first, label)
        bench.wait(12)
    assert [a.desk.opinion for a in bench.answers()] == [False, True]
    fold = bench.service.follower.fold
    assert (fold.outcomes["learned"], len(fold.corrections), bench.topic("dead-letters")) == (1, 0, [])
    assert Person(bench, "own").get("/figures")["agreement"] == {"pairs": 1, "agreed": 0, "kappa": None}


# --- who may -----------------------------------------------------------------------------------------------------

OWNERS = [("get", "/figures"), ("post", "/samples"), ("post", "/classes"), ("post", "/requests/0-1/release")]


@pytest.mark.parametrize(
    ("verb", "path"), [*OWNERS, ("get", "/me"), ("get", "/requests"), ("post", "/labels")]
)
def test_nobody_gets_in_without_a_token(bench, verb, path):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKENS['own']}"}):
        answer = getattr(Person(bench, "", **headers).client, verb)(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(("verb", "path"), OWNERS)
def test_an_annotator_is_no_owner(bench, verb, path):
    bodies = {"/samples": {"samples": [{"x": 1}]}, "/classes": {"label": "a", "as_label": "a"}}
    options = {"json": bodies.get(path, {})} if verb == "post" else {}
    assert getattr(Person(bench, "ann").client, verb)(path, **options).status_code == 403
    assert Person(bench, "ann").post("/requests/lease", {"request_id": "0-1"}, 403)


def access(*overrides, people=False):
    return Access(_settings(overrides, people=people))


def _settings(overrides, *, people):
    from stream_al.config import load

    return load(
        None, list(overrides), environ={"STREAM_AL_DESK__PEOPLE__ANN__TOKEN": "t" * 16} if people else {}
    )


@pytest.mark.parametrize(
    ("overrides", "headers", "why"),
    [
        (["http.host=0.0.0.0"], {"host": "127.0.0.1"}, "name those"),
        ([], {"host": "evil.example:9108"}, "for http://127.0.0.1"),
        ([], {"host": "127.0.0.1", "origin": "http://evil.example"}, "another site"),
        ([], {"host": "127.0.0.1", "sec-fetch-site": "cross-site"}, "another site"),
        ([], {}, "for http://127.0.0.1"),
    ],
)
def test_without_people_the_page_is_for_this_machine(overrides, headers, why):
    found = access(*overrides).who("POST", headers)
    assert isinstance(found, Denied)
    assert why in found.why


def test_without_people_everybody_at_this_machine_is_the_owner():
    found = access().who(
        "POST", {"host": "localhost:9108", "origin": "http://localhost:9108", "x-annotator": "zoe"}
    )
    assert (found.name, found.role) == ("zoe", "owner")
    assert access().who("GET", {"host": "[::1]:1", "x-annotator": "<script>"}).name == "annotator"


def test_with_people_any_host_will_do_but_no_other_site():
    headers = {"host": "label.example", "authorization": "Bearer " + "t" * 16}
    assert access("http.host=0.0.0.0", people=True).who("POST", headers).name == "ann"
    assert isinstance(access(people=True).who("POST", {**headers, "origin": "https://evil.example"}), Denied)


def test_tokens_are_masked_and_short_ones_refused():
    from stream_al.config import ConfigError, load, show

    assert "t" * 16 not in str(show(_settings((), people=True)))
    with pytest.raises(ConfigError) as error:
        load(None, environ={"STREAM_AL_DESK__PEOPLE__ANN__TOKEN": "hunter2"})
    assert "hunter2" not in str(error.value)


def test_the_desk_is_closed_until_it_has_read_the_topics(bench):
    bench.room.why_not = "reading"
    assert Person(bench, "ann").get("/me", 503)["detail"].endswith("reading")


# --- pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["label", "desk"])
def test_a_page_loads_nothing_and_runs_only_its_own_script(bench, page):
    client = TestClient(secured(create_app(Board(), bench.room)), base_url="http://127.0.0.1")
    answer = client.get(f"/{page}")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "script-src 'sha256-" in policy
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(""", answer.text)
    assert "http" not in policy


def test_images_may_be_loaded_only_where_a_feature_is_one(made):
    bench = made(None, "samples.image=picture")
    answer = TestClient(create_app(Board(), bench.room)).get("/label")
    assert "img-src data: http: https:" in answer.headers["content-security-policy"]
