"""The honest estimate is unbiased and covers the truth; late and lost labels are credited to their own time."""

from __future__ import annotations

import numpy as np
import pytest

from stream_al.core.accuracy import MOST_BUCKETS, MOST_STRATA, Accuracy, Terms, wilson
from stream_al.core.calibration import Calibration
from stream_al.core.messages import Bucket, Sums, timestamp
from stream_al.core.sequence import anytime, student


def bucket(number, partition, start, p, m, *, requests=0, answers=True):
    v = np.clip(m, 0.03, 0.97) * (1 - np.clip(m, 0.03, 0.97))
    sums = Sums(
        samples=len(p), requests=requests, sum_p=p.sum(), sum_m=m.sum(), sum_v=v.sum(), sum_v_over_p=(v / p).sum(),
        predicted={"a": len(p)} if answers else {},
    )  # fmt: skip
    return Bucket(number, {partition: (start, start + len(p))}, sums, timestamp(0), timestamp(1000))


def universe(seed, n=2000, lost=lambda e, m: np.zeros(len(e), bool)):
    """Draw n samples with probability m of being right, selected by uncertainty, in buckets of 100."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(4, 1.2, n)
    m = np.clip(truth + rng.normal(0, 0.08, n), 0.05, 0.98)  # the model is not quite calibrated
    e = rng.random(n) < truth
    p = np.clip(0.01 + 0.3 * (1 - m) ** 1.5, 0.01, 1)
    asked = rng.random(n) < p
    gone = lost(e, m) & asked if not callable(lost) else (rng.random(n) < lost(e, m)) & asked
    accuracy = Accuracy()
    late = []
    for i in range(0, n, 100):
        accuracy.bucket(bucket(i // 100, 0, i, p[i : i + 100], m[i : i + 100]))
        late += [k for k in range(i, i + 100) if asked[k] and not gone[k]]
        while len(late) > 30:  # answers come late, in another order
            k = late.pop(rng.integers(len(late)))
            accuracy.label(0, k, Terms.of(p[k], m[k], correct=bool(e[k])))
    for k in late:
        accuracy.label(0, k, Terms.of(p[k], m[k], correct=bool(e[k])))
    return accuracy, e


def test_the_history_is_the_same_accuracy_by_stretches():
    accuracy, e = universe(1, n=4_000)
    history = accuracy.history(4)
    ends = [samples for samples, _ in history]
    assert 2 <= len(history) <= 4
    assert ends == sorted(ends)
    assert ends[-1] <= 4_000
    inside = 0
    for start, (end, found) in zip([0, *ends], history, strict=False):
        inside += found.dr.low <= e[start:end].mean() <= found.dr.high
        assert found.labels >= 40
    assert inside >= len(history) - 1
    assert Accuracy().history(4) == []


@pytest.mark.parametrize(
    "lost",
    [
        lambda e, m: np.zeros(len(e)),
        lambda e, m: np.full(len(e), 0.3),
        lambda e, m: np.where(m < 0.7, 0.5, 0.05),
    ],
    ids=["all return", "a third is lost", "the hard ones are lost"],
)
@pytest.mark.parametrize("window", [1000, None])
def test_bias_and_coverage(lost, window):
    found = []
    for seed in range(150):
        accuracy, e = universe(seed, lost=lost)
        truth = e[-(window or len(e)) :].mean()
        estimate = accuracy.window(window)
        found.append(
            (
                estimate.dr.value - truth,
                estimate.dr.low <= truth <= estimate.dr.high,
                estimate.naive.value - truth,
            )
        )
    bias, covered, naive = np.mean(found, axis=0)
    assert abs(bias) < 0.015
    assert covered >= 0.92
    assert naive < -0.08, "the naive estimate is far too low"


def stream(rng, p, m, e, *, cold=0, delay=0, block=50):
    """Yield the accuracy after each bucket, with the number of samples in it; labels come ``delay`` samples late."""
    accuracy, asked, given = Accuracy(), rng.random(len(p)) < p, 0
    for i in range(0, len(p), block):
        part = slice(i, i + block)
        requests, answers = int(asked[part].sum()), i >= cold
        accuracy.bucket(bucket(i // block, 0, i, p[part], m[part], requests=requests, answers=answers))
        for k in range(given, max(given, i + block - delay)):
            if asked[k]:
                accuracy.label(0, k, Terms.of(p[k], m[k], correct=bool(e[k])))
        given = max(given, i + block - delay)
        yield i + block, accuracy


def matured(accuracy, seen):
    return seen - sum(
        s.sums.samples for s in list(accuracy.slots)[len(accuracy.slots) - accuracy._immature() :]
    )


@pytest.mark.parametrize("delay", [0, 100])
def test_a_cold_start_does_not_tilt_the_early_estimates(delay):
    """Without an answer e = 0 and m = .5, and half of the samples are asked; then few are, and most are right."""
    found = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        cold = 100 + delay
        truth = np.concatenate([np.zeros(cold), rng.beta(5, 1, 900 - cold)])
        m = np.concatenate(
            [np.full(cold, 0.5), np.clip(truth[cold:] + rng.normal(0, 0.08, 900 - cold), 0.05, 0.98)]
        )
        e = rng.random(900) < truth
        p = np.concatenate([np.full(cold, 0.5), np.clip(0.01 + 0.3 * (1 - m[cold:]) ** 1.5, 0.01, 1)])
        for seen, accuracy in stream(rng, p, m, e, cold=cold, delay=delay):
            if seen in (500, 700, 900):
                end, known = matured(accuracy, seen), accuracy.window(1000).dr
                true = e[:end].mean()
                found.append((known.value - true, known.low <= true <= known.high))
    bias, covered = np.mean(found, axis=0)
    assert abs(bias) < 0.02
    assert covered >= 0.92


def test_a_model_that_is_nearly_always_right_has_a_narrow_interval():
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        m, e = np.full(5000, 0.997), rng.random(5000) < 0.996
        *_, (_, accuracy) = stream(rng, np.full(5000, 0.05), m, e, block=100)
        known = accuracy.window(None).dr
        found.append((known.low <= e.mean() <= known.high, known.high - known.low))
    covered, width = np.mean(found, axis=0)
    assert covered >= 0.93
    assert width < 0.03, "with the modelled variance alone it is .042"


def test_the_fading_window_forgets_the_past():
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = np.concatenate([np.full(4000, 0.9), np.full(4000, 0.6)])
        e, m = rng.random(8000) < truth, np.full(8000, 0.8)
        *_, (_, accuracy) = stream(rng, np.full(8000, 0.06), m, e, block=100)
        weights = 0.9995 ** np.arange(8000)[::-1]
        true, known = (weights * e).sum() / weights.sum(), accuracy.fading().dr
        found.append((known.value - true, known.low <= true <= known.high))
    bias, covered = np.mean(found, axis=0)
    assert abs(bias) < 0.015
    assert covered >= 0.9


def test_an_interval_for_all_times_holds_at_all_times():
    held, at_once = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.beta(4, 1.2, 4000)
        m, e = np.clip(truth + rng.normal(0, 0.08, 4000), 0.05, 0.98), rng.random(4000) < truth
        p = np.clip(0.01 + 0.3 * (1 - m) ** 1.5, 0.01, 1)
        always = once = True
        for seen, accuracy in stream(rng, p, m, e, block=100):
            true, known, now = e[:seen].mean(), accuracy.always(), accuracy.window(None).dr
            assert (known is None) == (seen < 300)
            if known is not None:
                always &= known.low <= true <= known.high
                once &= now.low <= true <= now.high
        held.append(always)
        at_once.append(once)
        assert not accuracy.below(e.mean())
        assert accuracy.below(0.99)
        assert not accuracy.below(0.5)
    assert np.mean(held) >= 0.97
    assert np.mean(at_once) < 0.97, "a 95 % interval looked at all the time does not hold"


def test_what_is_told_since_the_last_alarm_begins_anew():
    accuracy, rng = Accuracy(), np.random.default_rng(0)
    for i in range(60):
        if i == 30:
            accuracy.begin_epoch()
        accuracy.bucket(bucket(i, 0, 100 * i, np.full(100, 0.2), np.full(100, 0.8)))
        for k in np.flatnonzero(rng.random(100) < 0.2).tolist():
            accuracy.label(
                0, 100 * i + k, Terms.of(0.2, 0.8, correct=bool(rng.random() < (0.9 if i < 30 else 0.5)))
            )
    known = accuracy.always()
    assert known.low < 0.5 < known.high < 0.75
    accuracy.label(0, 5, Terms.of(0.2, 0.8, correct=True))  # late, of the time before
    assert accuracy.always() == known
    assert accuracy.below(0.75)


def test_intervals_widen_with_few_labels():
    assert student(5) == pytest.approx(2.571, abs=0.003)
    assert student(1e9) == pytest.approx(1.96, abs=0.001)
    assert anytime(100.0, 100.0) > anytime(100.0, 100.0, alpha=0.05) > 19.6


def test_strata_stay_few_and_sums_exact():
    accuracy = Accuracy()
    for i in range(3000):
        p = np.full(60, 0.5 if i % 7 else 0.05)
        if i % 500 == 499:
            accuracy.begin_epoch()
        accuracy.bucket(bucket(i, 0, 60 * i, p, np.full(60, 0.8)))
        accuracy.label(0, 60 * i + 5, Terms.of(0.1, 0.8, correct=True))
    assert MOST_STRATA - 2 <= len(accuracy.strata) <= MOST_STRATA
    assert sum(s.sums.samples for s in accuracy.strata.values()) == 180_000 == accuracy.window(None).samples
    assert sum(s.terms.n for s in accuracy.strata.values()) == 3000
    assert len(accuracy.slots) <= MOST_BUCKETS
    since = [s.sums.samples for number, s in accuracy.strata.items() if number >= accuracy.epoch]
    assert sum(since) == 60 * (3000 - 2999)


def test_the_small_buckets_of_a_quiet_stream_begin_no_strata_by_chance():
    rng, accuracy = np.random.default_rng(1), Accuracy()
    for i in range(3000):
        p = rng.choice([0.01, 0.5], 3)
        accuracy.bucket(bucket(i, 0, 3 * i, p, np.full(3, 0.8)))
    assert len(accuracy.strata) == 1
    for i in range(3000, 3100):
        accuracy.bucket(bucket(i, 0, 3 * i, np.full(3, 0.02), np.full(3, 0.8)))
    assert len(accuracy.strata) == 2


def test_a_label_that_comes_before_its_bucket_waits_for_it():
    accuracy = Accuracy()
    p, m = np.full(100, 0.5), np.full(100, 0.8)
    accuracy.label(0, 5, Terms.of(0.5, 0.8, correct=True))
    assert accuracy.window(None).labels == 0
    accuracy.bucket(bucket(0, 0, 0, p, m))
    assert accuracy.window(None).labels == 1
    accuracy.label(0, 250, Terms.of(0.5, 0.8, correct=True))
    accuracy.bucket(bucket(1, 0, 100, p, m))
    assert accuracy.window(None).labels == 1
    accuracy.bucket(bucket(2, 0, 200, p, m))
    assert accuracy.window(None).labels == 2


def test_a_window_holds_enough_samples_and_enough_expected_labels():
    accuracy = Accuracy()
    for i in range(40):
        accuracy.bucket(bucket(i, 0, 100 * i, np.full(100, 0.05), np.full(100, 0.8)))
    assert accuracy.window(200).samples == 1000, "50 expected labels at 5 %"
    assert accuracy.window(2000).samples == 2000


def test_memory_is_bounded_and_the_sums_stay_exact():
    accuracy = Accuracy()
    for i in range(5000):
        accuracy.bucket(bucket(i, i % 3, 10 * (i // 3), np.full(10, 0.1), np.full(10, 0.8)))
        accuracy.label(i % 3, 10 * (i // 3) + 5, Terms.of(0.1, 0.8, correct=True))
    assert len(accuracy.slots) <= MOST_BUCKETS
    assert sum(s.sums.samples for s in accuracy.slots) == 50_000 == accuracy.window(None).samples
    assert sum(s.terms.n for s in accuracy.slots) == 5000


def test_wilson_stays_inside_zero_and_one():
    for share in (0.0, 0.001, 0.5, 1.0):
        i = wilson(share, 3)
        assert 0 <= i.low <= i.value <= i.high <= 1


def test_calibration_learns_that_a_model_is_overconfident():
    rng = np.random.default_rng(0)
    calibration = Calibration()
    for _ in range(600):
        c = rng.uniform(0.5, 1)
        calibration.learn(c, correct=rng.random() < 0.5 + 0.5 * (c - 0.5), weight=1.0)
    m = calibration.expected_correct(np.array([0.6, 0.8, 0.95]))
    assert m == pytest.approx([0.55, 0.65, 0.725], abs=0.07)
    assert calibration.expected_correct(np.array([0.0]))[0] == 0.5
