"""MAE and RMSE cover the truth, whatever was asked; a fold of numbers is total and the same after a snapshot."""

from __future__ import annotations

import doctest
import math
import pickle

import numpy as np
import pytest

from stream_al.core import regression
from stream_al.core.accuracy import MOST_BUCKETS, Accuracy, Interval
from stream_al.core.classification import Insufficient
from stream_al.core.estimate import Terms
from stream_al.core.fold import WARM_LABELS, Fold
from stream_al.core.messages import (
    Bucket,
    Budget,
    Genesis,
    Learned,
    Observe,
    Query,
    Sample,
    Shown,
    Skipped,
    Source,
    Sums,
    timestamp,
)
from stream_al.core.regression import Missed
from stream_al.core.scorer import Scorer

NOW = 1_800_000_000_000
SPEC = ["river.preprocessing.StandardScaler", "river.linear_model.LinearRegression"]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(regression).failed == 0


# --- estimates ---------------------------------------------------------------------------------------------------


def bucket(number, start, p, *, answered=None):
    n = len(p)
    sums = Sums(
        samples=n, uncovered=int((p == 0).sum()), sum_p=p.sum(), answered=n if answered is None else answered
    )
    return Bucket(number, {0: (start, start + n)}, sums, timestamp(0), timestamp(1000))


def credit(accuracy, k, p, error):
    accuracy.label(0, k, Terms(unlabelled=1), Missed.of(p, 0.0, error))


def universe(seed, *, n=2000, skew=0.0, lost=0.0):
    """Return the accuracy, and the errors of all samples, after n samples of which the rare ones are asked for more."""
    rng = np.random.default_rng(seed)
    spread = np.where(rng.random(n) < 0.15, 3.0, 1.0)  # the rare region is harder
    errors = spread * np.abs(rng.standard_normal(n)) * np.exp(skew * rng.standard_normal(n))
    p = np.where(spread > 1, 0.25, 0.08)
    asked = np.flatnonzero((rng.random(n) < p) & (rng.random(n) >= lost))
    accuracy, late = Accuracy(), []
    for i in range(0, n, 100):
        accuracy.bucket(bucket(i // 100, i, p[i : i + 100]))
        late += [k for k in asked.tolist() if i <= k < i + 100]
        while len(late) > 30:  # answers come late, in another order
            k = late.pop(int(rng.integers(len(late))))
            credit(accuracy, k, p[k], float(errors[k]))
    for k in late:
        credit(accuracy, k, p[k], float(errors[k]))
    return accuracy, errors


@pytest.mark.parametrize("window", [1000, None])
@pytest.mark.parametrize(
    ("skew", "lost"), [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0)], ids=["plain", "lost", "skewed"]
)
def test_bias_and_coverage(window, skew, lost):
    rows = []
    for seed in range(200):
        accuracy, errors = universe(seed, skew=skew, lost=lost)
        known, errors = accuracy.errors(window), errors[-(window or len(errors)) :]
        mae, rmse = errors.mean(), math.sqrt((errors**2).mean())
        rows.append((
            known.mae.value / mae - 1, known.rmse.value / rmse - 1, known.naive_mae / mae - 1,
            known.mae.low <= mae <= known.mae.high, known.rmse.low <= rmse <= known.rmse.high,
        ))  # fmt: skip
    bias_mae, bias_rmse, bias_naive, covered_mae, covered_rmse = np.mean(rows, axis=0)
    assert abs(bias_mae) < 0.02
    assert abs(bias_rmse) < 0.03
    assert bias_naive > 0.1, "the naive error is far too high: more was asked where the model is worse"
    assert 0.91 <= covered_mae <= 0.99
    assert 0.90 <= covered_rmse <= 0.99


def test_everything_labelled_leaves_no_doubt():
    rng, accuracy = np.random.default_rng(0), Accuracy()
    errors = rng.exponential(size=300)
    accuracy.bucket(bucket(0, 0, np.ones(300)))
    for k, error in enumerate(errors.tolist()):
        credit(accuracy, k, 1.0, error)
    known = accuracy.errors(None)
    assert known.mae.value == pytest.approx(errors.mean())
    assert known.mae.high - known.mae.low == pytest.approx(0.0, abs=1e-6)
    assert known.rmse.value == pytest.approx(math.sqrt((errors**2).mean()))
    assert known.rmse.value == pytest.approx(known.naive_rmse)
    assert (known.samples, known.labels, known.effective) == (300, 300, pytest.approx(300))


def test_few_labels_have_no_interval():
    accuracy = Accuracy()
    assert accuracy.errors(None).mae == Insufficient(0.0)
    accuracy.bucket(bucket(0, 0, np.full(100, 0.1)))
    for k in range(9):
        credit(accuracy, k, 0.1, 1.0)
    known = accuracy.errors(None)
    assert isinstance(known.mae, Insufficient)
    assert isinstance(known.rmse, Insufficient)
    assert known.naive_mae == 1.0
    credit(accuracy, 9, 0.1, 1.0)
    assert isinstance(accuracy.errors(None).mae, Interval)
    assert isinstance(accuracy.fading_errors().rmse, Interval)


def test_a_model_that_is_never_wrong_has_an_error_of_zero():
    accuracy = Accuracy()
    accuracy.bucket(bucket(0, 0, np.full(100, 0.2)))
    for k in range(20):
        credit(accuracy, k, 0.2, 0.0)
    assert accuracy.errors(None).mae == accuracy.errors(None).rmse == Interval(0.0, 0.0, 0.0)


def test_samples_without_a_prediction_or_a_chance_are_left_out():
    accuracy = Accuracy()
    p = np.full(100, 0.5)
    p[:10] = 0.0
    accuracy.bucket(bucket(0, 0, p, answered=60))
    for k in range(40, 70):
        credit(accuracy, k, 0.5, 2.0)
    accuracy.label(0, 20, Terms(unlabelled=1), Missed.of(0.5, None, 3.0))
    known = accuracy.errors(None)
    assert (known.samples, known.uncovered, known.labels) == (60, 10, 30)
    assert known.mae.value == pytest.approx(2.0)
    assert accuracy.window(None).dr is None, "an accuracy is not known of numbers"
    assert accuracy.always() is None


def test_a_late_label_counts_for_the_time_of_its_sample():
    accuracy = Accuracy()
    credit(accuracy, 5, 0.5, 9.0)  # before its bucket
    for i in range(4):
        accuracy.bucket(bucket(i, 100 * i, np.full(100, 0.5)))
    for i in (3, 2, 1, 0):
        for k in range(50):
            credit(accuracy, 100 * i + 10 + k, 0.5, float(i))
    assert accuracy.errors(100).mae.value == pytest.approx(3.0)
    assert accuracy.errors(200).mae.value == pytest.approx(2.5)
    assert accuracy.errors(None).labels == 201


def test_memory_is_bounded_and_the_sums_stay_exact():
    accuracy, n = Accuracy(), 2 * MOST_BUCKETS
    for i in range(n):
        accuracy.bucket(bucket(i, 10 * i, np.full(10, 0.1)))
        credit(accuracy, 10 * i, 0.1, 2.0)
    assert len(accuracy.slots) <= MOST_BUCKETS
    known = accuracy.errors(None)
    assert (known.samples, known.labels) == (10 * n, n)
    assert sum(slot.absolute.n for slot in accuracy.slots) == n


@pytest.mark.parametrize(("shown", "label"), [(1e300, 0), (0.0, 10**400), (-1e18, 1e18), (0.0, 1e308)])
def test_wild_numbers_leave_finite_sums(shown, label):
    missed = Missed.of(1e-12, shown, label)
    for terms in (missed.absolute, missed.squared):
        assert all(math.isfinite(getattr(terms, name)) for name in ("e", "we", "wr", "wwr", "wrr", "wwrr"))


@pytest.mark.parametrize("label", ["1", True, False])
def test_what_is_no_number_has_no_error(label):
    assert Missed.of(0.5, 1.0, label) is None


# --- the fold --------------------------------------------------------------------------------------------------------


def genesis(strategy="random", spec=SPEC):
    return Genesis("id", "samples", {0: 0}, "default", spec, None, strategy, 1, timestamp(NOW), "regression")


def label(k, value, *, shown=None, p=0.5, features=None):
    query = Query("random", "explore", 0.5, 0.5, p, 0.1, 0.01, 0.5)
    return Learned(
        f"0-{k}", f"s-{k}", Source("samples", 0, k), query, Shown("default", 1, value=shown), timestamp(NOW),
        {"x": float(k)} if features is None else features, value, True, timestamp(NOW + k), f"labels-0-{k}",
    )  # fmt: skip


def fold(records):
    folded = Fold()
    for offset, record in enumerate(records):
        folded.apply(offset, record)
    return folded


def test_a_cold_model_asks_and_has_no_answer():
    folded = fold([genesis(), Budget(fraction=0.1)])
    scores = folded.score([{"x": 1.0}, {}])
    assert scores.cold.all()
    assert scores.utility.tolist() == [1.0, 1.0]
    assert folded.shown(scores, 0) == Shown("default", 0)
    folded.apply(2, label(0, 5.0))
    scores = folded.score([{"x": 1.0}, {}])
    assert not scores.cold.any()
    assert isinstance(folded.shown(scores, 0).value, float)
    assert scores.expected_correct.tolist() == [0.5, 0.5]


def test_a_model_is_warm_with_thirty_labels():
    records = [genesis(), Budget(fraction=0.1), *(label(k, 1.5 * k) for k in range(WARM_LABELS))]
    assert fold(records[:-1]).warming
    folded = fold(records)
    assert not folded.warming
    assert not folded.class_counts, "numbers are not counted one by one: there may be any number of them"


@pytest.mark.parametrize("value", ["1.5", True, ""])
def test_a_label_that_is_no_number_changes_nothing(value):
    before = [genesis(), Budget(fraction=0.1), label(0, 2.0)]
    folded = fold([*before, label(1, value, shown=1.0)])
    assert folded.errors == {"TypeError": 1}
    assert folded.learned == 1
    assert folded.score([{"x": 1.0}]).values == fold(before).score([{"x": 1.0}]).values


def test_there_is_no_drift_alarm_however_far_off_the_model_is():
    records = [genesis(), Budget(fraction=0.1)]
    for i in range(40):
        records += [label(20 * i + k, 1e6 * (i > 20), shown=0.0) for k in range(20)]
        records.append(bucket(i, 20 * i, np.full(20, 0.5)))
    assert not fold(records).drift.alarms


def test_estimates_are_those_of_the_task():
    records = [genesis(), Budget(fraction=0.1), bucket(0, 0, np.full(50, 0.5))]
    folded = fold([*records, *(label(k, 3.0, shown=1.0) for k in range(20))])
    assert folded.estimates([1000]) == {}
    found = folded.prediction_errors([1000])
    assert list(found) == ["1000", "fading", "all"]
    assert {round(known.mae.value, 9) for known in found.values()} == {2.0}
    assert fold([]).prediction_errors([1000]) == {}


@pytest.mark.parametrize("strategy", ["random", "stratified"])
def test_a_snapshot_goes_on_as_a_replay_does(strategy):
    rng = np.random.default_rng(3)
    records = [genesis(strategy), Budget(fraction=0.1, novelty=0.1)]
    for i in range(12):
        for k in range(10 * i, 10 * i + 10):
            x = {"x": float(rng.normal()), "y": "ab"[k % 2]}
            records += [
                Observe(Source("samples", 0, k), x),
                label(k, 3 * x["x"] + k % 2, shown=0.5, features=x),
            ]
        records.append(bucket(i, 10 * i, np.full(10, 0.5)))
    records.append(Skipped(
        "0-999", "s", Source("samples", 0, 999), label(0, 1).query, Shown("default", 1, value=1.0),
        timestamp(NOW), timestamp(NOW), "labels-0-999",
    ))  # fmt: skip
    half = pickle.loads(pickle.dumps(fold(records[:150])))
    for offset, record in enumerate(records[150:], 150):
        half.apply(offset, record)
    whole = fold(records)
    batch = [{"x": float(v), "y": "a"} for v in np.linspace(-3, 3, 20)]
    for name in ("values", "utility"):
        np.testing.assert_array_equal(getattr(half.score(batch), name), getattr(whole.score(batch), name))
    assert half.prediction_errors([50]) == whole.prediction_errors([50])
    assert (half.version, half.learned, half.outcomes) == (whole.version, whole.learned, whole.outcomes)


def test_a_scorer_records_the_prediction_and_counts_what_had_one():
    folded = fold([genesis(), Budget(fraction=1.0), label(500, 5.0)])
    folded.ends = {}
    scorer = Scorer(folded, label_ttl_ms=1000, predictions=True)
    scorer.assign(0, None, "")
    scorer.on(0, [Sample(f"s-{i}", {"x": float(i)}, Source("samples", 0, i)) for i in range(40)], 40, 0, NOW)
    out = scorer.take()
    assert all(isinstance(p.model.value, float) and not p.model.probabilities for p in out.predictions)
    sums = out.tallies[0].sums
    assert sums.answered == sums.samples - sums.uncovered
    assert (sums.predicted, sums.sum_confidence) == ({}, 0.0)
