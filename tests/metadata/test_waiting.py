"""Waiting with an end, on a clock that is moved by hand."""

from __future__ import annotations

import asyncio

import pytest

from peerload.errors import Unavailable
from peerload.metadata.patience import Patience
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.waiting import settled_within
from peerload.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_a_timer_acts_at_its_moment_and_not_before(clock: ManualClock) -> None:
    acted: list[float] = []
    for seconds in (2.0, 1.0, 0.0):
        clock.call_later(seconds, lambda: acted.append(clock.monotonic() - 1_000.0))
    assert acted == []
    await clock.settle()
    assert acted == [0.0]
    await clock.advance(1.5)
    assert acted == [0.0, 1.0]
    await clock.advance(1.5)
    assert acted == [0.0, 1.0, 2.0]


async def test_a_timer_that_is_cancelled_does_nothing_even_if_it_is_due(clock: ManualClock) -> None:
    acted: list[str] = []
    due = clock.call_later(0, lambda: acted.append("due"))
    later = clock.call_later(1, lambda: acted.append("later"))
    assert clock.sleepers == 1
    due.cancel()
    later.cancel()
    assert clock.sleepers == 0
    await clock.advance(2)
    assert acted == []


async def test_what_is_settled_in_time_leaves_no_timer_behind(clock: ManualClock) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(settled_within(clock, 5, future))
    await clock.settle()
    assert clock.sleepers == 1
    future.set_result(None)
    assert await waiting
    assert clock.sleepers == 0


async def test_what_is_not_settled_is_left_as_it_was(clock: ManualClock) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(settled_within(clock, 5, future))
    await clock.advance(5)
    assert not await waiting
    assert not future.done()
    assert not await settled_within(clock, 0, future)
    future.set_result(None)
    assert await settled_within(clock, 0, future)


async def test_what_hangs_has_ended_when_its_caller_is_told(clock: ManualClock) -> None:
    undone: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            undone.append("the lock")

    patience = Patience(clock, MetadataSettings(), lambda: True)
    asking = asyncio.create_task(patience.write(hang, clock.monotonic() + 1))
    await clock.settle()
    assert undone == []
    await clock.advance(1)
    with pytest.raises(Unavailable, match="in time"):
        await asking
    assert undone == ["the lock"]
    assert clock.sleepers == 0


async def test_a_timeout_of_the_store_itself_is_not_taken_for_the_callers(clock: ManualClock) -> None:
    async def fail() -> None:
        raise TimeoutError("a defect")

    with pytest.raises(TimeoutError, match="a defect"):
        await Patience(clock, MetadataSettings(), lambda: True).write(fail, None)


async def test_nothing_is_begun_for_a_caller_whose_time_is_over(clock: ManualClock) -> None:
    async def begin() -> None:
        raise AssertionError("it was begun")

    with pytest.raises(Unavailable, match="in time"):
        await Patience(clock, MetadataSettings(), lambda: True).write(begin, clock.monotonic())


async def test_who_gives_up_takes_its_question_along(clock: ManualClock) -> None:
    ended = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asking = asyncio.create_task(Patience(clock, MetadataSettings(), lambda: True).ask(hang, None))
    await clock.settle()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert ended.is_set()
    assert clock.sleepers == 0
