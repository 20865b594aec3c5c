"""The benchmarks run and print; whether their bars are met is for the benchmarks themselves to say."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

PROGRAMS = {
    "streams": (["--samples", "300"], ["Streams"]),
    "peers": (["--samples", "300"], ["Peers: mean accuracy", "The best single combination", "lr/entropy-3"]),
    "estimation": (["--samples", "1200"], ["Estimates, means", "Plain, by stream", "Spending", "Bars", "few ids, 1,000", "Drift alarms"]),
    "regression": (["--streams", "friedman", "--samples", "1300"], ["Errors: means over the streams", "Does stratified asking pay?", "Bars"]),
    "start": (["--samples", "300"], ["A start with 300 labels", "Bars"]),
    "strategies": (["--samples", "100"], ["With 5 %", "gradient_length", "Bars"]),
    "cooperative": (["--samples", "300"], ["Accuracy with 5 %", "pseudo-labels", "Bars"]),
    "challengers": (["--samples", "400"], ["Labels a second that a fold learns", "Labels saved", "Bars"]),
    "representation": (["--samples", "300"], ["labels, default", "redundant", "Costs of a sample", "Bars"]),
    "drift": (["--samples", "1000"], ["Drift alarms", "false alarms per 1,000 samples"]),
    "throughput": (["--samples", "500", "--rounds", "1"], ["Embedded log: CPU time a sample", "ordinary loop", "bare poll", "labels a second", "Bars"]),
    "throughput, widths": (["--widths", "--samples", "500", "--rounds", "1"], ["1,000 features", "a text of 20 words"]),
    "processes": (["--samples", "6000"], ["seconds of CPU", "A scorer's memory, MB", "share of a core", "Bars"]),
    "ordinary": (["--samples", "500"], ["us of CPU a sample"]),
    "label_efficiency": (["--samples", "300"], ["Mean accuracy", "Labels that random needs", "500 samples late", "Bars"]),
}  # fmt: skip


@pytest.fixture
def bench(monkeypatch):
    """Import a benchmark as it imports its neighbours: from its own directory."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def start(name, arguments, tmp_path):
    environment = {**os.environ, "STREAM_AL_BENCH_CACHE": str(tmp_path)}
    environment.pop("STREAM_AL_ELEC2", None)
    program = BENCHMARKS / f"{name.partition(',')[0]}.py"
    call = [sys.executable, program, "--quick", "--seeds", "1", "--jobs", "0", *arguments]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_runs_and_prints_its_tables(name, tmp_path):
    arguments, titles = PROGRAMS[name]
    done = start(name, ["--streams", "phishing", *arguments], tmp_path)
    assert done.returncode in {0, 1}, done.stderr
    assert not done.stderr
    for title in titles:
        assert title in done.stdout
    if name == "peers" and not importlib.util.find_spec("skactiveml"):
        assert "scikit-activeml is not installed" in done.stdout


def test_refuses_a_model_that_does_not_exist(bench, capsys):
    bench("label_efficiency").MODELS["wrong"] = ["river.tree.NoSuchTree"]
    assert bench("label_efficiency").main(["--model", "wrong"]) == 2
    assert "NoSuchTree" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["phishing", "sea", "agrawal", "hyperplane", "rbf", "led"])
def test_a_longer_stream_begins_with_the_shorter_one(bench, name):
    stream = bench("streams").stream
    assert stream(name, 50, 3) == stream(name, 80, 3)[:50]
    assert stream(name, 50, 3) != stream(name, 50, 4)


def test_a_switching_stream_switches_where_it_says(bench):
    streams = bench("streams")
    assert streams.drifts("led", 10_000) == (2_500, 5_000, 7_500)
    assert streams.drifts("hyperplane", 10_000) == ()
    # SEA's labels follow x + y <= threshold, apart from a tenth that is noise: 8 first, 9 later
    between = [(i, y) for i, (x, y) in enumerate(streams.stream("sea", 5_000, 1)) if 8 < x["0"] + x["1"] <= 9]
    early = [y for i, y in between if i < 2_500]
    later = [y for i, y in between if i >= 2_500]
    assert abs(sum(early) / len(early) - sum(later) / len(later)) > 0.6


def test_ids_come_as_often_as_the_setting_says(bench):
    estimation = bench("estimation")
    count = {
        variant: len({name for name, _ in estimation.named("phishing", variant, 1_200, 1)})
        for variant in ("plain", "twice", "few ids")
    }
    assert count == {"plain": 1_200, "twice": 600, "few ids": 300}


def test_labels_needed_is_read_off_between_two_points(bench):
    needed = bench("label_efficiency").labels_needed
    curve = [(100, 0.6), (200, 0.8), (400, 0.75), (800, 0.9)]
    assert needed(curve, 0.7)[0] == pytest.approx(100 * 2**0.5)
    assert needed(curve, 0.79)[0] < 200
    assert needed(curve, 0.85) == (pytest.approx((400 * 800) ** 0.5), "")
    assert needed(curve, 0.95) == (800, ">")
    assert needed(curve, 0.5) == (100, "<")


def test_the_best_peer_is_one_that_keeps_to_the_budget(bench):
    peers = bench("peers")
    own = {"stream_name": "s", "budget": 0.05, "n": 1_000}
    results = [
        {**own, "name": "thrifty", "accuracy": 0.7, "asked": 55},
        {**own, "name": "spendthrift", "accuracy": 0.9, "asked": 300},
    ]
    assert peers.best(results, 0.05) == ("thrifty", 0.7)
    assert peers.best(results, 0.2) is None


def test_late_labels_reach_a_peer_late(bench):
    peers = bench("peers")
    soon = peers.run("lr/random", "phishing", 1, 1.0, 100)
    late = peers.run("lr/random", "phishing", 1, 1.0, 100, delay=99)
    assert late["asked"] == soon["asked"] == 100
    assert late["accuracy"] < soon["accuracy"]


def test_results_are_kept_until_the_version_changes(bench, tmp_path, monkeypatch):
    harness = bench("_harness")
    monkeypatch.setenv("STREAM_AL_BENCH_CACHE", str(tmp_path))
    calls = []

    def double(x):
        calls.append(x)
        return {"twice": 2 * x}

    for version in ("1", "1", "2"):
        answers = harness.Cache.of("test").each(double, [{"x": 1}, {"x": 2}], 0, version=version)
        assert answers == [{"twice": 2}, {"twice": 4}]
    assert calls == [1, 2, 1, 2]
