"""``simulate``: what it writes, what it prints, how it goes on, and what it says of bad input."""

import csv
import json
import os
import random
import re
import signal
import sys
from collections import defaultdict
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stream_al import datasets
from stream_al.config import load
from stream_al.simulate import Simulation
from stream_al.transport.port import Output
from stream_al.whatif.scenarios import SCENARIOS
from tests.cli.conftest import jsons, until

FEW = ("--samples", "300", "--budgets", "0.2", "--delay", "10")
KEYS = {
    "strategy", "model", "budget", "seed", "samples", "labels", "accuracy", "estimate", "low", "high",
    "random_labels_for_same_accuracy",
}  # fmt: skip


@cache
def rows():
    return list(datasets.stream("bananas", 400, 1))


@pytest.fixture
def file(place):
    """A labelled CSV, in a directory without a config.yaml."""
    (place / "config.yaml").unlink()
    with (place / "data.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([*rows()[0][0], "banana"])
        writer.writerows([*x.values(), "long" if y else "round"] for x, y in rows())
    return "data.csv"


def results(out="simulation"):
    with Path(out, "results.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def test_everything_is_written_and_says_the_same(cli, file):
    done = cli("simulate", file, "--label", "banana", *FEW, "--strategies", "margin,random", "--seeds", "2", "--jobs", "1", "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    cells = jsons(done.stdout)
    assert [(c["strategy"], c["seed"]) for c in cells] == [("margin", 1), ("random", 1), ("margin", 2), ("random", 2)]  # fmt: skip
    assert all(set(c) >= KEYS for c in cells)
    for cell in cells:
        assert cell["samples"] == 300
        assert 40 < cell["labels"] <= 0.2 * 300 + 100 + 40
        assert cell["low"] <= cell["estimate"] <= cell["high"]
    assert all((c["random_labels_for_same_accuracy"] is None) == (c["strategy"] == "random") for c in cells)

    table = results()
    assert len(table) == 2 * (2 + 2), "the references, with more budget, are in the table, too"
    for cell, row in zip(cells, table, strict=False):
        assert {key: row[key] for key in KEYS} == {k: "" if cell[k] is None else str(cell[k]) for k in KEYS}

    page = Path("simulation/report.html").read_text()
    assert "data.csv" in page
    assert "http" not in page, "nothing is fetched"
    assert json.loads(page.split('id="figures">')[1].split("</script>")[0]) == cells
    Balanced(page)

    settings = load(Path("simulation/config.yaml"), environ={})
    assert settings.budget.fraction == 0.2
    assert settings.strategy in {"margin", "random"}
    assert Path("simulation/config.yaml").read_text().startswith("# Chosen by stream-al simulate")
    assert cli("check", "--config", "simulation/config.yaml").exit_code == 0

    pictures = {path.stem for path in Path("simulation").glob("*.png")}
    assert pictures == {"accuracy-labels-1", "random-labels-1", "along-the-stream", "spent", "estimate-truth"}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in Path("simulation").glob("*.png"))

    before = Path("simulation/results.csv").read_bytes()
    again = cli("simulate", file, "--label", "banana", *FEW, "--strategies", "margin,random", "--seeds", "2")
    assert "8 of 8 cells are done already" in again.stderr
    assert "Best: asking " in again.stdout
    assert Path("simulation/results.csv").read_bytes() == before
    more = cli(
        "simulate", file, "--label", "banana", *FEW, "--strategies", "random", "--seeds", "3", "--jobs", "1"
    )
    assert "2 of 3 cells are done already" in more.stderr
    assert len(results()) == 9


class Balanced(HTMLParser):
    """Checks that every element is closed in its order."""

    def __init__(self, html):
        super().__init__()
        self.open = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_samples_of_a_topic_with_their_labels_are_data(cli, broker):
    lines = [
        json.dumps({"id": f"s-{i}", "features": x, "banana": "long" if y else "round"})
        for i, (x, y) in enumerate(rows()[:300])
    ]
    lines[5:5] = ["not json", json.dumps({"id": "no-label", "features": rows()[0][0]})]
    broker.append([Output("samples", line.encode(), partition=0) for line in lines])
    args = ("--budgets", "0.2", "--strategies", "random", "--jobs", "1", "--json")
    done = cli("simulate", "topic:samples", "--label", "banana", *args)
    assert done.exit_code == 0, done.stderr
    assert [c["samples"] for c in jsons(done.stdout)] == [300]
    assert "2 rows without a label are left out" in done.stderr
    wrong = cli("simulate", "topic:samples", "--label", "bananas", *args)
    assert "did you mean banana" in wrong.stderr
    assert "there is no topic nothing" in cli("simulate", "topic:nothing", "--label", "x", *args).stderr


def test_challengers_do_not_compete_in_a_grid(settings):
    from stream_al.cli.simulating import _base

    made = settings(
        "challengers=[{name: bayes, spec: [river.naive_bayes.GaussianNB]}]", "accuracy.random_twin=true"
    )
    assert not [text for text in _base(made) if text.startswith(("challengers", "accuracy"))]


@pytest.mark.slow
def test_processes_find_what_one_process_finds_and_stopping_keeps_what_is_done(program, cli, file):
    arguments = ("simulate", file, "--label", "banana", *FEW, "--strategies", "random", "--seeds", "3")
    stopped = program(*arguments, "--jobs", "2", "--out", "two")
    until(lambda: Path("two/results.csv").exists() and len(results("two")) >= 1, 30)
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=30)
    assert stopped.returncode == 130, said
    assert "Traceback" not in said
    kept = results("two")
    assert 1 <= len(kept) < 3
    assert f"Stopped: {len(kept)} of 3 cells are in two/results.csv" in said

    assert cli(*arguments, "--jobs", "1", "--out", "two").exit_code == 0
    assert cli(*arguments, "--jobs", "1", "--out", "one").exit_code == 0
    assert without_times(results("two")) == without_times(results("one"))


def without_times(table):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table]


def test_the_configuration_is_the_base_and_its_secrets_stay_where_they_are(cli, file):
    Path("base.yaml").write_text(
        "budget: {exploration: 0.5, fraction: 0.01}\nmodel: {spec: [river.naive_bayes.GaussianNB]}\n"
        "broker: {url: 'kafka://broker:9092', client: {sasl_plain_password: hush}}\ngroup: mine\n"
    )
    done = cli("simulate", file, "--label", "banana", *FEW, "--strategies", "random", "--config", "base.yaml")
    assert done.exit_code == 0, done.stderr
    chosen = load(Path("simulation/config.yaml"), environ={})
    assert chosen.model.spec == ["river.naive_bayes.GaussianNB"]
    assert (chosen.budget.exploration, chosen.budget.fraction) == (0.5, 0.2)
    assert (chosen.broker.url, chosen.group) == ("kafka://broker:9092", "mine")
    text = Path("simulation/config.yaml").read_text()
    assert "hush" not in text
    assert "# Left out, a secret: broker.client.sasl_plain_password." in text


def test_without_matplotlib_the_rest_is_written(cli, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("simulate", file, "--label", "banana", *FEW, "--strategies", "random", "--jobs", "1")
    assert done.exit_code == 0
    assert "pip install 'stream-al[plots]'" in done.stderr
    assert Path("simulation/report.html").exists()
    assert not list(Path("simulation").glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("data.csv", "--label", "bannana"), 2, "did you mean banana?"),
        (("data.csv",), 2, "which column holds the label? Write --label COLUMN"),
        (("data.csv", "--label", "banana", "--strategies", "margn"), 2, "did you mean margin?"),
        (("data.csv", "--label", "banana", "--models", "logistics"), 2, "did you mean logistic?"),
        (("data.csv", "--label", "banana", "--models", "none.yaml"), 78, "none.yaml"),
        (("data.csv", "--label", "banana", "--budgets", "5%"), 2, "no list of shares"),
        (("data.csv", "--label", "banana", "--budgets", "1.5"), 2, "no list of shares"),
        (("data.csv", "--label", "banana", "--noise", "1"), 2, "not from 0 to below 1"),
        (("data.csv", "--label", "banana", "--samples", "50"), 1, "at least 100 are needed"),
        (("data.csv", "--label", "1", "--set", "model.task=regression"), 78, "classes, no numbers"),
        (("data.csv", "--label", "banana", "--set", "model.classes=[long, short]"), 78, "class 'round', too"),
        (("data.csv", "--label", "banana", "--set", "model.spec=[river.nothing]"), 78, "river.nothing"),
        (("bannanas",), 1, "did you mean bananas?"),
        (("nothing.csv", "--label", "x"), 1, "there is no file nothing.csv"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_run(cli, file, arguments, code, said):
    done = cli("simulate", *arguments)
    assert done.exit_code == code, done.output
    assert said in " ".join(done.output.replace("│", " ").split())
    assert not Path("simulation").exists()


@pytest.mark.parametrize("name", ["cooperative", "self-supervised"])
def test_a_scenario_of_grids_is_told_as_an_experiment(cli, file, name):
    lines = Path(file).read_text().splitlines(keepends=True)
    Path(file).write_text("".join(lines[:150]))
    done = cli(
        "simulate",
        file,
        "--label",
        "banana",
        "--scenario",
        name,
        "--quick",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--json",
    )
    assert done.exit_code == 0, done.stderr
    outcomes = jsons(done.stdout)
    assert len(outcomes) == 4
    assert sum(o["arm"].startswith("without, ") for o in outcomes) == 2
    assert {"report.html", "results.csv", "outcomes.csv", "findings.md"} <= {
        p.name for p in Path("simulation").iterdir()
    }
    assert [float(row["accuracy"]) for row in results()]
    again = cli("simulate", file, "--label", "banana", "--scenario", name, "--quick", "--seeds", "1")
    assert "4 of 4 cells are done already" in again.stderr
    assert "against without, 1 %" in again.stdout


def texts(path, n=900):
    """Write texts of two classes; the words that tell them apart are as common as words are (Zipf)."""
    draw = random.Random(7)
    weights = [1 / (i + 1) for i in range(200)]
    words = {kind: [f"{kind}{i}" for i in range(200)] for kind in ("a", "b", "w")}
    with Path(path).open("w") as out:
        for i in range(n):
            label, other = draw.sample("ab", 2)
            parts = [(label, 3), (other, 1), ("w", 12)]
            said = [word for kind, k in parts for word in draw.choices(words[kind], weights, k=k)]
            draw.shuffle(said)
            row = {"text": " ".join(said), "split": "test" if i % 3 == 0 else "train", "label": label}
            out.write(json.dumps(row) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_experiment_comes_out_in_its_direction(cli, place, name):
    (place / "config.yaml").unlink()
    data = (texts("texts.jsonl"), "--label", "label") if name == "text-newsgroups" else ()
    done = cli("simulate", *data, "--scenario", name, "--quick", "--jobs", "2", "--json")
    assert done.exit_code == 0, done.stderr
    scenario, reached = SCENARIOS[name], defaultdict(list)
    for outcome in jsons(done.stdout):
        reached[outcome["arm"]].append(outcome["accuracy"])
    assert {len(seeds) for seeds in reached.values()} == {scenario.quick_seeds}
    mean = {arm: sum(seeds) / len(seeds) for arm, seeds in reached.items()}
    for arm in scenario.beats:
        assert mean[arm] > mean[scenario.baseline], mean
    assert "should be better and is not" not in Path("simulation/findings.md").read_text()
    assert Path("simulation/report.html").stat().st_size > 10_000


def test_a_scenario_that_is_not_there(cli, place):
    done = cli("simulate", "--scenario", "syntesis")
    assert done.exit_code == 2
    assert "did you mean synthesis?" in " ".join(done.output.replace("│", " ").split())
    assert cli("simulate").exit_code == 2


def test_what_other_budgets_would_have_found_is_told_from_the_ledger(cli, settings):
    empty = cli("simulate", "--from-broker")
    assert empty.exit_code == 1
    assert "does not exist" in empty.stderr
    with Simulation(settings(), rows(), path="log.db") as simulation:
        for _ in simulation.run():
            pass
        learned = simulation.fold.learned
    done = cli(
        "simulate", "--from-broker", "--strategies", "margin,flip,random", "--budgets", "0.1,0.3", "--json"
    )
    assert done.exit_code == 0, done.stderr
    found = jsons(done.stdout)
    assert [(c["strategy"], c["budget"]) for c in found] == [(s, b) for s in ("margin", "flip", "random") for b in (0.1, 0.3)]  # fmt: skip
    small, large = found[:2]
    assert 0 <= small["low"] <= small["mistakes"] <= large["mistakes"] <= large["high"] <= 1
    assert small["threshold"] >= large["threshold"]
    assert (small["labels"], large["labels"]) == (40, 120)
    assert found[2]["mistakes"] is None
    assert "The model is judged as it was" in done.stderr
    told = cli("simulate", "--from-broker", "--budgets", "0.1")
    used, cold = (
        int(re.search(rf"(\d+) labels{text}", told.output).group(1))
        for text in (", weighted", " are left out")
    )
    assert used + cold == learned


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers in /proc")
@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_of_and_what_is_done_is_kept(program, cli, file):
    arguments = (
        "simulate",
        file,
        "--label",
        "banana",
        *FEW,
        "--strategies",
        "random",
        "--seeds",
        "40",
        "--jobs",
        "2",
    )
    parent = program(*arguments)
    until(lambda: Path("simulation/results.csv").exists() and results(), 30)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    worker = next(c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    _, said = parent.communicate(timeout=30)
    assert parent.returncode == 1
    assert "a process was ended from outside" in said
    assert "Traceback" not in said
    assert results()
