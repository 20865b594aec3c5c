"""The experiments: in a small form, with the direction that they should have."""

import json
import re
import threading
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from stream_al.core.model import Model
from stream_al.web.curves import standalone
from stream_al.web.report import style
from stream_al.whatif import experiment, pool
from stream_al.whatif.experiment import Difference, Findings, Outcome, document, of_pool, page, write
from stream_al.whatif.models import PRESETS
from stream_al.whatif.pool import SYNTHESIS, Task, learn_from_pool
from stream_al.whatif.processes import Stopped, answers
from stream_al.whatif.reading import Data, DataError
from stream_al.whatif.scenarios import CEAL, SCENARIOS, STREAM, Work, run_arm
from stream_al.whatif.synthetic import clusters

NEVER = threading.Event()
POOLS = [name for name, scenario in SCENARIOS.items() if scenario.task]
WORDS = {"a": ("sun", "sea", "sand"), "b": ("snow", "ice", "frost")}
TEXTS = Data(
    "texts",
    [
        (
            {
                "text": " ".join([WORDS[y][i % 3], "the", f"w{i % 11}"]),
                "split": "test" if i % 4 == 0 else "train",
            },
            y,
        )
        for i in range(400)
        for y in ["ab"[i * 7 % 5 % 2]]
    ],
)


def small(name, start=10, rounds=4):
    rows = clusters(260, 3, flipped=0.1)
    return Task(rows[60:], rows[:60], PRESETS[name], start=start, rounds=rounds, batch=3)


def test_least_confidence_beats_random_on_the_samples_of_the_article():
    scenario, seeds = SCENARIOS["pool-least-confidence"], 8
    work = Work(scenario.name, None, "quick")
    tasks = [(arm, seed) for arm in scenario.arms for seed in range(1, seeds + 1)]
    curves = {(arm, seed): curve for arm, seed, curve in answers(run_arm, work, tasks, 1, NEVER)}
    assert all([n for n, _ in curve] == list(range(90, 111)) for curve in curves.values())
    found = of_pool(scenario, "made-up samples", seeds, curves)
    assert found.holds
    assert found.differences[0].mean > 2
    best = found.charts[0].lines[0]
    assert (best.points[0][0], best.points[-1][0]) == (90, 110)


def test_a_learning_curve_is_the_same_again_and_asks_for_each_sample_once():
    curve = learn_from_pool(small("bayes"), "least_confidence", 1, NEVER)
    assert curve == learn_from_pool(small("bayes"), "least_confidence", 1, NEVER)
    assert curve != learn_from_pool(small("bayes"), "random", 1, NEVER)
    assert [n for n, _ in curve] == [10, 13, 16, 19, 22]
    all_of_it = small("bayes", start=8, rounds=64)
    ends = {learn_from_pool(all_of_it, way, 1, NEVER)[-1][0] for way in ("margin", SYNTHESIS)}
    assert ends == {200}


def test_what_is_composed_lies_on_the_boundary_and_is_a_real_sample():
    model = Model(PRESETS["logistic"], classes=(False, True), seed=1)
    rng = np.random.default_rng(1)
    real = rng.uniform(0, 10, size=(300, 2))
    features = [{"x": x, "z": z} for x, z in real.tolist()]
    for row in features:
        model.learn(row, row["x"] > 5)
    low, high = real.min(axis=0), real.max(axis=0)
    for _ in range(5):
        point = pool._on_boundary(model, ["x", "z"], low, high, rng)
        [p] = model.predict([dict(zip(("x", "z"), point, strict=True))])
        assert abs(p[0] - 0.5) < 0.02
    places = pool._composed(model, features, 20, rng)
    assert len(set(places)) == 20
    assert abs(np.mean([features[i]["x"] for i in places]) - 5) < 1


def test_what_the_learner_is_sure_of_changes_what_it_learns(monkeypatch):
    plain = learn_from_pool(small("bayes"), "random", 1, NEVER)
    assert learn_from_pool(small("bayes"), "random", 1, NEVER, sure=True) != plain
    monkeypatch.setattr(pool, "SURE", 0.0)
    assert learn_from_pool(small("bayes"), "random", 1, NEVER, sure=True) == plain


@pytest.mark.parametrize("arm", SCENARIOS["text-newsgroups"].arms)
def test_texts_are_learned_from_a_pool_and_from_a_stream(arm):
    name, seed, curve = run_arm(Work("text-newsgroups", TEXTS, "quick"), (arm, 1), NEVER)
    assert (name, seed) == (arm, 1)
    assert curve[0][1] < curve[-1][1] > 0.9
    assert curve[-1][0] <= 130
    assert [n for n, _ in curve] == sorted({n for n, _ in curve})


def test_the_text_experiment_asks_for_a_file_of_texts():
    for data in (None, Data("numbers", [({"x": 1.0}, "a"), ({"x": 2.0}, "b")])):
        with pytest.raises(DataError, match="two classes"):
            run_arm(Work("text-newsgroups", data, "quick"), ("margin", 1), NEVER)


def test_an_arm_ends_when_it_is_told_to():
    told = threading.Event()
    told.set()
    for arm in ("margin", STREAM + "margin"):
        with pytest.raises(Stopped):
            run_arm(Work("synthesis", None, "quick"), (arm, 1), told)


def findings(mean, *, half=1.0, arm="margin"):
    scenario = SCENARIOS["strategies"]
    outcomes = (Outcome(arm, 1, 50, 0.8), Outcome("random", 1, 50, 0.8 - mean / 100))
    return Findings(scenario, "bananas", 5, outcomes, (Difference(arm, "random", mean, half),), ())


@pytest.mark.parametrize(
    ("found", "holds", "said"),
    [
        (findings(3.0), True, "+3.0 ± 1.0 points: better."),
        (findings(0.5), True, "no difference that 5 seeds could show"),
        (findings(-0.5), False, "it should be better and is not"),
        (findings(-3.0, arm="diversity"), True, "-3.0 ± 1.0 points: worse."),
    ],
)
def test_what_does_not_come_out_as_it_should_is_said(found, holds, said):
    assert found.holds is holds
    assert said in found.sentences()[0]


def test_arms_are_compared_with_the_baseline_in_their_own_setting():
    text, grid, ceal = (SCENARIOS[name] for name in ("text-newsgroups", "cooperative", "cooperative-pool"))
    assert experiment._baseline(STREAM + "margin", text, text.arms) == STREAM + "random"
    assert experiment._baseline("margin", text, text.arms) == "random"
    arms = ["without, 1 %", "cooperative, 1 %", "without, 5 %", "cooperative, 5 %"]
    assert experiment._baseline("cooperative, 5 %", grid, arms) == "without, 5 %"
    assert experiment._baseline("random" + CEAL, ceal, ceal.arms) == "random"


def test_a_report_and_its_pictures_stand_on_their_own(tmp_path):
    scenario = SCENARIOS["synthesis"]
    curves = {(arm, seed): [(10, 0.5 + seed / 100), (20, 0.7)] for arm in scenario.arms for seed in (1, 2)}
    found = of_pool(scenario, "samples", 2, curves)
    write(tmp_path / scenario.name, found)
    html = page(found)
    assert "http" not in html
    assert len(json.loads(html.split('id="figures">')[1].split("</script>")[0])) == 8
    svg = ET.fromstring(standalone(found.charts[0], style()))
    names = {"".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {scenario.title, *scenario.arms, "labels"} <= names

    (tmp_path / "docs").mkdir()
    document(tmp_path, tmp_path / "docs")
    told = (tmp_path / "docs" / "experiments.md").read_text()
    [picture] = re.findall(r"\((experiments/.*?)\)", told)
    assert (tmp_path / "docs" / picture).stat().st_size < 60_000
    assert "| synthesis | 20 | 70.0 ± 0.0 | +0.0 ± 0.0 | random |" in told
