"""Metrics by class are those of all samples, within their intervals; few labels say that they are few."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stream_al.core.accuracy import Accuracy, Terms
from stream_al.core.classification import (
    MOST_CLASSES,
    NOTHING,
    OTHER,
    Answered,
    Confusion,
    Insufficient,
    _metrics,
    _Table,
    report,
)  # fmt: skip
from stream_al.core.messages import Bucket, Shown, Sums, timestamp
from stream_al.core.sequence import Interval

KEYS = ("a", "b", "c")


def truth_of(shown, label, keys):
    """Return precision, recall and F1 of each class, macro F1 and kappa, from all samples."""
    found = {}
    for key in keys:
        hits, said, held = ((shown == key) & (label == key)).sum(), (shown == key).sum(), (label == key).sum()
        found[key] = {"precision": hits / said, "recall": hits / held, "f1": 2 * hits / (said + held)}
    agreed = (shown == label).mean()
    chance = sum((shown == key).mean() * (label == key).mean() for key in keys)
    return found, np.mean([each["f1"] for each in found.values()]), (agreed - chance) / (1 - chance)


def universe(seed, n=4000, delay=0):
    """Draw three classes, the last one rare, and a classifier that is asked about where it is unsure."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, n, p=(0.5, 0.35, 0.15))
    logits = rng.normal(0, 1, (n, 3))
    logits[np.arange(n), label] += rng.gamma(2, 1.2, n)
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence = q.max(axis=1)
    p = np.clip(0.02 + 0.35 * (1 - confidence) ** 1.5, 0.02, 1)
    accuracy, asked = Accuracy(), rng.random(n) < p
    keys, shown = np.array(KEYS), q.argmax(axis=1)
    for i in range(0, n, 100):
        part = slice(i, i + 100)
        m, predicted = confidence[part], {key: int((shown[part] == k).sum()) for k, key in enumerate(KEYS)}
        v = np.clip(m, 0.03, 0.97) * (1 - np.clip(m, 0.03, 0.97))
        sums = Sums(
            samples=100, requests=int(asked[part].sum()), sum_p=p[part].sum(), sum_m=m.sum(), sum_v=v.sum(),
            sum_v_over_p=(v / p[part]).sum(), predicted=predicted,
            sum_entropy=float(-(q[part] * np.log(q[part])).sum()),
        )  # fmt: skip
        accuracy.bucket(Bucket(i // 100, {0: (i, i + 100)}, sums, timestamp(0), timestamp(1000)))
        for k in np.flatnonzero(asked[part]) + i:
            order = np.argsort(-q[k])
            said = Shown("m", 1, {KEYS[j]: float(q[k, j]) for j in order})
            terms = Terms.of(p[k], confidence[k], correct=bool(shown[k] == label[k]))
            accuracy.label(0, int(k), terms, Answered.of(p[k], said, KEYS[label[k]]))
    return accuracy, keys[shown], keys[label], float(-np.log(q[np.arange(n), label]).mean())


def test_intervals_cover_what_holds_over_all_samples():
    errors, covered = {}, {}
    for seed in range(60):
        accuracy, shown, label, loss = universe(seed)
        found, (classes, macro, kappa) = accuracy.by_class(4000), truth_of(shown, label, KEYS)
        pairs = [
            ("macro", found.macro_f1, macro),
            ("kappa", found.kappa, kappa),
            ("loss", found.log_loss, loss),
        ]
        pairs += [
            (name, found.classes[key][name], classes[key][name])
            for key in KEYS
            for name in ("precision", "recall", "f1")
        ]
        for name, known, true in pairs:
            if isinstance(known, Interval):
                errors.setdefault(name, []).append(known.value - true)
                covered.setdefault(name, []).append(known.low <= true <= known.high)
    assert len(errors["macro"]) == 60
    assert len(errors["recall"]) > 150
    for name, each in errors.items():
        assert abs(np.mean(each)) < 0.02, name
        assert np.mean(covered[name]) >= 0.88, name
    assert np.mean(list(itertools.chain.from_iterable(covered.values()))) >= 0.92


def test_with_all_labels_it_is_the_plain_confusion_matrix():
    rng, confusion = np.random.default_rng(0), Confusion()
    shown, label = rng.choice(KEYS, 300), rng.choice(KEYS, 300)
    label = np.where(rng.random(300) < 0.6, shown, label)
    for s, true in zip(shown, label, strict=True):
        confusion.label(str(s), str(true), 1.0)
    sums = Sums(samples=300, predicted={key: int((shown == key).sum()) for key in KEYS})
    found, (classes, macro, kappa) = report(confusion, sums), truth_of(shown, label, KEYS)
    assert found.macro_f1.value == pytest.approx(macro)
    assert found.kappa.value == pytest.approx(kappa)
    for key in KEYS:
        for name in ("precision", "recall", "f1"):
            assert found.classes[key][name].value == pytest.approx(classes[key][name])


def test_derivatives_are_those_of_the_metrics():
    c = np.random.default_rng(1).uniform(1, 9, (4, 3))
    _, slopes = _metrics(c)
    for at in np.ndindex(c.shape):
        up, down = c.copy(), c.copy()
        up[at] += 1e-5
        down[at] -= 1e-5
        if at[0] == 0:  # only recall, F1 and kappa know the samples without an answer
            assert not slopes[:3, *at].any()
        numeric = (_metrics(up)[0] - _metrics(down)[0]) / 2e-5
        assert slopes[:, *at] == pytest.approx(numeric, abs=1e-6)


def test_rows_are_scaled_to_the_samples_that_were_shown():
    confusion = Confusion()
    for _ in range(20):
        confusion.label("a", "a", 0.5)
        confusion.label("b", "a", 0.1)
        confusion.label(None, "b", 0.5)
    table = _Table.of(confusion, Sums(samples=1000, predicted={"a": 600, "b": 300}))
    assert table.totals.tolist() == [100, 600, 300]
    found = report(confusion, Sums(samples=1000, predicted={"a": 600, "b": 300}))
    assert found.classes["a"]["recall"].value == pytest.approx(600 / 900)
    assert found.classes["b"]["recall"].value == 0
    assert list(found.classes) == ["a", "b"], "the class that is shown most comes first"


def test_few_labels_are_said_to_be_few():
    assert Accuracy().by_class(1000) == NOTHING
    confusion = Confusion()
    for i in range(30):
        confusion.label("a", "a", 0.1)
        if i < 9:
            confusion.label("b", "b", 0.1)
    found = report(confusion, Sums(samples=400, predicted={"a": 300, "b": 100}))
    assert isinstance(found.classes["b"]["recall"], Insufficient)
    assert str(found.classes["b"]["recall"]) == "insufficient labels (9.0 of 10 effective)"
    known = found.classes["a"]["recall"]
    assert known.value == 1.0
    assert known.low < 0.9, "no error among 30 labels is no proof"


def test_classes_beyond_the_first_fifty_are_one():
    accuracy = Accuracy()
    predicted = {f"k{i}": 10 for i in range(80)}
    sums = Sums(samples=800, requests=800, sum_p=800.0, sum_m=400.0, predicted=predicted)
    accuracy.bucket(Bucket(0, {0: (0, 800)}, sums, timestamp(0), timestamp(1000)))
    for i in range(800):
        key = f"k{i % 80}"
        answered = Answered.of(1.0, Shown("m", 1, {key: 0.6}, 0.4), key)
        accuracy.label(0, i, Terms.of(1.0, 0.5, correct=True), answered)
    found = accuracy.by_class(800)
    assert len(found.classes) == MOST_CLASSES
    assert OTHER not in found.classes
    assert len(accuracy.slots[0].confusion.cells) == MOST_CLASSES + 1
    assert found.macro_f1.value == 1.0
    assert found.log_loss.value == pytest.approx(-np.log(0.6))


def test_what_an_answer_cost_is_its_log_loss():
    said = Shown("m", 1, {"a": 0.9, "b": 0.1})
    assert Answered.of(0.5, said, "a").loss == pytest.approx(-np.log(0.9))
    assert Answered.of(0.5, said, "new").loss == 10
    wide = Answered.of(0.5, Shown("m", 1, {"a": 0.5}, 0.5), "z")
    assert (wide.wide, wide.expected_loss, wide.loss) == (True, 0.0, pytest.approx(np.log(2)))
    assert Answered.of(0.5, Shown("m", 0), "a").shown is None
