"""Outages do not count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peerload.metadata.directory.liveness import Liveness, episode_key
from peerload.store.base import Beat, Entry

TIMEOUT = 90
TOLERANCE = 5


def liveness(*episodes: tuple[int, int]) -> Liveness:
    made = Liveness(timeout_ms=TIMEOUT, tolerance_ms=TOLERANCE)
    for number, (since, until) in enumerate(episodes):
        made.put(Entry(episode_key(f"s{number}", since), {}, number + 1, number + 1, Beat(until), None))
    return made


def test_without_an_outage_age_is_time() -> None:
    alive = liveness((100, 1000))
    assert alive.cutoff(1000) == 910
    assert alive.cutoff(1004) == 914
    assert alive.age(950, 1000) == 50
    assert alive.last_outage_end(1000) == 100


def test_an_outage_that_lasts() -> None:
    alive = liveness((100, 1000))
    assert alive.cutoff(1005) == 915
    assert alive.cutoff(1006) == 910
    assert alive.cutoff(9999) == 910
    assert alive.last_outage_end(9999) == 9999
    assert alive.age(950, 9999) == 50


def test_an_outage_that_is_over() -> None:
    alive = liveness((100, 1000), (5000, 5030))
    assert alive.cutoff(5030) == 940
    assert alive.last_outage_end(5030) == 5000
    alive = liveness((100, 1000), (5000, 5089))
    assert alive.cutoff(5089) == 999
    alive = liveness((100, 1000), (5000, 5091))
    assert alive.cutoff(5091) == 5001
    assert alive.age(990, 5091) == 101


def test_a_heartbeat_from_within_an_outage_is_as_old_as_its_end() -> None:
    alive = liveness((100, 1000), (5000, 5090))
    assert alive.age(3000, 5090) == 90
    assert alive.cutoff(5090) <= 3000


def test_a_short_life_is_an_outage_on_either_side() -> None:
    alive = liveness((100, 1000), (2000, 2010), (3000, 3020))
    assert alive.cutoff(3020) == 1000 - (TIMEOUT - 30)


def test_one_server_covers_for_another() -> None:
    alive = liveness((100, 1000), (900, 2000), (1500, 1600))
    assert alive.cutoff(2000) == 1910
    assert alive.last_outage_end(2000) == 100


def test_before_the_first_server_nobody_was_there() -> None:
    assert liveness().cutoff(10**12) == 0
    assert liveness((1000, 1050)).cutoff(1050) == 0
    assert liveness((1000, 1091)).cutoff(1091) == 1001


def test_signs_of_life_and_removal() -> None:
    alive = liveness((100, 1000))
    key = episode_key("s0", 100)
    alive.beat(key, 2, 2000)
    assert alive.episodes[key].until == 1000
    alive.beat(key, 1, 2000)
    alive.beat(key, 1, 1500)
    assert alive.episodes[key].until == 2000
    alive.remove(key, 1)
    assert alive.episodes
    alive.remove(key, 2)
    assert not alive.episodes


times = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 300)), min_size=1, max_size=6)


@given(times, st.integers(0, 300), st.integers(0, 900))
def test_the_cutoff_is_where_the_age_is_the_timeout(spans: list[tuple[int, int]], later: int, stamp: int) -> None:
    alive = liveness(*((since, since + length) for since, length in spans))
    now = max(since + length for since, length in spans) + later
    cutoff = alive.cutoff(now)
    assert 0 <= cutoff <= now
    # A heartbeat has run out if and only if more than the timeout has passed with somebody there.
    if stamp <= now:
        assert (stamp < cutoff) == (alive.age(stamp, now) > TIMEOUT)
