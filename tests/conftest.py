"""Collects what the tests tried against which fault; see tests/faults.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import faults

SEEN = pytest.StashKey[dict[str, dict[str, Any]]]()
TRIED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, help="write what was tried against which fault into this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEEN] = {}
    config.pluginmanager.register(_Collector(config), "faults")


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[[int], None]:
    """Say how often a test of a fault tried it: ``tried(25)``; counts add up."""
    stash = request.node.stash

    def count(times: int) -> None:
        stash[TRIED] = stash.get(TRIED, 0) + times

    return count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        for mark in item.iter_markers("fault"):
            fault, how = mark.args
            times = item.stash.get(TRIED, mark.kwargs.get("tried", 1))
            report.user_properties.append(("fault", {"fault": fault, "how": how, "tried": times}))
    return report


class _Collector:
    """Gathers the reports of all processes in the one that started them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for number, (name, found) in enumerate(report.user_properties):
            if name == "fault" and not report.skipped:
                key = f"{report.nodeid}#{number}"
                self.config.stash[SEEN][key] = {**found, "held": report.passed}

    def pytest_sessionfinish(self) -> None:
        if not hasattr(self.config, "workerinput"):
            faults.merge(self.config.getoption("--faults"), self.config.stash[SEEN])
