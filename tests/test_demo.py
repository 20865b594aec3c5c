"""The demo: what it promises in numbers, how it ends, and what it shows meanwhile."""

import io
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from stream_al.cli.demo import _table
from stream_al.cli.demo_view import ASCII, Lines, Pace, Picture, Scale, bands
from stream_al.config import Settings
from stream_al.core.accuracy import Estimate, Interval
from stream_al.simulate import Progress
from stream_al.web.demo_run import DemoRun

COMMAND = (sys.executable, "-m", "stream_al", "demo")
SHORT = ("--dataset", "phishing", "--samples", "600", "--json")

EMPTY = Estimate(0, 0, 0, 0.0, None, None, None)
KNOWN = Estimate(
    600, 0, 40, 30.0, Interval(0.81, 0.7, 0.92), Interval(0.8, 0.7, 0.9), Interval(0.6, 0.5, 0.7)
)
START = Progress(
    samples=0,
    requests=0,
    labels=0,
    true=0.0,
    estimate=EMPTY,
    window=EMPTY,
    allowed=50.0,
    version=0,
    warming=True,
)
END = replace(
    START, samples=600, requests=45, labels=40, true=0.84, estimate=KNOWN, allowed=80.0, warming=False
)


def demo(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=cwd
    )


@cache
def result(*arguments: str) -> dict:
    """Run the demo once with these arguments; return what it prints as JSON."""
    run = demo(*arguments)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 1, "nothing but JSON is printed"
    return json.loads(lines[0])


def finished(*progress: Progress, **changes) -> DemoRun:
    facts = {"stream": "a stream", "settings": Settings(), "delay": 100, "planned": 600, "allowance": 50}
    return DemoRun(
        **facts | {"progress": progress or (START, END), "dead_letters": 0, "seconds": 1.0} | changes
    )


# The contract of --json


def test_json_holds_what_was_spent_and_how_good_the_model_is():
    said = result(*SHORT)
    assert {
        "samples",
        "label_requests",
        "labels",
        "query_rate",
        "budget",
        "allowance",
        "model_version",
    } <= set(said)
    assert {"accuracy", "dead_letters", "seconds"} <= set(said)
    assert said["samples"] == 600
    assert said["labels"] == said["label_requests"] > 30
    assert said["query_rate"] == pytest.approx(said["label_requests"] / 600, abs=1e-6)
    assert said["dead_letters"] == 0
    accuracy = said["accuracy"]
    assert accuracy["estimator"] == "dr"
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert 0 < accuracy["naive"] < 1
    assert 0.3 < accuracy["true"] < 1


def test_the_budget_is_never_exceeded():
    said = result(*SHORT)
    assert said["within_budget"]
    assert said["budget"] == 0.05
    assert said["allowed"] == pytest.approx(0.05 * 600 + said["allowance"])
    assert said["label_requests"] <= said["allowed"]


def test_the_same_seed_gives_the_same_numbers():
    def numbers(said):
        other = said["comparison"] and numbers(said["comparison"])
        return {key: value for key, value in said.items() if key != "seconds"} | {"comparison": other}

    compared = result(*SHORT, "--compare")
    assert numbers(result(*SHORT, "--compare", "--delay", "100")) == numbers(compared)
    assert compared["comparison"]["strategy"] == "random"
    assert compared["comparison"]["within_budget"]
    assert compared["accuracy"] == result(*SHORT)["accuracy"]


@pytest.mark.parametrize("dataset", ["phishing", "bananas", "segments", "shuttle"])
def test_every_data_set_runs(dataset):
    said = result(
        "--dataset", dataset, "--samples", "320", "--no-compare", "--json", "--seed", "3", "--delay", "0"
    )
    assert said["samples"] == said["planned"] == 320
    assert said["seed"] == 3
    assert said["labels"] > 20
    assert said["model_version"] > 0
    assert said["comparison"] is None


def test_settings_of_the_demo_can_be_changed():
    said = result(*SHORT, "--budget", "0.2", "--strategy", "random", "--set", "budget.exploration=1")
    assert said["strategy"] == "random"
    assert said["budget"] == 0.2
    assert 600 * 0.2 < said["label_requests"] <= said["allowed"]
    assert said["comparison"] is None, "random is not compared with itself"


def test_a_budget_that_is_no_share_has_no_allowed_number():
    said = result(*SHORT, "--no-compare", "--set", "budget.fraction=null", "--set", "budget.per_hour=100")
    assert said["budget"] is None
    assert said["allowed"] is None
    assert said["label_requests"] <= 100


def test_a_wrong_setting_is_explained_and_a_wrong_option_is_misuse(tmp_path):
    wrong = demo("--set", "budget.fraction=2")
    assert wrong.returncode == 78
    assert "budget.fraction" in wrong.stderr
    numbers = demo("--set", "model.task=regression", cwd=tmp_path)
    assert numbers.returncode == 78
    assert "--set model.task: the demo's data sets have classes, no numbers" in numbers.stderr
    assert demo("--dataset", "nothing").returncode == 2


# The summary


def test_the_summary_is_plain(tmp_path):
    run = demo("--dataset", "phishing", "--samples", "600", "--report", "out", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    words = " ".join(run.stdout.split())
    assert "Asked for " in words
    assert " of 600 labels (" in words
    assert "; allowed: 80)." in words
    assert "At no point was more asked for than allowed." in words
    assert "Judging by the labelled samples alone would have said " in words
    assert "With the same budget, asking at random reached " in words
    assert f"Report: {Path('out/report.html')}" in words
    assert "stream-al run" in words
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / ".stream-al").exists(), "the demo leaves nothing behind"


def test_the_table_loses_nothing_on_a_narrow_terminal():
    console = Console(width=45, file=io.StringIO())
    console.print(_table(finished()))
    said = console.file.getvalue()
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 45


def test_caps_are_told_as_what_spreads_the_requests():
    settings = Settings().model_copy(update={"budget": Settings().budget.model_copy(update={"per_hour": 20})})
    said = " ".join(finished(settings=settings).sentences())
    assert "one in 3 min on average; the stream takes 6.0 s of its own time, at 100 samples a second." in said


def test_sentences_of_a_run():
    assert finished().sentences() == [
        "Asked for 45 of 600 labels (7.5 %; allowed: 80).",
        "At no point was more asked for than allowed.",
        "Honest accuracy 81.0 % [70.0, 92.0]; true: 84.0 %.",
        "Judging by the labelled samples alone would have said 60.0 %, 24.0 points too low.",
    ]


def test_a_true_value_outside_the_interval_is_said():
    assert "outside the interval" in " ".join(finished(START, replace(END, true=0.95)).sentences())


def test_a_broken_budget_is_said_even_if_it_is_mended_later():
    broken = replace(END, samples=64, requests=60, allowed=53.2)
    run = finished(START, broken, END)
    assert not run.within_budget
    assert "that is a bug" in " ".join(run.sentences())


def test_a_stopped_run_says_so():
    run = finished(planned=5_000)
    assert run.sentences()[0] == "Stopped after 600 of 5,000 samples; 5 answers were still to come."
    assert not run.complete


def test_no_answer_yet_is_said():
    run = finished(START, replace(END, estimate=EMPTY))
    assert "nothing is known of the accuracy" in " ".join(run.sentences())
    assert run.figures()["accuracy"]["value"] is None


@pytest.mark.parametrize(
    ("random", "verdict"),
    [
        (0.8, "asking by margin won by 4.0 points"),
        (0.88, "asking at random was better, by 4.0 points"),
        (0.842, "asking by margin made no difference to speak of"),
    ],
)
def test_the_comparison_is_honest(random, verdict):
    settings = Settings().model_copy(update={"strategy": "random"})
    other = finished(START, replace(END, true=random), settings=settings)
    assert f"On this stream {verdict}." in " ".join(finished(comparison=other).sentences())


# While it runs


def test_ctrl_c_ends_with_what_is_known():
    command = [*COMMAND, "--samples", "400000", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr.readline().startswith("asking by margin: ")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=20)
    assert run.returncode == 130, err
    said = json.loads(out.splitlines()[-1])
    assert 0 < said["samples"] < said["planned"] == 400_000
    assert said["within_budget"]


def test_figures_are_served_until_ctrl_c():
    command = [*COMMAND, *SHORT, "--no-compare", "--serve", "--set", "http.port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        lines = iter(run.stderr.readline, "")
        url = next(line for line in lines if "Serving" in line).split()[1].removesuffix("/metrics,")
        for page in ("healthz", "readyz"):
            assert urllib.request.urlopen(f"{url}/{page}", timeout=5).status == 200
        metrics = urllib.request.urlopen(f"{url}/metrics", timeout=5).read().decode()
        question = _asked(url)
        answer = {"request_id": question["request_id"], "label": question["id"], "new_class": True}
        assert _post(f"{url}/labels", answer)["state"] == "answered"
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=20)
    assert run.returncode == 0, err
    said = json.loads(out)
    requested = re.search(r'stream_al_samples_total\{outcome="requested"\} ([\d.]+)', metrics)
    assert float(requested[1]) >= said["label_requests"]  # the stream has gone on


def _asked(url):
    """Wait for a question to whoever looks at the demo."""
    deadline = time.monotonic() + 30
    while not (found := _post(f"{url}/requests/lease", {"count": 1})["questions"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found[0]


def _post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=5).read())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_view_fits_the_terminal(width):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=40, color_system=None)
    picture = Picture("phishing (web pages, phishing or not)", 600, 100, console)
    assert "loading" in screen.getvalue()
    picture.begin(Settings())
    picture.turn(replace(START, samples=64, requests=20))
    picture.turn(END)
    picture.end()
    paper = Console(file=io.StringIO(), width=width, color_system=None)
    paper.print(picture.render())
    lines = paper.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "45 asked for of 80 allowed" in text
    assert "7.5 % (budget 5.0 %)" in text
    assert "81.0 % [70.0, 92.0]" in text
    assert "100%" in text
    assert "active" in text


def test_accuracies_stand_on_one_scale():
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(bands(END, 76, ASCII))
    scale, honest, true, naive = console.file.getvalue().splitlines()
    assert scale.split() == ["accuracy", "50", "%", "75", "%", "100", "%"]
    assert honest.index("[") < honest.index("o", 14) < true.index("#") < honest.index("]")
    assert naive.index("x") < honest.index("[")


def test_a_scale_keeps_what_is_outside_at_its_ends():
    scale = Scale(0.5, 11, ASCII)
    assert scale.mark(Interval(0.0, 0.0, 0.0), "true", "default").plain == "#.........."
    assert scale.mark(Interval(0.75, 0.6, 1.0), "honest", "default").plain == "..[--o----]"
    assert scale.mark(None, "true", "default").plain == "." * 11


def test_the_pace_leaves_out_the_first_turn_and_those_after_the_last_sample():
    pace = Pace(192)
    assert pace.left == ""
    pace.see(64)
    assert not pace.rate
    time.sleep(0.02)
    pace.see(128)
    assert pace.left.endswith(" s left")
    pace.see(192)
    rate = pace.rate
    pace.see(192)
    assert pace.rate == rate
    assert pace.left == "done"


def test_lines_come_now_and_then(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("stream_al.cli.demo_view.time.monotonic", lambda: clock[0])
    lines = Lines(600)
    lines.begin(Settings())
    for seconds, now in ((0.5, replace(START, samples=64)), (1.5, replace(START, samples=128)), (3.0, END)):
        clock[0] = seconds
        lines.turn(now)
    said = capsys.readouterr()
    assert not said.out
    line = (
        "asking by margin: 600 of 600 samples, 214/s, done; 45 labels asked for,"
        " accuracy 81.0 % [70.0, 92.0], true 84.0 %\n"
    )
    assert said.err == line
