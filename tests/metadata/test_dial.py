"""Connections to real sockets: what a host says, and what says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from peerload.clock import SystemClock
from peerload.metadata.publications.addresses import Address
from peerload.metadata.upkeep import dial as dial_module
from peerload.metadata.upkeep.dial import Answer, Dialer
from peerload.testing import ManualClock

HERE = "this-machine"


@pytest.fixture
def dialer() -> Dialer:
    return Dialer(SystemClock(), HERE)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def at(sock: socket.socket, host: str = "127.0.0.1") -> Address:
    return Address(host, sock.getsockname()[1])


@contextlib.asynccontextmanager
async def full() -> AsyncIterator[Address]:
    """A listener whose queue is full: the host is there, and says nothing to more connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            assert waiting.connect_ex(sock.getsockname()) == errno.EINPROGRESS
        yield at(sock)


async def test_a_listener_accepts_and_hears_nothing(dialer: Dialer, listener: socket.socket) -> None:
    assert await dialer.dial(at(listener), HERE) is Answer.ACCEPTED
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(5)
        assert connection.recv(1) == b""


async def test_where_nobody_listens_any_more_the_host_refuses(dialer: Dialer, listener: socket.socket) -> None:
    address = at(listener)
    listener.close()
    assert await dialer.dial(address, HERE) is Answer.REFUSED


@pytest.mark.parametrize("host", ["", "elsewhere", "localhost"])
async def test_loopback_of_others_says_nothing(dialer: Dialer, listener: socket.socket, host: str) -> None:
    assert await dialer.dial(at(listener), host) is Answer.NOTHING
    with pytest.raises(BlockingIOError):
        listener.setblocking(False)
        listener.accept()
    assert await Dialer(SystemClock(), host).dial(at(listener), host) is (
        Answer.ACCEPTED if host == "elsewhere" else Answer.NOTHING
    )


async def test_a_name_is_resolved_and_then_judged(dialer: Dialer, listener: socket.socket) -> None:
    # One of the two addresses of the name may refuse: the other accepts.
    assert await dialer.dial(at(listener, "localhost"), HERE) is Answer.ACCEPTED
    assert await dialer.dial(at(listener, "localhost"), "elsewhere") is Answer.NOTHING
    assert await dialer.dial(at(listener, "no-such-name.invalid"), HERE) is Answer.NOTHING
    assert await dialer.dial(at(listener, "a" * 64 + ".x"), HERE) is Answer.NOTHING


async def test_silence_says_nothing() -> None:
    clock = ManualClock()
    async with full() as address:
        task = asyncio.create_task(Dialer(clock, HERE).dial(address, HERE))
        await clock.advance(1.9)
        assert not task.done()
        await clock.advance(0.2)
        assert await task is Answer.NOTHING


async def test_names_that_hang_are_few_and_hold_nobody_up(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    clock = ManualClock()
    dialer = Dialer(clock, HERE)
    resolve, answer = dial_module._places, asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(address: Address, flags: int = 0) -> list[dial_module._Place]:
        if not flags:
            asyncio.run_coroutine_threadsafe(answer.wait(), loop).result(30)
        return resolve(address, flags)

    monkeypatch.setattr(dial_module, "_places", hang)
    hanging = [asyncio.create_task(dialer.dial(at(listener, "localhost"), HERE)) for _ in range(4)]
    await clock.settle()
    # A fifth is not tried; an address needs no lookup.
    assert await dialer.dial(at(listener, "localhost"), HERE) is Answer.NOTHING
    ask = asyncio.create_task(dialer.dial(at(listener), HERE))
    while not ask.done():
        await asyncio.sleep(0)
    assert ask.result() is Answer.ACCEPTED
    await clock.advance(2.1)
    assert await asyncio.gather(*hanging) == [Answer.NOTHING] * 4
    assert dialer._lookups == 4
    answer.set()
    while dialer._lookups:
        await asyncio.sleep(0)


async def test_a_process_without_descriptors_proves_nothing(dialer: Dialer, listener: socket.socket) -> None:
    address = at(listener)
    listener.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert await dialer.dial(address, HERE) is Answer.NOTHING
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await dialer.dial(address, HERE) is Answer.REFUSED


async def test_one_host_is_asked_ten_times_a_second(listener: socket.socket) -> None:
    clock = ManualClock()
    dialer = Dialer(clock, HERE)
    tasks = [asyncio.create_task(dialer.dial(at(listener), HERE)) for _ in range(100)]
    await clock.settle()

    def answers(answer: Answer) -> int:
        return sum(task.done() and task.result() is answer for task in tasks)

    # Who would wait for too long is not asked at all.
    turned_away = answers(Answer.NOTHING)
    assert 45 <= turned_away <= 55
    for seconds in range(1, 6):
        await clock.advance(1.0)
        await asyncio.sleep(0.01)
        await clock.settle()
        assert answers(Answer.ACCEPTED) <= 1 + 10 * seconds
    await asyncio.gather(*tasks)
    assert answers(Answer.ACCEPTED) == 100 - turned_away


async def test_hosts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_module, "_HOSTS", 10)
    clock = ManualClock()
    dialer = Dialer(clock, HERE)
    for number in range(100):
        assert await dialer._turn(f"10.0.0.{number}")
        await clock.advance(0.05)
    assert len(dialer._turns) <= 10
