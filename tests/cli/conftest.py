"""A directory with settings for the embedded log, and ways to call the command line in it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

SETTINGS = {
    "broker": {"url": "embedded://log.db", "partitions": 1},
    "labels": {"wait_unknown_s": 0.2},
    "ledger": {"bucket_s": 0.2},
    "budget": {"fraction": 0.2},
    "http": {"port": 0},
    "state_dir": "state",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Be in a directory with a config.yaml; variables of whoever runs the tests are not part of them."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("STREAM_AL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    write_settings(SETTINGS)
    return tmp_path


def write_settings(tree):
    Path("config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.fixture
def cli(place):
    """Call a verb in this process: ``cli("send", "samples", stdin="{}")``."""
    from stream_al.cli.app import app

    runner = CliRunner()

    def call(*arguments, stdin=None):
        return runner.invoke(app, list(map(str, arguments)), input=stdin)

    return call


@pytest.fixture
def settings(place):
    from stream_al.config import load

    return lambda *overrides: load(Path("config.yaml"), overrides)


@pytest.fixture
def broker(settings):
    """The log that the verbs use, with all topics."""
    from stream_al.service.loop import open_broker

    with open_broker(settings()) as opened:
        yield opened


@pytest.fixture
def program(place):
    """Start ``stream-al`` as a process of its own; what still runs at the end is killed."""
    started = []

    def start(*arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_al", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(true, seconds=15.0):
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.05)
    return found


def jsons(output):
    """Return the objects of JSON lines."""
    return [json.loads(line) for line in output.splitlines()]


def samples(n, **more):
    """Return n lines of samples whose class is the sign of x."""
    rows = ({"id": f"s-{i}", "features": {"x": (-1) ** i * (1 + i % 5), **more}} for i in range(n))
    return "".join(json.dumps(row) + "\n" for row in rows)
