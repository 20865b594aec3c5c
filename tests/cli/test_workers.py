"""Several scorers under one command: they share the work, name themselves, and end together."""

import json
import os
import signal
import urllib.request

import pytest

from stream_al.web.server import listen

from .conftest import jsons, samples, until


def free_ports(n):
    """Return the first of n ports in a row that are free now."""
    while True:
        with listen("127.0.0.1", 0) as first:
            port = first.getsockname()[1]
        try:
            for i in range(n):
                listen("127.0.0.1", port + i).close()
        except OSError:
            continue
        return port


def lines_until(process, enough):
    said = []
    while not enough(said):
        line = process.stderr.readline()
        assert line, f"it ended early: {said}"
        said.append(json.loads(line))
    return said


def events(said, event):
    return [entry for entry in said if entry["event"] == event]


def gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def decided(port):
    """Return how many samples the worker at a port has decided."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("stream_al_samples_total{"))


def test_workers_share_the_samples_and_end_well(cli, program):
    base = free_ports(2)
    shared = ["--set", "broker.partitions=4", "--set", "broker.session_timeout_ms=5000"]
    learner = program("run", "--role", "learner", "--set", "http.port=null", *shared)
    team = program("run", "--role", "scorer", "--workers", 2, "--set", f"http.port={base}", *shared)
    said = lines_until(
        team, lambda said: {0, 1} <= {e.get("worker") for e in events(said, "partition assigned")}
    )
    (start,) = events(said, "started")
    assert all("worker" in entry for entry in said if entry is not start)
    assert {(e["worker"], e["url"]) for e in events(said, "listening")} == {
        (i, f"http://127.0.0.1:{base + i}") for i in range(2)
    }

    assert cli("send", "samples", stdin=samples(400)).exit_code == 0
    until(lambda: jsons(cli("status", "--json").stdout)[0]["budget"]["samples"] == 400)
    until(lambda: sum(decided(base + i) for i in range(2)) == 400)  # figures are published once a second
    assert min(decided(base + i) for i in range(2)) > 0

    team.send_signal(signal.SIGTERM)
    _, err = team.communicate(timeout=10)
    assert team.returncode == 0
    assert {entry.get("worker") for entry in events(jsons(err), "stopping")} == {0, 1}
    learner.send_signal(signal.SIGTERM)
    learner.communicate(timeout=10)


def test_the_death_of_one_worker_ends_all_and_is_told(cli, program, broker):
    team = program("run", "--role", "scorer", "--workers", 2)
    (start,) = events(lines_until(team, lambda said: events(said, "started")), "started")
    one, other = start["processes"]
    os.kill(other, signal.SIGKILL)
    _, err = team.communicate(timeout=15)
    assert team.returncode == 128 + signal.SIGKILL
    (told,) = events(jsons(err), "a worker has ended; the others are told to stop")
    assert (told["worker"], told["exit_code"]) == (1, -signal.SIGKILL)
    assert gone(one)


@pytest.mark.slow
def test_workers_end_with_who_watches_over_them(cli, program, broker):
    team = program("run", "--role", "scorer", "--workers", 2)
    lines_until(team, lambda said: events(said, "started"))
    team.kill()
    team.communicate(timeout=20)  # standard error ends with the last process that holds it


@pytest.mark.parametrize("role", ["learner", "all"])
def test_only_scorers_come_in_numbers(cli, role):
    end = cli("run", "--role", role, "--workers", 2)
    assert end.exit_code == 2
    assert "--workers is for --role scorer" in end.stderr


@pytest.mark.parametrize(
    ("setting", "told"),
    [("broker.url=embedded://:memory:", "processes share"), ("http.port=65535", "ports")],
)
def test_what_workers_cannot_share_is_said(cli, setting, told):
    end = cli("run", "--role", "scorer", "--workers", 2, "--set", setting)
    assert end.exit_code == 2
    assert told in end.stderr
