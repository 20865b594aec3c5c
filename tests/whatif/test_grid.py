"""Cells: derived again they are the same; the oracle does what it is told; the table survives being stopped."""

import dataclasses
import doctest
import threading
from collections import Counter

import pytest

from stream_al import datasets, simulate
from stream_al.logs import configure
from stream_al.simulate import Oracle
from stream_al.whatif import grid
from stream_al.whatif.grid import Cell, Model, Plan, Stream, run_cell, settings_of
from stream_al.whatif.models import PRESETS, UnknownModelError, model
from stream_al.whatif.processes import Stopped
from stream_al.whatif.processes import answers as done_by
from stream_al.whatif.reading import Data, DataError
from stream_al.whatif.results import Table
from stream_al.whatif.summary import summarise

ROWS = list(datasets.stream("bananas", 400, 1))
STREAM = Stream("bananas", Data("bananas", ROWS).digest(), ROWS)
NEVER = threading.Event()
BASE = Model("default", {})


def plan(**changes) -> Plan:
    facts = {
        "strategies": ("margin",),
        "models": (BASE,),
        "budgets": (0.2,),
        "seeds": 1,
        "oracle": Oracle(20),
    }
    return Plan(**{"stream": STREAM} | facts | changes)


def ran(planned, cell=None):
    configure("error")
    result, curves = run_cell(planned, cell or planned.cells[0], NEVER)
    return dataclasses.replace(result, seconds=0.0), curves


def test_the_same_cell_is_the_same_again_and_another_seed_another():
    result, curves = ran(plan())
    assert ran(plan()) == (result, curves)
    assert result.samples == curves.samples[-1] == 400
    assert result.requests == result.labels == result.answers == curves.labels[-1]
    assert result.accuracy == pytest.approx(curves.right[-1] / 400)
    assert result.within_budget
    assert result.labels <= result.allowed
    assert result.low <= result.estimate <= result.high
    other, _ = ran(plan(seeds=2), plan(seeds=2).cells[1])
    assert other.seed == 2
    assert (other.accuracy, other.labels) != (result.accuracy, result.labels)


def test_people_who_are_late_silent_or_wrong_change_what_is_learned():
    on_time, _ = ran(plan())
    late, _ = ran(plan(oracle=Oracle(200)))
    assert late.accuracy < on_time.accuracy
    silent, _ = ran(plan(oracle=Oracle(20, silence=0.5)))
    assert 0.3 * silent.requests < silent.labels == silent.answers < 0.7 * silent.requests
    wrong, _ = ran(plan(oracle=Oracle(20, noise=0.45, classes=(False, True))))
    assert wrong.accuracy < on_time.accuracy - 0.05
    three, _ = ran(plan(oracle=Oracle(20, annotators=3)))
    assert three.answers == 3 * three.labels
    assert (three.accuracy, three.labels) == (on_time.accuracy, on_time.labels)


def answers(n=2_000, **oracle):
    people = Oracle(classes=("a", "b", "c"), **oracle)
    return [people.answer(f"1 0-{i}", "a") for i in range(n)]


def test_the_oracle_is_as_noisy_silent_and_late_as_it_was_told_to():
    waits = [wait for wait, _, _ in answers(delay=300, distribution="exponential")]
    assert 280 < sum(waits) / len(waits) < 320
    assert 180 < sorted(waits)[1_000] < 240  # the median of an exponential is ln 2 of its mean
    said = Counter(label for _, label, _ in answers(noise=0.3))
    assert 500 < said["b"] + said["c"] < 700
    assert abs(said["b"] - said["c"]) < 80
    assert 350 < sum(answer is None for answer in answers(silence=0.2)) < 450
    assert answers(delay=7) == [(7, "a", 1)] * 2_000
    assert answers(noise=0.3, delay=5) == answers(noise=0.3, delay=5)


def test_the_majority_of_more_people_is_right_more_often():
    one, five = (sum(label == "a" for _, label, _ in answers(noise=0.3, annotators=n)) for n in (1, 5))
    assert one < 1_500 < 1_650 < five
    assert all(given < 5 for _, _, given in [a for a in answers(silence=0.9, annotators=5, n=200) if a])


def test_references_ask_at_random_with_larger_budgets_too_and_no_cell_is_run_twice():
    two = plan(strategies=("margin", "random"), budgets=(0.05, 0.1), seeds=2)
    assert [c.budget for c in two.references if c.seed == 1] == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert {c.strategy for c in two.references} == {"random"}
    assert len(two.all) == len({c.key for c in two.all}) == 2 * (2 + 5)
    assert plan(strategies=("random",)).references == []


def test_the_digest_names_all_that_a_result_depends_on():
    first = plan()
    cell = first.cells[0]
    changed = [
        plan(stream=Stream("bananas", "other content", ROWS)),
        plan(stream=Stream("bananas", STREAM.digest, ROWS, shuffled=True)),
        plan(oracle=Oracle(21)),
        plan(overrides=("budget.exploration=0.5",)),
    ]
    others = [
        dataclasses.replace(cell, **{key: value})
        for key, value in {
            "strategy": "entropy",
            "budget": 0.1,
            "seed": 2,
            "model": Model("default", {"a": 1}),
        }.items()
    ]
    digests = [p.digest(cell) for p in (first, *changed)] + [first.digest(other) for other in others]
    assert len(set(digests)) == len(digests)
    assert plan(strategies=("entropy", "margin"), seeds=3).digest(cell) == first.digest(cell)
    assert plan(stream=Stream("a copy", STREAM.digest, ROWS)).digest(cell) == first.digest(cell)


def test_shuffled_streams_have_an_order_for_each_seed():
    mixed = Stream("bananas", "", ROWS, shuffled=True)
    assert mixed.of(1) == mixed.of(1) != mixed.of(2) != ROWS
    assert sorted(map(str, mixed.of(1))) == sorted(map(str, ROWS))
    assert STREAM.of(1) is ROWS


def test_settings_of_a_cell_are_its_own_over_those_that_were_set():
    cell = Cell("entropy", Model("tree", {"spec": PRESETS["tree"]}), 0.03, 7)
    settings = settings_of(plan(overrides=("budget.exploration=0.5", 'strategy="flip"')), cell)
    assert (settings.strategy, settings.seed, settings.budget.fraction) == ("entropy", 7, 0.03)
    assert settings.budget.exploration == 0.5
    assert settings.model.spec == PRESETS["tree"]


def test_the_table_keeps_whole_rows_only(tmp_path):
    result, curves = ran(plan())
    table = Table(tmp_path)
    table.add(result, curves)
    for file in (table.path, table.curves_path):
        with file.open("a") as torn:
            torn.write('{"cell": "x, torn')
    again = Table(tmp_path)
    assert again.results == {result.cell: result}
    other = dataclasses.replace(result, cell="other", estimate=None, low=None, high=None, within_budget=False)
    again.add(other, curves)
    third = Table(tmp_path)
    assert third.results == {result.cell: result, "other": other}
    assert third.curves({"other"}) == {"other": curves}
    third.rewrite([other])
    assert list(Table(tmp_path).results) == ["other", result.cell]


def test_a_file_that_is_no_table_is_not_touched(tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="name another --out"):
        Table(tmp_path)
    assert (tmp_path / "results.csv").read_text() == "a,b\n1,2\n"


def test_a_cell_ends_when_it_is_told_to():
    told = threading.Event()
    told.set()
    with pytest.raises(Stopped):
        next(done_by(run_cell, plan(), plan().cells, 1, told))


def test_labels_that_random_needs_are_read_off_the_cells_at_random():
    planned = plan(strategies=("margin", "random"), budgets=(0.2,))
    accuracies = {"margin": 0.7, 0.2: 0.6, 0.4: 0.8, 0.8: 0.9}
    template, _ = ran(planned)
    results = {}
    for cell in planned.all:
        accuracy = accuracies["margin" if cell.strategy == "margin" else cell.budget]
        results[planned.digest(cell)] = dataclasses.replace(
            template,
            strategy=cell.strategy,
            budget=cell.budget,
            accuracy=accuracy,
            labels=round(100 * cell.budget),
        )
    summary = summarise(planned, results)
    margin, at_random = summary.results
    assert margin.random_labels_for_same_accuracy == pytest.approx((20 * 40) ** 0.5, abs=0.1)
    assert margin.random_labels_bound == ""
    assert at_random.random_labels_for_same_accuracy is None
    assert summary.best.strategy == "margin"
    assert summary.best.times == pytest.approx(2**0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns(name):
    small = Stream("bananas", "", ROWS[:120])
    result, _ = ran(plan(stream=small, models=(model(name, settings_of(plan(), plan().cells[0])),)))
    assert result.labels > 10
    assert result.accuracy > 0.2


def test_a_model_can_be_that_of_another_configuration(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("model: {spec: [river.naive_bayes.GaussianNB], cooperative: true}\nseed: 5\n")
    settings = settings_of(plan(), plan().cells[0])
    assert model(str(file), settings).section == {
        "spec": ["river.naive_bayes.GaussianNB"],
        "cooperative": True,
    }
    with pytest.raises(UnknownModelError, match=r"did you mean logistic\?"):
        model("logstic", settings)


@pytest.mark.parametrize("module", [grid, simulate])
def test_examples(module):
    assert doctest.testmod(module).failed == 0
