"""The judgement of a soak is tried here, the soak itself by ``make soak``."""

from tests.soak.__main__ import Result, resident_mb


def result(mb_per_min, minutes):
    return Result(1_000.0, 10, 200.0, 201.0, mb_per_min, minutes)


def test_memory_that_grows_is_not_flat():
    assert result(0.9, 6.7).flat
    assert not result(1.5, 6.7).flat
    assert "NOT FLAT" in str(result(1.5, 6.7))
    assert result(10.0, 0.5).flat, "a short run says little"
    assert not result(20.0, 0.5).flat


def test_the_resident_size_is_in_megabytes():
    import os

    assert 10 < resident_mb(os.getpid()) < 2_000
