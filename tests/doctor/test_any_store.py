"""What is asked of every store: that it does what it says, how fast, by which clock; and that nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import pytest

from peerload.clock import SystemClock
from peerload.doctor import rehearsal
from peerload.errors import InvalidArgument, Unavailable
from peerload.finding import Finding, Level, worst
from peerload.metadata.directory.liveness import SERVER_PREFIX
from peerload.metadata.records import SOURCE_PREFIX
from peerload.store.base import Any, Beat, Entry, Expect, Feed, Keep, Listing, Position, Touch, Touched, Value, Written
from peerload.store.examinable import Examinable
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from tests.doctor.examined import about, examined, problems


class ThirdPartyStore:
    """A store that has nothing but the contract. A test hears of each call before it goes on, and may change it."""

    def __init__(self, clock: ManualClock) -> None:
        self.memory = MemoryStore(clock)
        self.before: Callable[[str], Awaitable[None]] = lambda verb: asyncio.sleep(0)

    @property
    def url(self) -> str:
        return "third:party"

    @property
    def pace(self) -> float:
        return self.memory.pace

    async def open(self) -> None:
        await self.before("open")
        await self.memory.open()

    async def close(self) -> None:
        await self.memory.close()

    def now(self) -> int:
        return self.memory.now()

    @property
    def doubt_ms(self) -> float:
        return self.memory.doubt_ms

    async def put(
        self,
        key: str,
        value: Value,
        *,
        blob: bytes | Keep = Keep.KEEP,
        expect: Expect = Any.ANY,
        beat: Beat | None = None,
    ) -> Written:
        await self.before("put")
        return await self.memory.put(key, value, blob=blob, expect=expect, beat=beat)

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        await self.before("touch")
        return await self.memory.touch(touches)

    async def get(self, key: str) -> Entry | None:
        await self.before("get")
        return await self.memory.get(key)

    async def blob(self, key: str, generation: int) -> bytes:
        await self.before("blob")
        return await self.memory.blob(key, generation)

    async def delete(self, key: str, *, expect: object = Any.ANY, unless_beaten_since: int | None = None) -> int:
        await self.before("delete")
        return await self.memory.delete(key, expect=expect, unless_beaten_since=unless_beaten_since)  # type: ignore[arg-type]

    async def list(self, prefix: str = "") -> Listing:
        return await self.memory.list(prefix)

    def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        return self.memory.watch(position, prefix)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> ThirdPartyStore:
    return ThirdPartyStore(clock)


async def left_behind(store: ThirdPartyStore) -> list[str]:
    await store.memory.open()
    entries = (await store.memory.list()).entries
    await store.memory.close()
    return [entry.key for entry in entries]


async def test_a_store_that_has_nothing_but_the_contract(store: ThirdPartyStore, clock: ManualClock) -> None:
    assert not isinstance(store, Examinable)
    await store.memory.open()  # a fleet's, with a server on it
    await store.memory.put("source/a/0/w", {"n": 1})
    report = await examined(store, clock)
    assert report.level is Level.OK
    assert (report.url, report.reached, report.rehearsed) == ("third:party", True, True)
    assert await left_behind(store) == ["source/a/0/w"]
    assert await store.memory.get("source/a/0/w") is not None  # it is open still


def test_its_key_is_nobody_elses() -> None:
    assert not rehearsal.PREFIX.startswith((SOURCE_PREFIX, SERVER_PREFIX))
    assert not SOURCE_PREFIX.startswith(rehearsal.PREFIX)


async def test_memory_is_a_store_that_forgets() -> None:
    report = await examined("memory:")
    assert about(report, "a store in memory").level is Level.WARNING
    assert not problems(report)


@pytest.mark.parametrize(
    ("verb", "seconds", "words"),
    [
        ("get", 0.03, "a read takes 30 ms (median of 24; the worst 30 ms)"),
        ("put", 0.3, "a durable write takes 300 ms"),
    ],
)
async def test_a_slow_store_is_warned_of(
    store: ThirdPartyStore, clock: ManualClock, verb: str, seconds: float, words: str
) -> None:
    async def slow(called: str) -> None:
        if called == verb:
            clock.jump(seconds)

    store.before = slow
    report = await examined(store, clock)
    assert about(report, words).level is Level.WARNING
    assert about(report, words).advice
    assert not problems(report)


@pytest.mark.parametrize("ahead", [5_001, -60_000])
async def test_clocks_that_differ_are_warned_of(store: ThirdPartyStore, clock: ManualClock, ahead: int) -> None:
    async def step(verb: str) -> None:
        if verb == "open":
            clock.set_wall_ms(clock.wall_ms() + ahead)

    store.before = step
    found = about(await examined(store, clock), "this host's clock is")
    assert found.level is Level.WARNING
    assert ("ahead of" if ahead > 0 else "behind") in found.what


@pytest.mark.parametrize("verb", ["put", "get", "blob", "touch"])
async def test_a_verb_that_fails_is_a_problem_and_leaves_nothing(
    store: ThirdPartyStore, clock: ManualClock, verb: str
) -> None:
    async def fail(called: str) -> None:
        if called == verb:
            raise Unavailable("the disk is gone")

    store.before = fail
    report = await examined(store, clock)
    (problem,) = problems(report)
    assert "could not be written to and read back: the disk is gone" in problem.what
    assert report.reached
    assert await left_behind(store) == []


async def test_what_cannot_be_removed_is_named(store: ThirdPartyStore, clock: ManualClock) -> None:
    async def fail(called: str) -> None:
        if called == "delete":
            raise Unavailable("the disk is gone")

    store.before = fail
    (problem,) = problems(await examined(store, clock))
    (key,) = await left_behind(store)
    assert f"{key!r}, which no server reads, may be left behind (the disk is gone)" in problem.what


async def test_a_store_that_gives_back_something_else(
    store: ThirdPartyStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blob(key: str, generation: int) -> bytes:
        return b"something else"

    monkeypatch.setattr(store.memory, "blob", blob)
    (problem,) = problems(await examined(store, clock))
    assert "another came back" in problem.what
    assert await left_behind(store) == []


async def test_a_feed_that_is_silent(
    store: ThirdPartyStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        while True:
            yield Feed((), position)
            await asyncio.sleep(0.001)

    monkeypatch.setattr(store.memory, "watch", silence)
    monkeypatch.setattr(rehearsal, "_HEARD_SECONDS", 0.05)
    (problem,) = problems(await examined(store, clock))
    assert "did not come through the feed" in problem.what
    assert await left_behind(store) == []


@pytest.mark.parametrize("verb", ["put", "get", "touch", "delete"])
async def test_cancelled_in_the_middle_it_leaves_nothing(store: ThirdPartyStore, clock: ManualClock, verb: str) -> None:
    reached, let_go = asyncio.Event(), asyncio.Event()

    async def wait(called: str) -> None:
        if called == verb:
            reached.set()
            await let_go.wait()

    store.before = wait
    task = asyncio.create_task(examined(store, clock))
    await reached.wait()
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert task.done() is (verb == "get")  # a write in flight is waited for, a read is not
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await left_behind(store) == []


async def test_a_store_that_does_not_open(store: ThirdPartyStore, clock: ManualClock) -> None:
    async def nobody(verb: str) -> None:
        raise Unavailable("nobody is there")

    async def newer(verb: str) -> None:
        raise InvalidArgument("store", "it has a newer layout")

    store.before = nobody
    report = await examined(store, clock)
    assert (report.reached, report.rehearsed, [each.what for each in problems(report)]) == (
        False,
        False,
        ["nobody is there"],
    )
    store.before = newer
    report = await examined(store, clock)
    assert (report.reached, report.rehearsed, [each.what for each in problems(report)]) == (
        True,
        False,
        ["it has a newer layout"],
    )


def test_the_worst_level_counts() -> None:
    ok, warning, problem = (Finding(level, "x") for level in Level)
    assert worst([]) is Level.OK
    assert worst([warning, ok]) is Level.WARNING
    assert worst([warning, problem, ok]) is Level.PROBLEM
    assert str(Finding(Level.OK, "x")) == "x"
    assert str(Finding(Level.WARNING, "x", "do y")) == "x: do y"


async def test_the_times_are_real_with_a_real_clock(store: ThirdPartyStore) -> None:
    report = await examined(store, SystemClock())
    assert not problems(report)
    assert about(report, "a read takes")
