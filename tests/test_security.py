"""What SECURITY.md promises and nothing else shows."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from stream_al.config import load
from stream_al.web import limits

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
FAKE = """#!/bin/sh
case "$*" in
  *control.txt*) [ "$SAYS" = silence ] || { echo "jinja2 2.4.1   PYSEC-1 2.5"; exit 1; };;
  *) [ "$SAYS" = holes ] && { echo "river 0.1 PYSEC-2"; exit 1; } ;;
esac
exit 0
"""


@pytest.mark.parametrize(
    ("says", "code", "told"),
    [("nothing", 0, "asking pypi"), ("holes", 1, "PYSEC-2"), ("silence", 1, "NOT AUDITED")],
)
def test_an_audit_fails_for_what_is_known_and_when_nobody_answers(tmp_path, says, code, told):
    tool = tmp_path / "pip-audit"
    tool.write_text(FAKE)
    tool.chmod(0o755)
    end = subprocess.run(
        [ROOT / ".ci" / "audit", tool, "requirements.lock"],
        capture_output=True, text=True, env={**os.environ, "SAYS": says}, check=False, cwd=ROOT,
    )  # fmt: skip
    assert end.returncode == code
    assert told in end.stdout + end.stderr


def test_the_port_is_for_this_machine_unless_somebody_opens_it():
    assert load(None, environ={}).http.host == "127.0.0.1"


def test_every_topic_has_its_writers():
    topics = load(None, environ={}).topics.model_dump().values()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)) == set(topics)


def test_the_limits_are_those_of_the_code():
    said = re.sub(r"\s+", " ", TEXT)
    assert f"bodies {limits.MOST_BODY // 1024} kB, headers {limits.MOST_HEADERS // 1024} kB" in said
    assert f"{limits.BURST:.0f} requests at once and {limits.RATE_PER_S:.0f} per second" in said
    assert f"{limits.MOST_CONNECTIONS} connections, {limits.FIRST_REQUEST_S:.0f} s" in said
