"""What the README shows works as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def commands():
    """Return the stream-al commands of the shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.split()[1:] for line in lines if line.startswith("stream-al")]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z][a-z-]+)", README)) - {"sure"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_first_screen_shows_both_commands():
    first = "\n".join(README.splitlines()[:25])
    assert "make demo" in first
    assert "make test" in first


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("STREAM_AL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STREAM_AL_HTTP__PORT", "0")
    monkeypatch.setenv("STREAM_AL_SAMPLES__START", "earliest")
    feed = [{"id": f"s-{i}", "features": {"amount": float(i), "country": "FR"}} for i in range(1, 200)]
    (tmp_path / "feed.jsonl").write_text("".join(json.dumps(x) + "\n" for x in feed))
    return tmp_path


def run(arguments, where):
    done = subprocess.run(
        [sys.executable, "-m", "stream_al", *arguments], cwd=where, capture_output=True, text=True, timeout=60
    )
    return done


def test_the_commands_work_in_their_order(place):
    rest = [c for c in commands() if c[0] not in {"run", "demo", "simulate"}]
    assert [c[0] for c in rest] == ["check", "send", "tap", "send", "status", "inspect"]
    service = subprocess.Popen(
        [sys.executable, "-m", "stream_al", "run"],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while run(["status", "--json"], place).returncode != 0:
            assert time.monotonic() < deadline
        done = run(rest[1], place)  # send samples
        assert done.returncode == 0, done.stderr
        asked = []
        while not asked:
            assert time.monotonic() < deadline
            done = run([*rest[2], "--json"], place)
            assert done.returncode == 0, done.stderr
            asked = [json.loads(line)["value"]["meta"]["id"] for line in done.stdout.splitlines()]
        (place / "answers.jsonl").write_text(
            "".join(json.dumps({"id": i, "label": "fraud"}) + "\n" for i in asked)
        )
        for command in [rest[0], rest[3], rest[4], ["inspect", asked[0]]]:
            done = run(command, place)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
    finally:
        service.terminate()
        assert service.wait(20) == 0


@pytest.mark.slow
def test_what_if_is_written_where_it_says(tmp_path):
    rows = "".join(f"{i % 13},{i % 7},{'bill' if i % 13 > 6 else 'login'}\n" for i in range(120))
    (tmp_path / "tickets.csv").write_text(f"words,links,topic\n{rows}")
    [command] = [c for c in commands() if c[0] == "simulate"]
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"report.html", "results.csv", "config.yaml"} <= {
        p.name for p in (tmp_path / "simulation").iterdir()
    }


def test_roles_and_addresses_of_the_kafka_part_exist():
    from stream_al.config import load

    assert [c for c in commands() if "--role" in c] == [
        ["run", "--role", "scorer", "--workers", "4"],
        ["run", "--role", "learner"],
    ]
    address = re.search(r"STREAM_AL_BROKER__URL=(\S+)", README).group(1)
    assert load(None, environ={"STREAM_AL_BROKER__URL": address}).broker.url == address
