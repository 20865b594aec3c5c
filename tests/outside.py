"""What tests need that is not theirs: programs, and what the package registries give through their ordinary clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NoReturn

import pytest


def lacking(what: str, required: str) -> NoReturn:
    """Skip, or fail where the environment variable ``STREAM_AL_REQUIRE_<required>`` is 1, as the targets of make set it."""
    if os.environ.get(f"STREAM_AL_REQUIRE_{required}") == "1":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def unreachable(why: str) -> None:
    """Skip a test that needs the internet; fail it in CI, which has it."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def npm(directory, *packages: str):
    """Install packages of npm below a directory and return where they are."""
    if not shutil.which("npm"):
        unreachable("npm is not there")
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", directory, *packages],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    if done.returncode != 0:
        unreachable(f"npm could not install {' '.join(packages)}")
    return directory / "node_modules"


def python(directory, *arguments):
    """Make an empty environment, install into it, and return its Python."""
    venv.create(directory, with_pip=True)
    interpreter = directory / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")  # where it works it is faster; pip knows more settings
    commands = [[interpreter, "-m", "pip", "install", "--quiet", *arguments]]
    if uv.exists():
        commands.insert(0, [uv, "pip", "install", "--quiet", "--python", interpreter, *arguments])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        if done.returncode == 0:
            return interpreter
    unreachable(f"could not install {' '.join(map(str, arguments))}: {done.stderr[-300:]}")
    raise AssertionError
