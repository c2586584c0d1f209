"""The clock of a store that lives elsewhere is that of its server, and steady."""

from __future__ import annotations

import structlog

from peerload.store.servertime import Measured, ServerTime
from peerload.testing import ManualClock

HOUR_MS = 3_600_000


async def test_it_goes_by_redis_and_not_by_the_host() -> None:
    clock = ManualClock()
    redis = clock.wall_ms() + HOUR_MS
    time = ServerTime(clock, "Redis")
    with structlog.testing.capture_logs() as logs:
        time.begin(Measured(redis))
    assert time.now() == redis
    assert [log["seconds_ahead"] for log in logs] == [-3600.0]
    await clock.advance(10)
    clock.set_wall_ms(0)
    assert time.now() == redis + 10_000


async def test_a_small_difference_is_made_up_little_by_little() -> None:
    clock = ManualClock()
    redis = clock.wall_ms()
    time = ServerTime(clock, "Redis")
    time.begin(Measured(redis))
    for turn in range(1, 11):
        await clock.advance(30)
        before = time.now()
        time.compare(Measured(redis + turn * 30_000 + 100))
        assert 0 <= time.now() - before <= 15
    assert time.now() == redis + 300_000 + 100
    await clock.advance(30)
    time.compare(Measured(redis + 330_000))
    assert time.now() == redis + 330_000 + 100, "it never goes back"
    await clock.advance(0.02)
    assert time.now() == redis + 330_020 + 85


async def test_a_clock_that_is_far_ahead_is_followed_and_one_behind_is_not() -> None:
    clock = ManualClock()
    redis = clock.wall_ms()
    time = ServerTime(clock, "Redis")
    time.begin(Measured(redis))
    with structlog.testing.capture_logs() as logs:
        time.compare(Measured(redis + HOUR_MS))
        assert time.now() == redis + HOUR_MS
        time.compare(Measured(redis))
        time.compare(Measured(redis))
        assert time.now() == redis + HOUR_MS
    assert [log["followed"] for log in logs] == [True, False]


async def test_a_late_answer_is_no_reason_to_change_it() -> None:
    clock = ManualClock()
    redis = clock.wall_ms()
    time = ServerTime(clock, "Redis")
    time.begin(Measured(redis))
    for turn in range(1, 5):
        await clock.advance(30)
        time.compare(Measured(redis + turn * 30_000 + 80, doubt_ms=90))
        assert time.now() == redis + turn * 30_000
    await clock.advance(30)
    time.compare(Measured(redis + 150_000 + 80, doubt_ms=70))
    assert time.now() == redis + 150_000 + 10


async def test_it_tells_by_how_much_it_may_be_off() -> None:
    clock = ManualClock()
    redis = clock.wall_ms()
    time = ServerTime(clock, "Redis")
    time.begin(Measured(redis, doubt_ms=3))
    assert time.doubt_ms == 3
    await clock.advance(30)
    assert time.doubt_ms == 3 + 6
    # An answer that came late is less exact than what is known, unless it contradicts that.
    time.compare(Measured(redis + 30_000 + 10, doubt_ms=20))
    assert time.doubt_ms == 9
    time.compare(Measured(redis + 30_000 + 1, doubt_ms=2))
    assert time.doubt_ms == 3
    time.compare(Measured(redis + 30_000 + 100, doubt_ms=20))
    assert time.doubt_ms == 120
    time.compare(Measured(redis + 30_000, doubt_ms=1))
    assert time.doubt_ms == 1
    # What is not followed is in doubt.
    time.compare(Measured(redis - HOUR_MS))
    assert time.doubt_ms == HOUR_MS + 30_000
    time.compare(Measured(redis + HOUR_MS, doubt_ms=2))
    assert time.doubt_ms == 4
