"""What tests tried against faults is counted, and shown as it came out."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests import faults

HERE = Path(__file__).resolve().parent
pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.fault("rain", "with a can", tried=3)
@pytest.mark.parametrize("n", range(2))
def test_rain(n):
    pass

@pytest.mark.fault("rain", "with a can")
def test_more_rain(tried):
    tried(10); tried(5)

@pytest.mark.fault("hail", "with a drum")
def test_hail():
    assert False

@pytest.mark.fault("snow", "in summer")
def test_snow():
    pytest.skip("none here")

def test_sun():
    pass
"""


def seen(pytester, *arguments):
    pytester.makeconftest((HERE / "conftest.py").read_text())
    pytester.makepyfile(TESTS)
    pytester.runpytest_subprocess("--faults", "out/faults.json", "-p", "no:cacheprovider", *arguments)
    return json.loads((pytester.path / "out" / "faults.json").read_text())


def test_a_run_collects_counts_and_results(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    for arguments in ((), ("-n", "2")):
        found = seen(pytester, *arguments)
        page = faults.page(found)
        assert re.search(r"^\| rain \| with a can \(.*\) \| 21 \| held \|$", page, re.MULTILINE)
        assert re.search(r"^\| hail \| with a drum \(.*\) \| 1 \| \*\*1 failed\*\* \|$", page, re.MULTILINE)
        assert "snow" not in page, "what did not run is not claimed"


def test_what_another_stage_saw_is_kept(tmp_path):
    file = tmp_path / "new" / "faults.json"
    faults.note(file, "tests/a", "rain", "how", 3, held=True)
    faults.note(file, "tests/b", "rain", "how", 4, held=True)
    faults.note(file, "tests/b", "rain", "how", 5, held=False)
    assert "| rain | how ([a](../tests/a), [b](../tests/b)) | 8 | **1 failed** |" in faults.page(
        json.loads(file.read_text())
    )


def test_every_marked_fault_is_on_the_page():
    page = faults.PAGE.read_text(encoding="utf-8")
    for file in HERE.rglob("test_*.py"):
        if file != Path(__file__).resolve():
            for fault in re.findall(r'mark\.fault\(\s*"([^"]+)"', file.read_text(encoding="utf-8")):
                assert f"| {fault} |" in page, f"{file.name}: make reliability"
