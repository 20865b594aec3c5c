"""How long does a process take to start? The ledger is folded from its beginning, and from a snapshot.

The ledger holds genesis, budget and 100,000 labels of samples with 30 numeric features, in the embedded log, and for every
50 labels the bucket of the 1,000 samples that they were asked of. Seconds are CPU time of one thread, of one run each: a
start is not measured against anything.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _harness import Bars, parse, parser, table
from throughput import FEATURES, MODELS, generated

from stream_al import logs
from stream_al.codec import encode
from stream_al.core.labels import label_key
from stream_al.core.messages import Bucket, Budget, Genesis, Learned, Query, Shown, Source, Sums, timestamp
from stream_al.service.follower import Follower
from stream_al.service.loop import calm_collector
from stream_al.service.snapshot import Snapshots
from stream_al.transport.embedded import EmbeddedBroker
from stream_al.transport.port import Output, TopicSpec

LABELS, QUICK_LABELS = 100_000, 3_000
SAMPLES_A_LABEL, LABELS_A_BUCKET = 20, 50
AT_ONCE = 2_000
NOW_MS = 1_767_225_600_000
KINDS: dict[str, tuple[list[Any], float]] = {
    "LogisticRegression": (MODELS["logistic"], 6.0),
    "BayesianClassifier": (MODELS["bayesian"], 15.0),
    "forest of ten": ([{"river.forest.ARFClassifier": {"n_models": 10}}], 90.0),
}
FROM_SNAPSHOT_S = 1.0


def records(spec: list[Any], n: int) -> Iterator[Any]:
    """Yield a ledger of n labels."""
    yield Genesis(
        ledger_id="0123456789abcdef", topic="samples", start={0: 0}, model="measured", spec=spec,
        classes=[False, True], strategy="margin", seed=1, created_at=timestamp(NOW_MS),
    )  # fmt: skip
    yield Budget(fraction=0.05)
    query = Query("margin", "informative", 0.9, 0.8, 0.25, 0.01, 0.1, 0.7)
    for i, (features, label) in enumerate(generated(n, FEATURES)):
        offset, at = SAMPLES_A_LABEL * i, timestamp(NOW_MS + 20 * i)
        if i % LABELS_A_BUCKET == 0:
            yield _bucket(i // LABELS_A_BUCKET, at)
        right = i % 10 < 7  # as often as it is confident
        shown = Shown("measured", i, {label_key(label == right): 0.7, label_key(label != right): 0.3})
        yield Learned(
            request_id=f"0-{offset}", id=f"s-{offset}", source=Source("samples", 0, offset, None), query=query, model=shown,
            requested_at=at, features=features, label=label, learn=True, received_at=at, answer=f"labels-0-{i}",
        )  # fmt: skip


def _bucket(number: int, at: str) -> Bucket:
    """Return the account of the samples of which the next labels were asked."""
    samples = SAMPLES_A_LABEL * LABELS_A_BUCKET
    v = 0.7 * 0.3
    predicted = {label_key(label): samples // 2 for label in (False, True)}
    sums = Sums(
        samples, 0, 0, LABELS_A_BUCKET, 0.25 * samples, 0.7 * samples, v * samples, v * samples / 0.25,
        0.7 * samples, 0.61 * samples, predicted,
    )  # fmt: skip
    return Bucket(number, {0: (number * samples, (number + 1) * samples)}, sums, at, at)


def seconds(spec: list[Any], n: int) -> tuple[float, float]:
    """Return what folding the whole ledger takes, and what a start from a snapshot takes."""
    with tempfile.TemporaryDirectory() as directory:
        broker = EmbeddedBroker(f"{directory}/log.db")
        broker.ensure([TopicSpec("ledger", 1)], create=True)
        outputs = [Output("ledger", encode(record), partition=0) for record in records(spec, n)]
        for i in range(0, len(outputs), AT_ONCE):
            broker.append(outputs[i : i + AT_ONCE])
        del outputs
        taken = []
        for whole in (True, False):
            started = time.process_time()
            follower = Follower(broker, "ledger", Snapshots(Path(directory) / "state"))
            follower.catch_up(follower.end())
            taken.append(time.process_time() - started)
            assert follower.fold.learned == n, follower.fold.errors
            if whole:
                follower.save()
            follower.close()
        broker.close()
    return taken[0], taken[1]


def main(argv: list[str] | None = None) -> int:
    options = parse(parser(__doc__ or "", seeds=1), argv)
    logs.configure("error")
    calm_collector()  # as the service does before it reads anything
    n = options.samples or (QUICK_LABELS if options.quick else LABELS)
    bars, rows = Bars(), []
    for name, (spec, most) in KINDS.items():
        whole, snapshot = seconds(spec, n)
        rows.append((name, f"{whole:.1f}", f"{1e6 * whole / n:.0f}", f"{snapshot:.2f}"))
        bars.add(f"seconds for {n:,} labels, {name}", whole, high=most)
        bars.add(f"seconds from a snapshot, {name}", snapshot, high=FROM_SNAPSHOT_S)
    table(
        f"A start with {n:,} labels in the ledger", ("", "whole, s", "us a label", "from a snapshot, s"), rows
    )
    return bars.end()


if __name__ == "__main__":
    sys.exit(main())
