"""SIGKILL, again and again, in the middle of commits on the embedded log; ``STREAM_AL_KILLS=200`` for more."""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.e2e import campaign
from tests.e2e.held import BETWEEN, EMBEDDED, OUTPUTS_FIRST, POSITIONS_FIRST, Nursery
from tests.e2e.world import World, broken_promises

TREE = {
    "broker": {"partitions": 4, "session_timeout_ms": 800},
    "budget": {"fraction": 0.1},
    "ledger": {"bucket_s": 5},
    "samples": {"start": "earliest"},
    "snapshot_every_s": 0.5,
    "http": {"port": None},
}
KILLS = int(os.environ.get("STREAM_AL_KILLS", "32"))


@pytest.fixture
def make(tmp_path):
    made = []

    def world(nursery, seed=0, **options):
        tree = {**TREE, "broker": {**TREE["broker"], "url": f"embedded://{tmp_path / 'log.db'}"}}
        made.append(World(tmp_path, tree, seed, nursery.launch, **options))
        return made[-1]

    yield world
    for each in made:
        each.close()


@pytest.mark.fault(
    "kills in the middle of commits",
    "processes killed at every step, on the embedded log; nothing lost or doubled",
)
def test_kills_at_every_step_of_a_commit_lose_and_double_nothing(make, tried):
    world = make(Nursery(window_s=0.005), seed=1, broken=0.02, twice=0.1)
    died = campaign.run(world, KILLS, EMBEDDED)
    tried(KILLS)
    assert died["missed"] <= KILLS / 6, died
    campaign.finish(world)


@pytest.mark.fault(
    "checks that notice nothing",
    "commits in a naive order of writes, killed in between, on the embedded log, which the campaigns' checks must find",
    tried=3,
)
@pytest.mark.parametrize(
    ("naive", "order", "promise"),
    [
        ("scorer", OUTPUTS_FIRST, "check_decided_once"),
        ("scorer", POSITIONS_FIRST, "check_decided_once"),
        ("learner", OUTPUTS_FIRST, "check_letters"),
        ("learner", POSITIONS_FIRST, "check_learned_once"),
    ],
)
def test_the_same_checks_notice_a_naive_order_of_writes(make, naive, order, promise):
    names = [name for name, role in campaign.ROLES.items() if role == naive]
    world = make(Nursery(orders=dict.fromkeys(names, order)), broken=0.02, twice=1.0)
    campaign.begin(world)
    for _ in range(3):
        assert campaign.die(world, names[0], BETWEEN) == BETWEEN
    world.dry()
    with contextlib.suppress(AssertionError):  # what is lost never comes
        world.wait_until_quiet(2)
    assert promise in broken_promises(world)
