"""A snapshot is a cache: whatever is wrong with it, the ledger is replayed and the fold is the same."""

from __future__ import annotations

import os
import pickle
import time

import numpy as np
import pytest

from stream_al.service.follower import Follower
from stream_al.service.snapshot import KEPT, Snapshots
from tests.lockstep import Lockstep

pytestmark = pytest.mark.fault(
    "a snapshot that is cut, spoiled, forged, another's",
    "the ledger is replayed instead, and nothing foreign is unpickled",
)
BATCH = [{"x": x / 3, "y": -x / 5, "where": "a"} for x in range(-9, 10)]


@pytest.fixture(scope="module")
def run():
    return Lockstep().run(rounds=20)


@pytest.fixture
def saved(run, tmp_path):
    """A state directory with one snapshot of the middle of the ledger."""
    follower = Follower(run.broker, "ledger", Snapshots(tmp_path))
    follower.catch_up(follower.end() // 2)
    follower.save()
    return tmp_path


def open_again(run, directory):
    follower = Follower(run.broker, "ledger", Snapshots(directory))
    began = follower.fold.position
    follower.catch_up(follower.end())
    running = run.learner.follower.fold
    np.testing.assert_allclose(follower.fold.model.predict(BATCH), running.model.predict(BATCH), atol=1e-9)
    assert follower.fold.version == running.version
    assert follower.fold.closed == running.closed
    assert follower.fold.accuracy.window(None) == running.accuracy.window(None)
    return began


def one(directory):
    return next(directory.glob("*.fold"))


def test_it_is_used_and_gives_the_same_fold(run, saved):
    assert open_again(run, saved) > 0


def test_none_is_needed(run, tmp_path):
    assert open_again(run, tmp_path / "new") == 0


@pytest.mark.parametrize("at", [0, 10, 40, 1000, -1])
def test_a_flipped_bit_is_noticed(run, saved, at):
    content = bytearray(one(saved).read_bytes())
    content[at] ^= 4
    one(saved).write_bytes(content)
    assert open_again(run, saved) == 0


@pytest.mark.parametrize("length", [0, 5, 32, 500])
def test_a_truncated_one_is_noticed(run, saved, length):
    one(saved).write_bytes(one(saved).read_bytes()[:length])
    assert open_again(run, saved) == 0


def test_one_of_another_installation_is_not_unpickled(run, saved):
    (saved / "key").write_bytes(b"another key, of thirty-two bytes")
    assert open_again(run, saved) == 0


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_that_is_not_whole_is_replaced(run, saved, content):
    (saved / "key").write_bytes(content)
    assert open_again(run, saved) == 0
    assert len((saved / "key").read_bytes()) == 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_key_that_others_could_read_or_write_is_replaced(run, saved, mode):
    before = (saved / "key").read_bytes()
    (saved / "key").chmod(mode)
    assert open_again(run, saved) == 0, "its snapshots are not unpickled"
    assert (saved / "key").read_bytes() != before
    assert (saved / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_a_link_is_replaced(run, saved, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((saved / "key").read_bytes())
    elsewhere.chmod(0o600)
    (saved / "key").unlink()
    (saved / "key").symlink_to(elsewhere)
    assert open_again(run, saved) == 0
    assert not (saved / "key").is_symlink()
    assert elsewhere.exists()


@pytest.mark.parametrize(("mode", "used"), [(0o755, True), (0o775, False), (0o777, False)])
def test_a_directory_that_others_could_write_to_is_not_trusted_and_made_private(run, saved, mode, used):
    saved.chmod(mode)
    assert (open_again(run, saved) > 0) == used
    assert saved.stat().st_mode & 0o777 == 0o700


def test_a_planted_file_is_not_unpickled(run, saved):
    """Neither with a seal of another key nor in place of a snapshot that is being written."""

    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    path = one(saved)
    foreign = Snapshots(saved.parent / "foreign")
    path.write_bytes(foreign.sealed(path.name, pickle.dumps(Trap())))
    assert open_again(run, saved) == 0


@pytest.mark.parametrize("position", ["", "x", "-", "9" * 30, "²", "١"])
def test_odd_names_are_passed_over(run, saved, position):
    path = one(saved)
    ledger, _, rest = path.name.split("-")
    path.rename(path.with_name(f"{ledger}-{position}-{rest}"))
    assert open_again(run, saved) == 0


def test_a_new_directory_is_private(tmp_path):
    before = os.umask(0)
    try:
        made = Snapshots(tmp_path / "a" / "state")
    finally:
        os.umask(before)
    assert made.directory.stat().st_mode & 0o777 == 0o700
    assert (made.directory / "key").stat().st_mode & 0o777 == 0o600


def test_a_renamed_one_is_not_believed(run, saved):
    path = one(saved)
    ledger, position, rest = path.name.split("-")
    path.rename(path.with_name(f"{ledger}-{int(position) - 3:020d}-{rest}"))
    assert open_again(run, saved) == 0


def test_one_of_another_ledger_or_beyond_the_end_is_ignored(run, saved):
    other = Lockstep().run(rounds=3)
    assert open_again(other, saved) == 0
    path = one(saved)
    snapshots = Snapshots(saved)
    assert snapshots.load(run.learner.follower.fold.genesis, 5) is None
    assert path.exists()


def test_only_the_last_few_are_kept_and_files_are_private(run, tmp_path):
    follower = Follower(run.broker, "ledger", Snapshots(tmp_path))
    for part in range(1, 7):
        follower.catch_up(follower.end() * part // 6)
        follower.save()
    assert len(list(tmp_path.glob("*.fold"))) == KEPT
    assert not list(tmp_path.glob("*.part"))
    assert all(p.stat().st_mode & 0o077 == 0 for p in tmp_path.iterdir())


def test_what_a_killed_process_left_half_written_goes_at_a_later_start(tmp_path):
    old, new = tmp_path / "old.1.part", tmp_path / "new.2.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    Snapshots(tmp_path)
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


def test_it_tells_what_a_start_without_it_would_take(run, saved):
    half = Follower(run.broker, "ledger", Snapshots(saved))
    before = half.replay_s
    assert before > 0
    half.catch_up(half.end())
    assert half.replay_s > before
    half.save()
    assert Follower(run.broker, "ledger", Snapshots(saved)).replay_s == half.replay_s
