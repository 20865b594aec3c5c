"""Kill after kill at chosen steps of a commit, while samples flow and answers come late, twice or not at all."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.e2e.held import SNAPSHOT, Steps
from tests.e2e.world import World, check_all, check_snapshots

ROLES = {"learner": "learner", "one": "scorer", "two": "scorer"}
ANYWHERE = "anywhere"
REACHED_S = 4.0  # a victim that owns nothing does not come to the step


def begin(world: World, names: Iterable[str] = ROLES, *, every_s: float = 0.05, delay_s: float = 0.1) -> None:
    """Start everybody, and let samples flow and be answered."""
    for name in names:
        world.start(name, ROLES[name])
    world.annotate(delay_s)
    world.flow(10, every_s)
    world.until(lambda: world.decided() > 0)


def die(world: World, name: str, step: str, anywhere_s: float = 0.3) -> str:
    """Kill a process at a step of its commit, and start it again; return where it died."""
    steps = Steps(world.where / f"{name}.steps")
    if step == ANYWHERE:
        time.sleep(random.uniform(0, anywhere_s))
    else:
        steps.hold(step)
        reached(world, name, steps, step)
    world.kill(name)
    where = steps.here
    steps.forget()
    steps.close()
    world.start(name, ROLES[name])
    return where


def reached(world: World, name: str, steps: Steps, step: str, seconds: float = REACHED_S) -> bool:
    """Wait until a process is at a step; whether it came."""
    deadline = time.monotonic() + seconds
    while steps.here != step:
        if time.monotonic() > deadline:
            return False
        assert world.processes[name].poll() is None, world.told(name)[-3000:]
        time.sleep(0.005)
    return True


def run(world: World, kills: int, steps: Sequence[str]) -> Counter[str]:
    """Kill ``kills`` times: everybody at every step, in an order drawn by the seed; return what died as planned."""
    dice = random.Random(world.seed)
    everything = [(name, step) for name in ROLES for step in (*steps, ANYWHERE)] + [("learner", SNAPSHOT)]
    plan = [
        pair for _ in range(1 + kills // len(everything)) for pair in dice.sample(everything, len(everything))
    ]
    begin(world)
    died: Counter[str] = Counter()
    for name, step in plan[:kills]:
        where = die(world, name, step)
        died[step if step in (where, ANYWHERE) else "missed"] += 1
    return died


def finish(world: World) -> None:
    """Let everything come to rest, check the topics, and that whoever ran predicts what a fresh fold predicts."""
    world.dry()
    world.wait_until_quiet()
    for name in list(world.processes):
        assert world.terminate(name) == 0, world.told(name)[-3000:]
    fold = check_all(world)
    for name in ROLES:
        check_snapshots(world, name, fold)
