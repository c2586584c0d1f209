"""The API server's clock, read from headers of whole seconds."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
from dataclasses import dataclass

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.store.kubernetes.kubetime import KubeTime
from peerload.testing import ManualClock

DRIFT = 0.0002


@dataclass
class ApiServer:
    """A clock that differs from the host's, and runs a little faster or slower."""

    clock: ManualClock
    ahead_ms: float = 0.0
    drift: float = 0.0
    born: float = 1_000.0

    def time_ms(self, at: float) -> float:
        return 1_750_000_000_000 + self.ahead_ms + (at - self.born) * 1_000.0 * (1 + self.drift)

    def answer(self, time: KubeTime, there: float, back: float) -> None:
        """The header is written `there` seconds after it is asked for, and comes `back` seconds later."""
        before = self.clock.monotonic()
        written = self.time_ms(before + there)
        self.clock.jump(there + back)
        date = email.utils.formatdate(math.floor(written / 1_000.0), usegmt=True)
        time.heard(before, self.clock.monotonic(), date)

    def ahead_of(self, clock: ManualClock) -> float:
        return self.time_ms(clock.monotonic()) - clock.monotonic() * 1_000.0


AHEAD = st.floats(-1e9, 1e9)
RATE = st.floats(-DRIFT, DRIFT)
TRIPS = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=60)


@given(ahead_ms=AHEAD, drift=RATE, trips=TRIPS)
def test_the_truth_is_always_between_the_bounds(
    ahead_ms: float, drift: float, trips: list[tuple[float, float, float]]
) -> None:
    clock = ManualClock()
    server = ApiServer(clock, ahead_ms, drift)
    time = KubeTime(clock)
    assert time.bounds_ms == (-math.inf, math.inf)
    told = -math.inf
    for pause, there, back in trips:
        clock.jump(pause)
        before = time.now()
        server.answer(time, there, back)
        low, high = time.bounds_ms
        assert low - 0.01 <= server.ahead_of(clock) <= high + DRIFT * 4_000 + 0.01
        assert high - low <= 1_000 + (there + back) * 1_000 + 0.01
        assert told == -math.inf or time.now() >= before
        clock.jump(0.05)  # where it was set back it stands still that long
        told = time.now()
        # Never further off than the one answer that it began with left open.
        off = abs(told - server.time_ms(clock.monotonic()))
        assert off <= 500 + 2_000 + DRIFT * 4_000 + 2
        assert off <= time.doubt_ms + DRIFT * 4_000 + 1


@settings(max_examples=15)
@given(ahead_ms=AHEAD, drift=RATE, seed=st.integers(0, 1_000))
def test_many_answers_tell_the_time_to_a_few_milliseconds(ahead_ms: float, drift: float, seed: int) -> None:
    chance = random.Random(seed)
    clock = ManualClock()
    server = ApiServer(clock, ahead_ms, drift)
    time = KubeTime(clock)
    for _ in range(1_000):
        clock.jump(chance.uniform(0, 6))
        server.answer(time, chance.uniform(0.001, 0.01), chance.uniform(0.001, 0.01))
    low, high = time.bounds_ms
    assert high - low < 250
    assert abs(time.now() - server.time_ms(clock.monotonic())) < 150


def test_another_api_server_with_another_clock_takes_over() -> None:
    clock = ManualClock()
    one, other = ApiServer(clock), ApiServer(clock, ahead_ms=1_700)
    time = KubeTime(clock)
    chance = random.Random(1)
    for _ in range(200):
        clock.jump(chance.uniform(0, 1))
        one.answer(time, 0.002, 0.002)
    with structlog.testing.capture_logs() as logs:
        for _ in range(300):
            clock.jump(20)
            before = time.now()
            other.answer(time, 0.002, 0.002)
            assert abs(time.now() - before) <= 4 + 10 + 1  # little by little
    low, high = time.bounds_ms
    assert low <= other.ahead_of(clock) <= high
    assert abs(time.now() - other.time_ms(clock.monotonic())) <= 600
    assert logs == []


def test_api_servers_that_answer_in_turn_leave_the_clock_steady() -> None:
    clock = ManualClock()
    servers = [ApiServer(clock, ahead_ms=ahead) for ahead in (0, 900, -700)]
    time = KubeTime(clock)
    servers[0].answer(time, 0.002, 0.002)
    chance = random.Random(2)
    for _ in range(1_000):
        clock.jump(0.5)
        before = time.now()
        chance.choice(servers).answer(time, 0.002, 0.002)
        assert 0 <= time.now() - before <= 4 + 1 + 1
        assert abs(time.now() - servers[0].time_ms(clock.monotonic())) <= 1_500


def test_a_jump_ahead_is_followed_and_one_back_is_not() -> None:
    clock = ManualClock()
    server = ApiServer(clock)
    time = KubeTime(clock)
    server.answer(time, 0.001, 0.001)
    with structlog.testing.capture_logs() as logs:
        server.ahead_ms += 3_600_000
        server.answer(time, 0.001, 0.001)
        assert abs(time.now() - server.time_ms(clock.monotonic())) <= 1_100
        ahead = time.now()
        server.ahead_ms -= 3_600_000
        server.answer(time, 0.001, 0.001)
        server.answer(time, 0.001, 0.001)
        assert 0 <= time.now() - ahead <= 10
    assert [(log["event"], log["followed"]) for log in logs] == [
        ("the API server's clock has jumped", True),
        ("the API server's clock has jumped", False),
    ]


def test_the_host_whose_clock_differs_is_told_so() -> None:
    clock = ManualClock(wall_ms=1_750_000_060_000)
    with structlog.testing.capture_logs() as logs:
        ApiServer(clock).answer(KubeTime(clock), 0.001, 0.001)
    assert [log["event"] for log in logs] == ["this host's clock and the API server's differ; the API server's counts"]
    assert 58 <= logs[0]["seconds_ahead"] <= 61


@given(text=st.text(st.characters(codec="latin-1"), max_size=40))
def test_a_header_that_is_no_date_says_nothing(text: str) -> None:
    clock = ManualClock()
    time = KubeTime(clock)
    before = time.now()
    time.heard(1.0, 2.0, text)
    time.heard(1.0, 2.0, "Mon, 99 Foo 2025 77:00:00 GMT")
    assert time.now() == before
    assert time.bounds_ms == (-math.inf, math.inf)


@pytest.mark.parametrize("ahead_ms", [0.0, 12_345.6, -777.7])
async def test_it_is_known_to_a_few_milliseconds_before_it_is_used(ahead_ms: float) -> None:
    """Two servers that start one after the other agree at once, wherever in a second of the API server's that is."""
    clock = ManualClock()
    server = ApiServer(clock, ahead_ms=ahead_ms)
    for start in (0.0, 0.31, 0.77):
        clock.jump(start)
        time = KubeTime(clock)
        asked = 0

        async def ask(time: KubeTime = time) -> None:
            nonlocal asked
            asked += 1
            clock.jump(0.01)  # the pause between two questions
            server.answer(time, 0.002, 0.003)

        await time.learn(ask)
        assert asked < 100
        assert abs(time.now() - server.time_ms(clock.monotonic())) <= 20
        before = asked
        await time.learn(ask)
        assert asked == before, "what is known is not learned again"


@pytest.mark.parametrize("drift", [-DRIFT, 0.0, DRIFT])
async def test_it_is_kept_exact_by_few_questions(drift: float) -> None:
    clock = ManualClock()
    server = ApiServer(clock, ahead_ms=345.6, drift=drift)
    time = KubeTime(clock)
    chance = random.Random(3)
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        server.answer(time, chance.uniform(0.001, 0.004), chance.uniform(0.001, 0.004))

    server.answer(time, 0.002, 0.002)
    keeping = asyncio.ensure_future(time.keep(ask))
    await clock.advance(30)
    low, high = time.bounds_ms
    assert high - low < 20
    assert asked < 31
    before = asked
    await clock.advance(600)
    low, high = time.bounds_ms
    assert low - 1 <= server.ahead_of(clock) <= high + 1
    assert time.doubt_ms < 15
    assert abs(time.now() - server.time_ms(clock.monotonic())) <= time.doubt_ms + 1
    assert asked - before < 300
    keeping.cancel()
    await asyncio.wait([keeping])
