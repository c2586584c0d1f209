"""Room for bytes: the limit, the order, small ones, and who gives up."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import LimitExceeded
from peerload.server.limits import SMALL_BYTES
from peerload.server.room import Held, Room

UNIT = 2 * SMALL_BYTES


def made(units: int, *, max_waiting: int | None = None) -> Room:
    return Room(units * UNIT, setting="--the-limit", max_waiting=max_waiting)


async def turns() -> None:
    """Long enough for whoever can go on to have done so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_wait_are_let_in_in_order() -> None:
    room = made(2)
    first, second = await room.take(UNIT, None), await room.take(UNIT, None)
    order: list[str] = []

    async def wait(name: str, units: int) -> Held:
        held = await room.take(units * UNIT, None)
        order.append(name)
        return held

    # There will be room for the third's one unit before there is for the second's two, and it waits all the same.
    waiting = [asyncio.create_task(wait(name, units)) for name, units in (("a", 1), ("b", 2), ("c", 1))]
    await turns()
    assert (room.used, room.waiting) == (2 * UNIT, 4 * UNIT)
    first.release()
    await turns()
    assert order == ["a"]
    second.release()
    await turns()
    assert order == ["a"]
    waiting[0].result().release()
    await turns()
    assert order == ["a", "b"]
    waiting[1].result().release()
    (await waiting[2]).release()
    assert (order, room.used, room.waiting) == (["a", "b", "c"], 0, 0)


async def test_small_ones_never_wait() -> None:
    room = made(1)
    with await room.take(UNIT, None):
        waiting = asyncio.create_task(room.take(UNIT, None))
        await turns()
        with await room.take(SMALL_BYTES, None):
            assert room.used == UNIT
        assert not waiting.done()
    (await waiting).release()
    assert room.used == 0


async def test_what_is_larger_than_the_room_gets_all_of_it() -> None:
    room = made(1)
    with await room.take(5 * UNIT, None):
        assert room.used == UNIT
    assert room.used == 0


async def test_what_shrinks_makes_room() -> None:
    room = made(1)
    held = await room.take(UNIT, None)
    waiting = asyncio.create_task(room.take(SMALL_BYTES + 1, None))
    await turns()
    held.shrink(UNIT)
    held.shrink(5)
    held.shrink(10)
    assert room.used == 5 + SMALL_BYTES + 1
    (await waiting).release()
    held.release()
    held.release()
    assert room.used == 0


async def test_who_waits_in_vain_is_told_why_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    room = made(1)
    loop = asyncio.get_running_loop()
    timeout_at, told_at = asyncio.timeout_at, []

    def timed(when: float | None) -> asyncio.Timeout:
        told_at.append(when)
        return timeout_at(when)

    monkeypatch.setattr(asyncio, "timeout_at", timed)
    with await room.take(UNIT, None):
        until = loop.time() + 0.05
        with pytest.raises(LimitExceeded, match=f"--the-limit: no room for another {UNIT} bytes: {UNIT} are taken"):
            await room.take(UNIT, until)
        (when,) = told_at
        assert when < until
        # A deadline that is over already is no reason to wait.
        with pytest.raises(LimitExceeded):
            await room.take(UNIT, loop.time() - 1)
    assert (room.used, room.waiting) == (0, 0)


async def test_a_line_that_is_full_turns_away_at_once() -> None:
    room = made(1, max_waiting=UNIT)
    with await room.take(UNIT, None):
        waiting = asyncio.create_task(room.take(UNIT, None))
        await turns()
        with pytest.raises(LimitExceeded, match="the-limit"):
            await room.take(UNIT, None)
    (await waiting).release()
    assert room.used == 0


async def test_who_gives_up_leaves_no_trace() -> None:
    room = made(1)
    held = await room.take(UNIT, None)
    gives_up, stays = (asyncio.create_task(room.take(UNIT, None)) for _ in range(2))
    await turns()
    gives_up.cancel()
    await turns()
    assert room.waiting == UNIT
    held.release()
    (await stays).release()
    # Cancelled in the very turn in which it is let in.
    held = await room.take(UNIT, None)
    gives_up = asyncio.create_task(room.take(UNIT, None))
    await turns()
    held.release()
    gives_up.cancel()
    # And the other way about.
    assert (await asyncio.gather(gives_up, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    held = await room.take(UNIT, None)
    gives_up = asyncio.create_task(room.take(UNIT, None))
    await turns()
    gives_up.cancel()
    held.release()
    await asyncio.gather(gives_up, return_exceptions=True)
    assert (room.used, room.waiting) == (0, 0)


@given(data=st.data())
def test_whatever_happens_the_room_is_never_exceeded_and_comes_back(data: st.DataObject) -> None:
    async def run() -> None:
        room = made(4)
        tasks: list[asyncio.Task[Held]] = []
        for _ in range(data.draw(st.integers(1, 25))):
            match data.draw(st.sampled_from(["take", "release", "cancel", "turn"])):
                case "take":
                    size = data.draw(st.integers(SMALL_BYTES + 1, 6 * UNIT))
                    tasks.append(asyncio.create_task(room.take(size, None)))
                case "turn":
                    await turns()
                case action if tasks:
                    task = tasks.pop(data.draw(st.integers(0, len(tasks) - 1)))
                    if action == "cancel" or not task.done():
                        task.cancel()
                    for got in await asyncio.gather(task, return_exceptions=True):
                        if isinstance(got, Held):
                            got.release()
            assert 0 <= room.used <= 4 * UNIT
        while tasks:
            (await tasks.pop(0)).release()
        assert (room.used, room.waiting) == (0, 0)

    asyncio.run(run())
