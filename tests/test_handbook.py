"""The quick start works as it stands, and the operations page says what the code does."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from stream_al import status
from stream_al.cli import outcome
from stream_al.cli.app import app
from stream_al.config import Settings, load

ROOT = Path(__file__).parent.parent
PAGES = ("index", "quick-start", "operations", "numbers", "faq")


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def rows(text, heading):
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    return [cell for cell in found if not set(cell) <= {"-", "|", " "}][1:]


def test_the_links_that_may_fall_silent_are_all_named():
    named = {cell.strip("`") for cell in rows(page("operations"), "Is it well?")}
    literal = set(re.findall(r"Finding\(\s*\"(\w+)\"", inspect.getsource(status)))
    assert named == literal | {"scorer", "learner"}  # these two are told apart by an argument


def test_exit_codes_are_those_of_the_command_line():
    named = {int(cell) for cell in rows(page("operations"), "How a process ends")}
    assert named == {outcome.OK, outcome.FAILURE, outcome.USAGE, outcome.CONFIGURATION, outcome.INTERRUPTED}


@pytest.mark.parametrize("name", PAGES)
def test_keys_and_verbs_that_a_page_names_exist(name):
    text = page(name)
    keys = {
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        for key in getattr(field.annotation, "model_fields", ())
    } | set(Settings.model_fields)
    sections = {key.partition(".")[0] for key in keys if "." in key}
    for section, key in re.findall(r"`([a-z_]+)\.([a-z_]+)[`:]", text):
        assert section not in sections or f"{section}.{key}" in keys, f"{section}.{key}"
    verbs = get_command(app).commands
    for verb in re.findall(r"(?:`|^)stream-al ([a-z][a-z-]*)", text, re.MULTILINE):
        assert verb in verbs, verb


def test_the_settings_of_the_quick_start_are_valid(tmp_path):
    first, second = re.findall(r"```yaml\n(.*?)```", page("quick-start"), re.DOTALL)
    (tmp_path / "config.yaml").write_text(first)
    assert load(tmp_path / "config.yaml", environ={}).budget.per_day == 200
    (tmp_path / "config.yaml").write_text(second)
    assert load(tmp_path / "config.yaml", environ={}).model.spec == yaml.safe_load(second)["model"]["spec"]


@pytest.mark.slow
def test_the_quick_start_works_in_its_order(tmp_path):
    environ = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_AL_")} | {
        "STREAM_AL_HTTP__PORT": "0"
    }
    blocks = re.findall(r"```sh\n(.*?)```", page("quick-start"), re.DOTALL)
    _, start, feed, answer, _ = ([line.split()[1:] for line in block.splitlines()] for block in blocks)
    assert start == [["check"], ["run"]]

    def run(arguments):
        done = subprocess.run(
            [sys.executable, "-m", "stream_al", *arguments],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    sample = re.search(r"```json\n(.*?)\n", page("quick-start")).group(1)
    lines = [json.dumps({**json.loads(sample), "id": f"s-{i}"}) for i in range(1, 101)]
    (tmp_path / "feed.jsonl").write_text("\n".join(lines) + "\n")
    run(start[0])
    with subprocess.Popen(
        [sys.executable, "-m", "stream_al", *start[1]],
        cwd=tmp_path,
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            while '"ready"' not in service.stderr.readline():
                assert service.poll() is None
            run(feed[0])
            asked, deadline = [], time.monotonic() + 60
            while not asked:
                assert time.monotonic() < deadline
                asked = [json.loads(line)["meta"]["id"] for line in run(feed[1]).splitlines()]
            answers = [json.dumps({"id": name, "label": "ok"}) for name in asked]
            (tmp_path / "answers.jsonl").write_text("\n".join(answers) + "\n")
            run(answer[0])
            assert "requests" in run(answer[1])
            assert asked[0] in run([*answer[2][:-1], asked[0]])
        finally:
            service.terminate()
            assert service.wait(20) == 0
