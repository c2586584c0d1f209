"""Calls take turns by caller as soon as there are more than a pass of the event loop can take."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from peerload.server.rpc import Context
from peerload.server.turns import Turns


@dataclass
class Caller:
    peer: str


@dataclass
class Machine:
    """One on which each call takes a millisecond, and nothing else takes any time."""

    now: float = 0.0
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turns = Turns(lambda: self.now)

    async def call(self, who: str) -> None:
        if not self.turns.at_once():
            await self.turns.line_up(cast(Context, Caller(who)))
        self.now += 0.001
        self.done.append(who)

    def ask(self, who: str, calls: int = 1) -> list[asyncio.Task[None]]:
        return [asyncio.ensure_future(self.call(who)) for _ in range(calls)]


@pytest.fixture
def machine() -> Machine:
    return Machine()


async def test_who_comes_alone_does_not_wait(machine: Machine) -> None:
    call: Any = machine.call("a")
    with pytest.raises(StopIteration):
        call.send(None)
    assert machine.done == ["a"]


async def test_a_flood_costs_another_a_pass_or_two(machine: Machine) -> None:
    flood = machine.ask("flood", 500)
    await asyncio.sleep(0)
    assert 0 < len(machine.done) < 10
    assert machine.turns.waiting > 490
    for _ in range(20):
        before = len(machine.done)
        (one,) = machine.ask("b")
        await one
        assert len(machine.done) - before < 20
    await asyncio.gather(*flood)
    assert machine.turns.waiting == 0


async def test_those_who_flood_share(machine: Machine) -> None:
    calls = [task for who in "abc" for task in machine.ask(who, 100)]
    await asyncio.gather(*calls)
    early = machine.done[10:160]
    assert all(40 <= early.count(who) <= 60 for who in "abc"), early
    assert len(machine.done) == 300


async def test_many_who_ask_little_do_not_shut_out_who_asks_much(machine: Machine) -> None:
    much = machine.ask("much", 100)
    little = []
    for number in range(200):
        little += machine.ask(f"little {number}") + machine.ask(f"other {number}")
        await asyncio.sleep(0)
    assert machine.done.count("much") > 50
    await asyncio.gather(*much, *little)


async def test_who_gives_up_takes_no_turn(machine: Machine) -> None:
    flood = machine.ask("flood", 1000)
    await asyncio.sleep(0)
    for each in flood:
        each.cancel()
    (one,) = machine.ask("b")
    await one
    assert len(machine.done) < 10
    for each in flood:
        with contextlib.suppress(asyncio.CancelledError):
            await each
    await asyncio.gather(*machine.ask("c", 3))
    assert machine.turns.waiting == 0


async def test_an_idle_moment_starts_afresh(machine: Machine) -> None:
    await asyncio.gather(*machine.ask("a", 50))
    for _ in range(3):
        await asyncio.sleep(0)
    call: Any = machine.call("a")
    with pytest.raises(StopIteration):
        call.send(None)
