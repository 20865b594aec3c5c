"""What surrounds the service fails: disks, state directories, and topics that change while it runs.

Root may write what is read-only by mode, so file systems are mounted for these tests. Where that is not allowed those
tests are skipped, and the ones beside them make the same trouble without it: a limit of the size of files instead of a
full disk, a file in the place of a directory instead of a read-only one.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess

import pytest

from stream_al.transport.embedded_log import base_id
from tests.e2e import campaign
from tests.e2e.held import Nursery
from tests.e2e.world import World, check_all

TREE = {
    "broker": {"partitions": 4, "session_timeout_ms": 800},
    "budget": {"fraction": 0.1},
    "ledger": {"bucket_s": 0.5},
    "samples": {"start": "earliest"},
    "snapshot_every_s": 0.3,
    "http": {"port": None},
}


@pytest.fixture
def mount(tmp_path):
    """Mount a small file system of its own on a new directory."""
    mounted = []

    def on(name, size):
        path = tmp_path / name
        path.mkdir()
        try:
            run("mount", "-t", "tmpfs", "-o", f"size={size}", "stream-al-test", path)
        except (OSError, subprocess.CalledProcessError) as problem:
            pytest.skip(f"mounting is not allowed here: {getattr(problem, 'stderr', problem)}")
        mounted.append(path)
        return path

    yield on
    for path in reversed(mounted):
        run("umount", "-l", path)


def run(*command):
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=10)


@pytest.fixture
def make(tmp_path):
    made = []

    def world(log=tmp_path, **options):
        broker = {**TREE["broker"], "url": f"embedded://{log / 'log.db'}"}
        made.append(World(tmp_path, {**TREE, "broker": broker}, launch=Nursery().launch, **options))
        return made[-1]

    yield world
    for each in made:
        each.close()


# --- disks -----------------------------------------------------------------------------------------------------------


def through_trouble(world, says, heal):
    """Everybody meets the trouble, one process even starts in it, nobody ends; afterwards nothing is missing."""
    for name in campaign.EVERYBODY:
        world.until(lambda name=name: says in world.told(name))
    world.kill("learner")
    world.log("learner").write_text("")
    world.start("learner", "learner")
    world.until(lambda: '"broker away' in world.told("learner"))
    learned = world.learned()
    heal()
    world.until(lambda: world.learned() > learned)
    campaign.finish(world)


@pytest.mark.fault("a full disk", "everybody at work on a full disk, then with room")
def test_a_full_disk_ends_nobody_and_loses_nothing(mount, make):
    disk = mount("disk", "32m")
    world = make(log=disk)
    world.states = disk
    campaign.begin(world)
    world.until(lambda: world.learned() > 5)
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        for _ in range(100_000):
            out.write(bytes(4096))
    through_trouble(world, "the disk is full", ballast.unlink)


@pytest.mark.fault("a full disk", "everybody at work with a limit of the size of files, then without")
@pytest.mark.fault(
    "topics that grow while they are used",
    "partitions added to what the learner reads, with kills, on the embedded log",
)
@pytest.mark.fault(
    "records deleted before they were read",
    "as retention does, on the embedded log: ends with what to do, skips nothing",
)
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_limit_of_the_size_of_files_ends_nobody_and_loses_nothing(make):
    world = make()
    campaign.begin(world)
    world.until(lambda: world.learned() > 5)
    for process in world.processes.values():
        limit(process.pid, 65_536)
    for name in campaign.EVERYBODY:
        world.until(lambda name=name: "nothing was written" in world.told(name))
    for process in world.processes.values():
        limit(process.pid, None)
    campaign.finish(world)


def limit(pid, size):
    """Limit the size of the files that a process writes; None takes the limit away."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


@pytest.mark.fault("a read-only disk", "the log on a disk made read-only: refused with what to do")
def test_a_log_that_is_read_only_is_refused_with_what_to_do(mount, make):
    disk = mount("disk", "32m")
    world = make(log=disk)
    campaign.begin(world)
    world.until(lambda: world.learned() > 0)
    world.dry()
    for name in campaign.EVERYBODY:
        world.kill(name)
    world.stopping.set()
    for thread in world.threads:
        thread.join()
    world.broker.close()
    run("mount", "-o", "remount,ro", disk)
    world.start("one", "scorer")
    assert world.ended("one") == 78
    assert "directory this user may write" in world.told("one")


@pytest.mark.fault(
    "a read-only disk", "the state directory on a disk made read-only: costs the snapshots only"
)
def test_a_read_only_state_directory_costs_the_snapshots_only(mount, make):
    world = make()
    world.states = mount("states", "8m")
    (world.states / "one").mkdir()
    campaign.begin(world, ["learner", "two"])
    world.until(lambda: list(world.states.glob("learner/*.fold")))
    run("mount", "-o", "remount,ro", world.states)
    world.until(lambda: "snapshot not written" in world.told("learner"))
    world.start("one", "scorer")
    world.until(lambda: "no snapshots: the state directory cannot be used" in world.told("one"))
    world.kill("learner")
    world.start("learner", "learner")
    world.until(lambda: world.told("learner").count('"snapshot loaded') == 1)
    world.dry()
    world.wait_until_quiet()
    check_all(world)
    assert all(world.terminate(name) == 0 for name in campaign.EVERYBODY)


@pytest.mark.fault("a read-only disk", "a file in the place of the state directory: costs the snapshots only")
def test_a_file_in_the_place_of_the_state_directory_costs_the_snapshots_only(make):
    world = make()
    (world.states / "one").write_text("not a directory")
    campaign.begin(world)
    assert "no snapshots: the state directory cannot be used" in world.told("one")
    world.until(lambda: list(world.states.glob("learner/*.fold")))
    (world.states / "learner").rename(world.states / "moved away")
    world.until(lambda: "snapshot not written" in world.told("learner"))
    world.dry()
    world.wait_until_quiet()
    check_all(world)
    assert all(world.terminate(name) == 0 for name in campaign.EVERYBODY)


# --- topics that grow ----------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "topics that grow while they are used", "partitions added to `samples`, on the embedded log"
)
def test_samples_in_partitions_that_are_added_are_decided_from_their_beginning(make):
    world = make()
    campaign.begin(world)
    world.until(lambda: world.learned() > 0)
    world.broker.grow(world.topics.samples, 7)
    world.until(lambda: {t["partition"] for t in world.tallies()} == set(range(7)))
    campaign.die(world, "one", "committed")
    campaign.finish(world)


@pytest.mark.parametrize("topic", ["labels_requested", "labels", "reports"])
def test_inputs_of_the_learner_that_grow_lose_and_double_nothing(make, topic):
    world = make(twice=0.2)
    campaign.begin(world)
    world.until(lambda: world.learned() > 0)
    world.kill("learner")
    more(world, 200)
    world.broker.grow(getattr(world.topics, topic), 3)
    for _ in range(2):
        campaign.die(world, "one", "before")
        campaign.die(world, "two", "before")
    more(world, 200)
    world.start("learner", "learner")
    campaign.finish(world)


def more(world, samples):
    before = world.decided()
    world.until(lambda: world.decided() > before + samples)


# --- records that are gone ---------------------------------------------------------------------------------------------


def forget(world, topic, before):
    """Delete a topic's records below an offset, as retention does."""
    log = world.broker._log
    for p, end in world.broker.ends(topic).items():
        base = base_id(log.topic(topic).id, p)
        with log.transaction():
            log.db.execute("DELETE FROM record WHERE id >= ? AND id < ?", (base, base + min(before, end)))


def at_rest(world):
    """Let something be decided and learned, then end everybody."""
    campaign.begin(world)
    world.until(lambda: world.learned() > 5)
    world.dry()
    world.wait_until_quiet()
    for name in campaign.EVERYBODY:
        assert world.terminate(name) == 0


@pytest.mark.fault(
    "records deleted before they were read",
    "as retention does, on the embedded log: ends with what to do, skips nothing",
)
def test_samples_deleted_before_they_were_decided_stop_the_scorer_with_what_to_do(make):
    world = make()
    at_rest(world)
    decided = world.decided()
    world.feed(400)
    forget(world, world.topics.samples, 1 << 30)
    world.feed(40)
    world.start("one", "scorer")
    assert world.ended("one") == 1
    assert "raise the topic's retention.ms or retention.bytes" in world.told("one")
    assert f"{world.topics.samples}-" in world.told("one")
    assert world.decided() == decided, "nothing is skipped silently"


@pytest.mark.parametrize("topic", ["labels", "labels_requested"])
def test_answers_and_requests_deleted_before_they_were_read_stop_the_learner_with_what_to_do(make, topic):
    world = make()
    at_rest(world)
    world.start("one", "scorer")
    world.feed(400)
    world.until(lambda: world.decided() == sum(world.broker.ends(world.topics.samples).values()))
    world.until(lambda: len(world.records(world.topics.labels)) == len(world.requests()))
    learned = world.learned()
    name = getattr(world.topics, topic)
    forget(world, name, 1 << 30)
    world.start("learner", "learner")
    assert world.ended("learner") == 1
    assert "raise the topic's retention.ms or retention.bytes" in world.told("learner")
    assert f"{name}-0@" in world.told("learner")
    assert world.learned() == learned, "nothing is skipped silently"


@pytest.mark.fault(
    "records deleted before they were read",
    "as retention does, on the embedded log: ends with what to do, skips nothing",
)
def test_a_ledger_without_its_beginning_is_refused_with_what_to_do(make):
    world = make()
    at_rest(world)
    forget(world, world.topics.ledger, 3)
    for name in ("learner", "one"):
        world.start(name, campaign.ROLES[name])
        assert world.ended(name) == 1
        assert f"{world.topics.ledger}-0@0 is not in" in world.told(name)


@pytest.mark.fault(
    "records deleted before they were read",
    "positions gone too, on the embedded log: what is lost is counted and told",
)
def test_samples_deleted_while_nobody_had_a_position_are_told_of(make):
    world = make()
    at_rest(world)
    with world.broker._log.transaction():
        world.broker._log.forget(f"{world.settings.group}-scorer")
    world.feed(400)
    ends = world.broker.ends(world.topics.samples)
    forget(world, world.topics.samples, 1 << 30)
    world.feed(40)
    world.start("learner", "learner")
    world.start("one", "scorer")
    world.until(lambda: world.told("one").count("no longer retained") == len(ends))
