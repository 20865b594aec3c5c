"""The service as processes on the embedded log: fed by ``send``, answered late, killed in the middle."""

from __future__ import annotations

import time

import pytest

from tests.e2e.world import World, check_all, check_snapshots

TREE = {
    "broker": {"partitions": 4, "session_timeout_ms": 1500},
    "budget": {"fraction": 0.1},
    "ledger": {"bucket_s": 0.3},
    "samples": {"start": "earliest"},
    "http": {"port": 0},
}


@pytest.fixture
def world(tmp_path, request):
    tree = {**TREE, "broker": {**TREE["broker"], "url": f"embedded://{tmp_path / 'log.db'}"}}
    made = World(tmp_path, tree, seed=getattr(request, "param", 0))
    yield made
    made.close()


@pytest.mark.parametrize(
    "world", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4))], indirect=True
)
def test_one_process_does_the_whole_job(world):
    world.start("all", "all")
    world.annotate()
    for _ in range(2):
        world.feed_by_send(800)
    world.wait_until_quiet()
    time.sleep(1.2)  # figures are published once a second
    metrics = world.metrics("all")
    fold = check_all(world)
    requests = world.requests()
    assert metrics["stream_al_labels_total|learned"] == len(requests) == fold.learned
    assert sum(v for k, v in metrics.items() if k.startswith("stream_al_label_requests_total|")) == len(
        requests
    )
    decided = sum(v for k, v in metrics.items() if k.startswith("stream_al_samples_total|"))
    assert decided == world.sent
    assert metrics["stream_al_model_version"] == fold.version
    assert metrics["stream_al_pending_requests"] == 0
    assert world.terminate("all") == 0
    check_snapshots(world, "all", fold)


def test_two_scorers_and_a_learner_survive_kills(world):
    for name, role in (("learner", "learner"), ("one", "scorer"), ("two", "scorer")):
        world.start(name, role)
    world.annotate()
    victims = ["one", "learner", "two", "learner", "one"]
    for name in victims:
        for _ in range(4):
            world.feed(100)
            time.sleep(0.1)
        world.kill(name)
        world.feed(100)
        world.start(name, "learner" if name == "learner" else "scorer")
    world.feed(300)
    world.wait_until_quiet()
    fold = check_all(world)
    for name in ("one", "two", "learner"):
        assert world.terminate(name) == 0
        check_snapshots(world, name, fold)


def test_a_scorer_added_later_catches_up_and_takes_its_share(world):
    world.start("learner", "learner")
    world.start("one", "scorer")
    world.annotate()
    world.feed(800)
    world.until(lambda: world.decided() == 800)
    world.start("two", "scorer")
    world.until(lambda: b"partition assigned" in world.log("two").read_bytes())
    world.feed(800)
    world.wait_until_quiet()
    check_all(world)
