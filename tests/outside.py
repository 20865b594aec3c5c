"""What tests fetch from the package registries, through their ordinary clients."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


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
