"""A real Label Studio from the package index, on loopback in a network namespace of its own (make test-label-studio)."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream_al.codec import decode_answer, decode_ledger
from stream_al.config import load
from stream_al.service.loop import Service, open_broker
from stream_al.transport.port import Output
from tests.e2e.world import read_all
from tests.outside import lacking
from tests.studio.alone import alone
from tests.studio.server import TOKEN, Relay, fresh, migrated

HERE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("LABEL_STUDIO_ENVIRONMENT") or HERE.parent.parent / ".venv" / "label-studio")
TITLES = itertools.count(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.studio)


@pytest.fixture(scope="session")
def studio(tmp_path_factory):
    program = FOLDER / "bin" / "label-studio"
    if not program.exists():
        lacking(f"no Label Studio in {FOLDER}: make test-label-studio installs it", "STUDIO")
    if not alone():
        lacking("there is a network: python -m tests.studio.alone leaves it", "STUDIO")
    server = fresh(
        program, migrated(program, FOLDER / "migrated"), tmp_path_factory.mktemp("studio") / "data"
    )
    yield server.start()
    server.stop()


@pytest.fixture
def relay(studio):
    relay = Relay(studio)
    yield relay
    relay.close()


class World:
    """The service and the bridge in one process, turn by turn, on a log in a file; the bridge also as a process."""

    def __init__(self, where, studio, url=None, **overrides):
        self.where, self.studio = where, studio
        self.title = f"project {next(TITLES)}"
        tree = {
            "broker.url": f"embedded://{where / 'log.db'}",
            "broker.partitions": 1,
            "broker.session_timeout_ms": 5_000,  # waited for after a kill; one turn must not last longer
            "state_dir": None,
            "http.port": None,
            "budget.fraction": None,
            "budget.per_hour": 1_000_000,  # every sample is asked for
            "budget.exploration": 1,
            "desk.blind": 0,
            "ledger.bucket_s": 0.2,
            "samples.start": "earliest",
            "model.classes": ["fraud", "ok"],
            "label_studio.url": url or studio.url,
            "label_studio.project": self.title,
            "label_studio.poll_s": 0.2,
            **overrides,
        }
        self.arguments = [f"{key}={json.dumps(value)}" for key, value in tree.items()]
        self.environment = {"STREAM_AL_LABEL_STUDIO__TOKEN": TOKEN}
        self.settings = load(None, self.arguments, environ=self.environment)
        self.broker = open_broker(self.settings)
        self.service = Service(self.broker, self.settings, "all")
        self.bridge = None
        self.processes = []
        self.closed = False

    def connect(self):
        """Begin with a bridge, or with another."""
        if self.bridge is not None:
            self.bridge.close()
        self.bridge = Service(self.broker, self.settings, "label-studio")
        return self.bridge.bridge

    def process(self):
        """Start ``stream-al label-studio`` as a process."""
        arguments = [sys.executable, "-m", "stream_al", "label-studio"]
        arguments += [part for text in self.arguments for part in ("--set", text)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_AL_")}
        process = subprocess.Popen(
            arguments, cwd=self.where, env={**clean, **self.environment, "STREAM_AL_LOG__FORMAT": "json"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def feed(self, rows):
        """Send samples: ``{id: features}``."""
        topic = self.settings.topics.samples
        values = [json.dumps({"id": name, "features": features}).encode() for name, features in rows.items()]
        self.broker.append([Output(topic, value, partition=0) for value in values])

    def until(self, true, seconds=60.0):
        """Let everybody do their rounds until something is true; return it."""
        deadline = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < deadline, "it did not become true in time"
            self.service.turn(0.0)
            if self.bridge is not None:
                self.bridge.turn(0.0)
        return found

    def rounds(self, n=3):
        """Let the bridge finish as many more rounds."""
        for _ in range(n):
            self.until(lambda: self.bridge.bridge.round is not None)
            self.until(lambda: self.bridge.bridge.round is None)

    def tasks(self, n=None):
        """Return the tasks by the id of their sample, when there are so many."""
        if n is not None:
            self.until(lambda: len(self.studio.tasks(self.title)) == n)
        return {task["meta"]["id"]: task for task in self.studio.tasks(self.title)}

    def records(self, topic):
        return read_all(self.broker, topic)

    def labels(self):
        """Return what stands on ``labels``."""
        return [decode_answer(r, self.settings.model.task) for r in self.records(self.settings.topics.labels)]

    def ledger(self, kind):
        found = [decode_ledger(r) for r in self.records(self.settings.topics.ledger)]
        return [r for r in found if r is not None and r.kind == kind]

    def letters(self):
        """Return why records became dead letters."""
        return [
            dict(r.headers)["stream_al.error.reason"].decode()
            for r in self.records(self.settings.topics.dead_letters)
        ]

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait(10)
            process.stdout.close()
        self.processes = []
        if self.closed:
            return
        self.closed = True
        for service in (self.bridge, self.service):
            if service is not None:
                service.close()
        self.broker.close()


@pytest.fixture
def world(tmp_path, studio):
    """Begin a world: ``world(**{"labels.ttl_s": 3})``."""
    begun = []

    def begin(**overrides):
        (tmp_path / str(len(begun))).mkdir()
        begun.append(World(tmp_path / str(len(begun)), studio, **overrides))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def rows(n, first=0):
    """Return samples that are fraud where x is positive."""
    return {f"s-{i}": {"x": (-1) ** i * (1 + i % 5) / 5, "country": "FR"} for i in range(first, first + n)}


def truth(task):
    return "fraud" if task["data"]["features"]["x"] > 0 else "ok"
