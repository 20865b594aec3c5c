"""Kill after kill at chosen steps of a commit, while samples flow and answers come late, twice or not at all."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from tests.e2e.held import ELSEWHERE, SNAPSHOT, Steps
from tests.e2e.world import World, check_all, check_snapshots

ROLES = {"learner": "learner", "standby": "learner", "one": "scorer", "two": "scorer"}
EVERYBODY = ("learner", "one", "two")
ANYWHERE, ANYWHERE_S = "anywhere", 0.3
REACHED_S = 4.0  # a victim that owns nothing does not come to the step


def begin(
    world: World, names: Iterable[str] = EVERYBODY, *, every_s: float = 0.05, delay_s: float = 0.1
) -> None:
    """Start everybody, and let samples flow and be answered."""
    for name in names:
        world.start(name, ROLES[name])
    world.annotate(delay_s)
    world.flow(10, every_s)
    world.until(lambda: world.decided() > 0)


def die(world: World, name: str, step: str, reached_s: float = REACHED_S) -> str:
    """Kill a process at a step of its commit, and start it again; return where it died."""
    steps = Steps(world.where / f"{name}.steps")
    if step == ANYWHERE:
        time.sleep(random.uniform(0, ANYWHERE_S))
    else:
        steps.hold(step)
        reached(world, name, steps, step, reached_s)
    world.kill(name)
    where = steps.here
    steps.forget()
    steps.close()
    world.start(name, ROLES[name])
    return where


def stop(world: World, name: str, step: str) -> None:
    """Stop a process at a step of its commit; ``world.wake`` lets it go on from there."""
    steps = Steps(world.where / f"{name}.steps")
    steps.hold(step)
    assert reached(world, name, steps, step), world.logs()
    world.stop(name)
    assert steps.here == step
    steps.hold(ELSEWHERE)
    steps.close()


def reached(world: World, name: str, steps: Steps, step: str, seconds: float = REACHED_S) -> bool:
    """Wait until a process is at a step; whether it came."""
    deadline = time.monotonic() + seconds
    while steps.here != step:
        if time.monotonic() > deadline:
            return False
        assert world.processes[name].poll() is None, world.told(name)[-3000:]
        time.sleep(0.005)
    return True


def run(
    world: World,
    kills: int,
    steps: Sequence[str],
    others: Mapping[str, Callable[[], None]] | None = None,
    reached_s: float = REACHED_S,
) -> Counter[str]:
    """Kill ``kills`` times: everybody at every step, in an order drawn by the seed; return what died as planned.

    ``others`` are further ways to die, by name.
    """
    others = others or {}
    dice = random.Random(world.seed)
    everything = [(name, step) for name in EVERYBODY for step in (*steps, ANYWHERE)] + [("learner", SNAPSHOT)]
    everything += [("", name) for name in others]
    plan = [
        pair for _ in range(1 + kills // len(everything)) for pair in dice.sample(everything, len(everything))
    ]
    begin(world)
    died: Counter[str] = Counter()
    for name, step in plan[:kills]:
        if step in others:
            others[step]()
            died[step] += 1
            continue
        where = die(world, name, step, reached_s)
        died[step if step in (where, ANYWHERE) else "missed"] += 1
    return died


def finish(world: World) -> None:
    """Let everything come to rest, check the topics, and that whoever ran predicts what a fresh fold predicts."""
    world.dry()
    world.wait_until_quiet()
    names = list(world.processes)
    for name in names:
        assert world.terminate(name) == 0, world.told(name)[-3000:]
    fold = check_all(world)
    for name in names:
        if "stopped while replaying" not in world.told(name)[-500:]:  # then it saved none
            check_snapshots(world, name, fold)
