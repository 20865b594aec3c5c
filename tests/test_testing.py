"""The driver for users' own tests does what the service does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from stream_al import testing
from stream_al.config import ConfigError
from stream_al.core.messages import Bucket, Expired, Genesis, Learned, Skipped
from stream_al.testing import Driver

BAYES = "model.spec=[river.naive_bayes.GaussianNB]"


def sample(i):
    return {"id": f"s-{i}", "features": {"x": float(i % 10)}}


def truth(request):
    return "high" if request.features["x"] > 4 else "low"


@pytest.fixture
def driver():
    with Driver("budget.fraction=0.5", BAYES) as made:
        yield made


def taught(driver, n=120):
    for i in range(n):
        driver.send(sample(i))
        for request in driver.open:
            driver.label(request, truth(request))
    return driver


def test_samples_go_in_and_requests_ledger_and_metrics_come_out(driver):
    taught(driver)
    driver.advance(20)
    kinds = [type(r) for r in driver.ledger]
    assert kinds[0] is Genesis
    assert (
        kinds.count(Learned)
        == len(driver.requests)
        == driver.metric("stream_al_labels_total", "learned")
        > 20
    )
    assert Bucket in kinds
    assert driver.metric("stream_al_samples_total", "requested") == len(driver.requests)
    assert driver.metric("stream_al_accuracy_ratio", "dr", "all") > 0.5
    assert driver.metric("stream_al_label_wait_seconds") == len(driver.requests)
    assert driver.predict({"x": 9.0}).label == "high"
    assert driver.open == driver.dead_letters == []


def test_it_is_the_same_each_time():
    def run():
        with Driver("budget.fraction=0.5", BAYES) as driver:
            return [(r.id, r.query.coin, r.model) for r in taught(driver).requests]

    assert run() == run()


def test_a_skip_an_unknown_id_and_a_broken_sample_are_told(driver):
    driver.send(*(sample(i) for i in range(60)), b"{broken")
    first = driver.open[0]
    driver.skip(first, annotator="ann")
    driver.label("nobody", "high")
    assert [r.id for r in driver.ledger if isinstance(r, Skipped)] == [first.id]
    assert first not in driver.open
    assert [(x.reason, x.topic, x.value) for x in driver.dead_letters] == [
        ("not_json", "samples", b"{broken")
    ]
    driver.advance(61)
    assert [x.reason for x in driver.dead_letters] == ["not_json", "unknown_request"]


def test_time_passes_for_requests_and_caps():
    with Driver("budget.fraction=null", "budget.per_hour=6", "labels.ttl_s=100", BAYES) as driver:
        for i in range(300):
            driver.send(sample(i))
            driver.advance(5)
        stamps = [r.requested_at for r in driver.requests]
        assert 2 <= len(stamps) <= 6
        driver.advance(3_600)
        assert len([r for r in driver.ledger if isinstance(r, Expired)]) == len(stamps)
        assert driver.open == []


def test_a_restart_knows_all_from_the_topics(driver):
    taught(driver, 60)
    driver.send(*(sample(i) for i in range(60, 90)))
    before = driver.predict({"x": 1.0}), driver.open, len(driver.ledger)
    assert before[1]
    driver.restart()
    assert (driver.predict({"x": 1.0}), driver.open, len(driver.ledger)) == before


def test_settings_come_from_a_file_and_what_stands_after_it_and_not_from_the_environment(
    tmp_path, monkeypatch
):
    file = tmp_path / "config.yaml"
    file.write_text("broker: {partitions: 3}\nseed: 4\n")
    monkeypatch.setenv("STREAM_AL_SEED", "5")
    with Driver("strategy=entropy", config=file) as driver:
        assert (driver.settings.broker.partitions, driver.settings.seed) == (3, 4)
        assert driver.settings.strategy == "entropy"
        driver.send(*(sample(i) for i in range(9)), partition=2)
        assert {r.source.partition for r in driver.requests} <= {2}
    with pytest.raises(ConfigError, match=r"budget\.fraction"):
        Driver("budget.fraction=2")


def test_a_metric_that_is_not_there_is_an_error(driver):
    with pytest.raises(KeyError):
        driver.metric("stream_al_no_such_total")


def test_the_examples_hold():
    assert doctest.testmod(testing).failed == 0
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        names = {}
        exec(example, names)
        tests = [run for name, run in names.items() if name.startswith("test_")]
        assert tests
        for run in tests:
            run()
