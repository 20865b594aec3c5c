"""Debian's Chromium, driven by Playwright, and the real service as a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.outside import lacking

HERE = Path(__file__).resolve().parent
SHOTS = HERE.parent.parent / "artifacts" / "browser"
CHROMIUM = os.environ.get("STREAM_AL_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
TOKENS = {"ann": "ann-" + "a" * 16, "bob": "bob-" + "b" * 16, "own": "own-" + "o" * 16}
SETTINGS = {
    "broker": {"url": "embedded://log.db", "partitions": 1},
    "http": {"port": 0},
    "state_dir": "state",
    "budget": {"fraction": 0.2},
    "ledger": {"bucket_s": 1},
    "samples": {"start": "earliest"},
    "model": {"classes": ["fraud", "ok"]},
    "desk": {"grace_s": 3, "blind": 0},
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    if not Path(CHROMIUM).exists():
        lacking("no Chromium: apt-get install chromium", "BROWSER")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("no Playwright: make test-browser installs it", "BROWSER")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Run:
    """``stream-al run`` in a directory, with what people see and what stands on the topics."""

    def __init__(self, place, overrides=()):
        self.place = place
        tree = json.loads(json.dumps(SETTINGS))
        for dotted, value in dict(overrides).items():
            *path, last = dotted.split(".")
            section = tree
            for name in path:
                section = section.setdefault(name, {})
            section[last] = value
        (place / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        self.port = 0
        self.start()

    def start(self):
        self.log = (self.place / "log.txt").open("w+")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_AL_")}
        command = [
            sys.executable,
            "-m",
            "stream_al",
            "run",
            "--config",
            "config.yaml",
            "--set",
            f"http.port={self.port}",
        ]
        self.process = subprocess.Popen(
            command, cwd=self.place, stderr=self.log, stdout=self.log, env=environment
        )
        found = until(lambda: re.search(r"url[=\": ]+(http://[\d.:]+)", self.text()), 40)
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2])
        until(lambda: "the desk is open" in self.text(), 40)

    def text(self):
        return (self.place / "log.txt").read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def broker(self):
        from stream_al.config import load
        from stream_al.transport import connect

        return connect(
            load(self.place / "config.yaml", environ={}).broker.url.replace(
                "log.db", str(self.place / "log.db")
            ),
            {},
        )

    def feed(self, rows):
        from stream_al.transport.port import Output

        with self.broker() as broker:
            broker.append([Output("samples", json.dumps(row).encode()) for row in rows])

    def answers(self, task="classification"):
        """Return what stands on the topic of labels."""
        from stream_al.codec import decode_answer
        from stream_al.transport.port import TopicPartition

        with self.broker() as broker, broker.reader({TopicPartition("labels", 0): 0}) as reader:
            return [decode_answer(r, task) for records in reader.poll(5_000, 0.0).values() for r in records]


@pytest.fixture
def run(tmp_path):
    """Start the service with settings over the usual ones: ``run({"desk.blind": 1})``."""
    started = []

    def start(overrides=()):
        started.append(Run(tmp_path, overrides))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def visit(browser, request):
    """Open the label page as somebody: ``visit(service, token=...)``; errors in the page fail the test."""
    contexts, errors = [], []

    def open_page(service, path="/label", token=None, name="ann", wait="question", **options):
        context = browser.new_context(**{"viewport": {"width": 1180, "height": 820}, **options})
        contexts.append(context)
        stored = {
            "stream-al.name": json.dumps(name),
            **({"stream-al.token": json.dumps(token)} if token else {}),
        }
        context.add_init_script(
            f"for (const [k, v] of Object.entries({json.dumps(stored)})) if (!localStorage.getItem(k)) localStorage.setItem(k, v);"
        )
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(service.url + path)
        if wait:
            page.wait_for_selector(f"body[data-state={wait}]", timeout=20_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def shoot(page, name):
    """Keep a picture of the page among the artifacts."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def until(true, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.05)
    return found


def rows(n, first=0, **more):
    """Return samples whose class is the sign of x."""
    return [
        {
            "id": f"s-{i}",
            "features": {
                "amount": round(12.5 + (i * 37 % 400) / 3, 2),
                "x": (-1) ** i * (1 + i % 5) / 5,
                "hour": i % 24,
                "country": ["FR", "DE", "PT"][i % 3],
                "returning": i % 2 == 0,
                "coupon": None,
                **more,
            },
        }
        for i in range(first, first + n)
    ]
