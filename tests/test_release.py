"""What is released can be built, installed where there is nothing, and run."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import stream_al
from tests.outside import python

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    place = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'__version__ = "(.*)"', place.read_text(encoding="utf-8")) == [stream_al.__version__]
    documents = [
        path
        for path in [
            *ROOT.glob("stream_al/**/*.py"),
            *ROOT.glob("docs/*.md"),
            ROOT / "README.md",
            ROOT / "Makefile",
        ]
        if re.search(
            rf"(?<![\d.]){re.escape(stream_al.__version__)}(?![\d.])", path.read_text(encoding="utf-8")
        )
    ]
    assert documents == [place]


def clean():
    """Return an environment in which nothing of this working copy can be found."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("STREAM_AL_", "PYTHON", "VIRTUAL_ENV"))}


@pytest.mark.slow
def test_a_wheel_made_of_the_sdist_runs_the_demo_in_an_empty_environment(tmp_path):
    dist = tmp_path / "dist"
    builder = python(tmp_path / "builder", *PROJECT["build-system"]["requires"])

    def build(where, target):
        done = subprocess.run(
            [builder, "-m", "hatchling", "build", "--target", target, "--directory", dist],
            cwd=where, env=clean(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    build(ROOT, "sdist")
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.glob("stream_al-*")
    assert {"tests", "docs", "Makefile", "requirements.lock"} <= {path.name for path in unpacked.iterdir()}
    build(unpacked, "wheel")
    [wheel] = dist.glob("*.whl")
    assert wheel.name == f"stream_al-{stream_al.__version__}-py3-none-any.whl"
    package = ROOT / "stream_al"
    ours = {
        f"stream_al/{path.relative_to(package)}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == ours

    pins = tmp_path / "pins.txt"  # the locked versions, without hashes: the wheel itself has none
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    pins.write_text(re.sub(r"--hash=\S+", "", lock))
    user = python(tmp_path / "user", "--constraint", pins, wheel)
    place = tmp_path / "elsewhere"
    place.mkdir()
    done = subprocess.run(
        [user.with_name("stream-al"), "demo", "--samples", "600", "--no-compare"],
        cwd=place, env=clean(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "asking by margin" in done.stdout


def pages():
    return {path.name for path in (ROOT / "docs").glob("*.md")}


def test_every_page_is_on_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = [name for part in site["nav"] for names in part.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) == pages() | {"SECURITY.md", "CHANGELOG.md"}


@pytest.mark.parametrize("page", sorted(pages()))
def test_links_of_a_page_lead_somewhere(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
