"""A world on Apache Kafka, with topics and groups of its own."""

from __future__ import annotations

import uuid

from tests.e2e.world import World, program

TOPICS = ("samples", "labels_requested", "labels", "reports", "ledger", "dead_letters", "predictions")


def make(tmp_path, bootstrap, seed=0, launch=program, *, broker=None, samples=None, bucket_s=0.3, **options):
    name = uuid.uuid4().hex[:8]
    tree = {
        "broker": {
            "url": f"kafka://{bootstrap}",
            "partitions": 4,
            "session_timeout_ms": 6000,
            **(broker or {}),
        },
        "topics": {t: f"{t.replace('_', '-')}-{name}" for t in TOPICS},
        "group": f"al-{name}",
        "budget": {"fraction": 0.1},
        "ledger": {"bucket_s": bucket_s},
        "samples": {"start": "earliest", **(samples or {})},
        "snapshot_every_s": 1,
        "http": {"port": 0},
    }
    return World(tmp_path, tree, seed, launch, **options)
