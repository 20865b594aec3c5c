"""A snapshot is a cache: whatever is wrong with it, the ledger is replayed and the fold is the same."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from stream_al.service.follower import Follower
from stream_al.service.snapshot import KEPT, Snapshots
from tests.lockstep import Lockstep

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
