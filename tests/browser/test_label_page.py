"""The label page in a real browser, over the real service."""

from __future__ import annotations

import json
import os
import threading
import time
from statistics import quantiles

import pytest

from tests.browser.conftest import TOKENS, rows, shoot, until

PICTURE = (
    "data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg' width='640' height='300'>"
    "<rect width='640' height='300' fill='%23cfd8d3'/><circle cx='320' cy='150' r='90' fill='%231f5a5e'/></svg>"
)
COMMENT = (
    "Charged twice for one order, then a refund that never came. The shop answers within minutes, but only with the"
    " same three sentences."
)
PEOPLE = {
    name: {"token": token, "role": "owner" if name == "own" else "annotator"}
    for name, token in TOKENS.items()
}


def current(page):
    return page.get_attribute("article", "data-request")


def press(page, key):
    """Press a key and return when another question is there, or none."""
    before = current(page)
    page.keyboard.press(key)
    page.wait_for_function(
        "id => document.querySelector('article')?.dataset.request !== id", arg=before, polling=10
    )
    return before


def truth(page):
    """The key of the right class, the sign of x; waits for a question."""
    page.wait_for_function("() => questions.length > 0", polling=10)
    return page.evaluate(
        "classes.findIndex(c => c.key === (questions[0].features.x > 0 ? 'ok' : 'fraud')) + 1"
    )


def answers_of(service, name):
    return [a for a in service.answers() if a.annotator == name]


def axe(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["help"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found]


# --- answering ---------------------------------------------------------------------------------------------------


class Feed(threading.Thread):
    """Feeds as fast as the service scores, so that it is never idle."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service, self.ending, self.sent = service, threading.Event(), 0

    def run(self):
        lines = [json.dumps(row).encode() for row in rows(2_000, first=10_000)]
        from stream_al.transport.port import Output

        with self.service.broker() as broker:
            while not self.ending.is_set():
                broker.append([Output("samples", line) for line in lines])
                self.sent += len(lines)
                self.ending.wait(0.1)


ROUNDS, MOST_MS = 3, 50
THINKING_MS = 150  # nobody is faster; a browser without a pause keeps a processor busy by itself


def crowded():
    """By how much the machine is busier than it has processors for; at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_fifty_labels_by_keyboard_alone_while_the_service_scores(run, visit):
    """Times on a shared machine err to one side only, so the best of three rounds counts."""
    service = run({"desk.blind": 0.5, "budget.fraction": 0.03})
    service.feed(rows(6_000))
    page = visit(service)
    page.wait_for_function("() => waiting >= 60", timeout=30_000)
    feed = Feed(service)
    feed.start()
    given = 0
    for _ in range(ROUNDS):
        given += 50
        page.evaluate("performance.clearResourceTimings()")
        began = time.monotonic()
        for _ in range(50):
            press(page, str(truth(page)))
            page.wait_for_timeout(THINKING_MS)
        took = time.monotonic() - began
        until(lambda: page.evaluate("ops().length") == 0)
        times = page.evaluate(
            "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/labels')).map(e => e.duration)"
        )
        p95, limit = quantiles(times, n=20)[-1], MOST_MS * crowded()
        print(
            f"50 labels in {took:.1f} s; p95 {p95:.0f} ms of {len(times)}, allowed {limit:.0f}; {feed.sent:,} samples"
        )
        assert len(times) == 50
        assert took < 60
        if p95 <= limit:
            break
    feed.ending.set()
    feed.join()
    shoot(page, "question")
    assert p95 <= limit
    said = until(lambda: len(found := answers_of(service, "ann")) == given and found, 30)
    assert {a.label for a in said} == {"ok", "fraud"}
    assert all(a.desk.seconds > 0 for a in said)


def test_what_is_taken_back_is_never_published(run, visit):
    service = run({"desk.grace_s": 6})
    service.feed(rows(200))
    page = visit(service)
    first = press(page, "1")
    page.keyboard.press("Backspace")
    page.wait_for_function("id => document.querySelector('article').dataset.request === id", arg=first)
    second = press(page, "2")
    assert second == first
    third = press(page, " ")
    page.wait_for_selector(f"[data-change='{first}']:not(:disabled)")
    page.click(f"[data-change='{first}']")
    assert current(page) == first
    press(page, "1")
    said = until(lambda: len(found := answers_of(service, "ann")) == 2 and found, 20)
    assert {(a.request_id, a.label) for a in said} == {(first, "fraud"), (third, None)}
    page.wait_for_selector(f"[data-change='{first}']:disabled")


def test_without_a_connection_answers_are_kept_and_sent_later(run, visit):
    service = run()
    service.feed(rows(200))
    page = visit(service)
    page.wait_for_function("() => questions.length >= 4")
    page.context.set_offline(True)
    kept = []
    while page.get_attribute("body", "data-state") == "question":
        kept.append(current(page))
        press(page, "2")
    assert len(kept) >= 3
    page.wait_for_selector("body[data-state=offline]")
    assert "nothing is lost" in page.inner_text("main")
    shoot(page, "offline")
    page.context.set_offline(False)
    page.reload()
    page.wait_for_selector("body[data-state=question]", timeout=20_000)
    until(lambda: page.evaluate("ops().length") == 0)
    said = until(lambda: len(found := answers_of(service, "ann")) == len(kept) and found, 20)
    assert [a.request_id for a in said] == kept


@pytest.mark.fault("the process is killed", "while people answer in a browser")
def test_a_service_that_is_killed_loses_no_answer(run, visit):
    service = run()
    service.feed(rows(200))
    page = visit(service)
    page.wait_for_function("() => questions.length >= 4")
    given = [press(page, "1")]
    until(lambda: page.evaluate("ops().length") == 0)
    service.kill()
    given.append(press(page, "2"))
    page.wait_for_function("() => document.getElementById('link').textContent.includes('kept here')")
    service.start()
    until(lambda: page.evaluate("ops().length") == 0, 40)
    said = until(lambda: len(found := answers_of(service, "ann")) == 2 and found, 20)
    assert {(a.request_id, a.label) for a in said} == set(zip(given, ("fraud", "ok"), strict=True))


# --- several people ----------------------------------------------------------------------------------------------


def test_two_people_answer_at_once_and_never_the_same_question(run, visit):
    service = run({"desk.people": PEOPLE, "desk.blind": 0.5})
    service.feed(rows(300))
    pages = {name: visit(service, token=TOKENS[name]) for name in ("ann", "bob")}
    for _ in range(8):
        assert current(pages["ann"]) != current(pages["bob"])
        for page in pages.values():
            press(page, str(truth(page)))
    said = until(lambda: len(found := service.answers()) == 16 and found, 20)
    assert len({a.request_id for a in said}) == 16
    assert {a.annotator for a in said} == {"ann", "bob"}


def test_an_expired_lease_is_the_next_persons_and_the_slower_one_is_told(run, visit):
    service = run({"desk.lease_s": 1, "desk.grace_s": 60})
    service.feed(rows(100))
    ann = visit(service, name="ann")
    ann.evaluate("activeAt = 0")  # she has gone away: the page renews nothing
    hers = current(ann)
    time.sleep(1.2)
    bob = visit(service, name="bob")
    assert current(bob) == hers
    press(bob, "1")
    until(lambda: bob.evaluate("ops().length") == 0)
    press(ann, "2")
    ann.wait_for_selector("#notice:not([hidden])")
    assert "somebody else" in ann.inner_text("#notice")
    shoot(ann, "answered-by-another")


def test_half_of_the_questions_are_blind_and_show_no_guess(run, visit):
    service = run({"desk.blind": 0.5, "budget.fraction": 0.3})
    service.feed(rows(120))
    page = visit(service)
    given = 0
    while page.get_attribute("body", "data-state") == "question":  # those were asked before there was a guess
        press(page, str(truth(page)))
        given += 1
        page.wait_for_function(
            "() => questions.length || document.body.dataset.state === 'empty' && !pumping", polling=20
        )
    until(lambda: len(service.answers()) == given > 30, 20)
    service.feed(rows(900, first=500))
    seen = {"true": [], "false": []}
    until(lambda: page.evaluate("fetch('/requests?limit=1000').then(r => r.json()).then(q => q.open)") > 70)
    page.wait_for_selector("body[data-state=question]")
    for _ in range(90):
        if page.get_attribute("body", "data-state") != "question":
            break
        blind = page.get_attribute("article", "data-blind")
        guess = page.locator(".guess").count()
        told = "says" in page.inner_text("#why") or "torn" in page.inner_text("#why")
        if guess and not seen["false"]:
            shoot(page, "guess")
        elif blind == "true" and len(seen["true"]) == 30:
            shoot(page, "blind")
        seen[blind].append((guess, told))
        press(
            page,
            "a"
            if guess
            and blind == "false"
            and page.evaluate("questions[0].guess.key === (questions[0].features.x > 0 ? 'ok' : 'fraud')")
            else str(truth(page)),
        )
    assert (0, False) in seen["true"]
    assert set(seen["true"]) == {(0, False)}
    assert any(guess for guess, _ in seen["false"])
    share = len(seen["true"]) / sum(map(len, seen.values()))
    assert 0.25 < share < 0.75


# --- classes, keys, owner ----------------------------------------------------------------------------------------


def test_a_new_class_is_the_owners_to_accept(run, visit):
    service = run({"desk.people": PEOPLE, "model.classes": None})
    service.feed(rows(100))
    ann, own = (
        visit(service, token=TOKENS["ann"]),
        visit(service, "/desk", token=TOKENS["own"], wait="figures"),
    )
    shoot(ann, "first-class")
    ann.fill("#first", "chargeback")
    ann.keyboard.press("Enter")
    own.wait_for_selector("[data-accept=chargeback]", timeout=15_000)
    assert axe(own) == []
    shoot(own, "desk-new-class")
    own.click("[data-accept=chargeback]")
    ann.evaluate("() => refill()")
    ann.wait_for_selector("[data-class=chargeback]", timeout=40_000)
    until(lambda: [a.label for a in answers_of(service, "ann")] == ["chargeback"], 20)
    ann.keyboard.press("n")
    ann.fill("#new-name", "refund")
    shoot(ann, "new-class")
    ann.keyboard.press("Enter")
    own.wait_for_selector("[data-accept=refund]", timeout=15_000)


def test_keys_can_be_changed_and_stay_changed(run, visit):
    service = run()
    service.feed(rows(100))
    page = visit(service)
    page.keyboard.press("h")
    shoot(page, "help")
    page.click("[data-remap=skip]")
    page.keyboard.press("j")
    page.click("#close-help")
    page.reload()
    page.wait_for_selector("body[data-state=question]")
    assert page.inner_text("[data-act=skip] kbd") == "J"
    press(page, "j")
    page.wait_for_function("() => lately[0]?.said === 'skipped'")


def test_a_number_is_typed_where_one_is_asked_for(run, visit):
    service = run({"model.task": "regression", "model.classes": None, "desk.grace_s": 0.5})
    service.feed(rows(60))
    page = visit(service)
    for text in ("12,5", "-3"):
        before = current(page)
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.wait_for_function("id => document.querySelector('article')?.dataset.request !== id", arg=before)
    press(page, " ")
    page.keyboard.type("1many")
    page.keyboard.press("Enter")
    assert page.inner_text("#notice") == "This is not a number."
    assert axe(page) == []
    shoot(page, "number")
    until(lambda: [a.label for a in service.answers("regression")] == [12.5, -3, None], 20)


def test_more_than_nine_classes_have_pages(run, visit):
    names = [f"kind {n}" for n in range(1, 13)]
    service = run({"model.classes": names, "desk.grace_s": 0.5})
    service.feed(rows(60))
    page = visit(service)
    assert page.locator("[data-class]").count() == 9
    page.keyboard.press("0")
    assert page.locator("[data-class]").all_inner_texts()[0].split("\n")[-1] == "kind 10"
    shoot(page, "many-classes")
    press(page, "3")
    assert page.locator("[data-class]").count() == 9
    until(lambda: [a.label for a in answers_of(service, "ann")] == ["kind 12"], 20)


def test_the_desk_page_shows_how_people_do(run, visit):
    service = run({"desk.people": PEOPLE, "desk.grace_s": 0.5, "budget.fraction": 0.3})
    service.feed(rows(400))
    ann = visit(service, token=TOKENS["ann"])
    for _ in range(20):
        press(ann, str(truth(ann)))
    own = visit(service, "/desk", token=TOKENS["own"], wait="figures")
    own.wait_for_selector("text=ann", timeout=15_000)
    own.wait_for_function(
        "() => document.querySelector('tbody td:nth-child(2)')?.textContent === '20'", timeout=15_000
    )
    assert "left of" in own.inner_text("main")
    assert axe(own) == []
    shoot(own, "desk")
    stranger = visit(service, "/desk", token=TOKENS["ann"], wait="error")
    assert "owner" in stranger.inner_text("main")


# --- what is seen ------------------------------------------------------------------------------------------------

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


@pytest.mark.parametrize(
    ("name", "options"), [("wide", {}), ("dark", {"color_scheme": "dark"}), ("phone", PHONE)]
)
def test_text_images_and_numbers_are_shown_as_such_to_everybody(run, visit, name, options):
    service = run({"samples.text": "comment", "samples.image": "picture"})
    service.feed(
        rows(100, comment=COMMENT, picture=PICTURE, vector=[0.1] * 32, note="<img src=x onerror=alert(1)>")
    )
    page = visit(service, **options)
    assert page.inner_text(".text") == COMMENT
    assert page.evaluate("document.querySelector('figure img').naturalWidth") == 640
    names = page.locator("th").all_inner_texts()
    assert "vector" not in names
    assert {"amount", "country"} <= set(names)
    assert page.locator(".range").count() == 3
    assert page.locator("article img").count() == 1
    assert axe(page) == []
    shoot(page, f"text-{name}")
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0
    if name == "phone":
        page.tap("[data-class=ok]")
        page.wait_for_function("() => lately[0]?.said === 'ok'")


def test_every_state_of_the_page_is_accessible(run, visit):
    service = run({"desk.people": PEOPLE})
    page = visit(service, wait="signin")
    assert axe(page) == []
    shoot(page, "sign-in")
    page.fill("#token", TOKENS["ann"])
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-state=empty]")
    assert axe(page) == []
    shoot(page, "empty")
    service.feed(rows(100))
    page.wait_for_selector("body[data-state=question]", timeout=20_000)
    assert page.evaluate("document.activeElement.tagName") == "ARTICLE"
    assert axe(page) == []
    page.keyboard.press("1")
    assert page.inner_text("#live") == "fraud."
    page.keyboard.press("h")
    assert axe(page) == []
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "ARTICLE"
    service.stop()
    page.evaluate("questions = []; begin()")
    page.wait_for_selector("body[data-state=offline]")
    assert axe(page) == []


def test_a_desk_that_is_closed_says_why(run, visit):
    service = run({"http.host": "127.0.0.1"})
    service.feed(rows(50))
    page = visit(service)
    page.route(
        "**/me",
        lambda route: route.fulfill(
            status=503,
            json={"reason": "unavailable", "detail": "the desk is not open yet: reading the open questions"},
        ),
    )
    page.route(
        "**/requests/lease",
        lambda route: route.fulfill(
            status=503,
            json={"reason": "unavailable", "detail": "the desk is not open yet: reading the open questions"},
        ),
    )
    page.evaluate("questions = []; me = null; begin()")
    page.wait_for_selector("body[data-state=error]")
    shoot(page, "error")
    assert axe(page) == []
