"""Large messages are taken apart beside the event loop, one at a time, and never without bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from peerload.errors import InvalidArgument, Unavailable
from peerload.server.services import parsing
from peerload.server.services.parsing import Parser

LARGE = bytes(100 * 1024)


@pytest.fixture
def parser() -> Iterator[Parser]:
    made = Parser()
    yield made
    made.close()


async def test_small_messages_stay_on_the_loop(parser: Parser) -> None:
    assert await parser.parse(lambda message: (message, threading.current_thread()), b"x") == (
        b"x",
        threading.current_thread(),
    )


async def test_large_messages_leave_it(parser: Parser) -> None:
    thread = await parser.parse(lambda _: threading.current_thread(), LARGE)
    assert thread is not threading.current_thread()


async def test_the_event_loop_shares_the_interpreter_with_one_of_them_at_a_time(parser: Parser) -> None:
    at_it = 0
    most = 0

    def count(_: bytes) -> None:
        nonlocal at_it, most
        at_it += 1
        most = max(most, at_it)
        threading.Event().wait(0.001)  # lets any other thread go on
        at_it -= 1

    await asyncio.gather(*(parser.parse(count, LARGE) for _ in range(20)))
    assert most == 1


async def test_errors_come_through(parser: Parser) -> None:
    def fail(_: bytes) -> None:
        raise InvalidArgument("name", "is bad")

    for message in (b"", LARGE):
        with pytest.raises(InvalidArgument, match="name"):
            await parser.parse(fail, message)


async def test_a_flood_is_turned_away_and_passes(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "_MAX_WAITING_BYTES", 3 * len(LARGE))
    release = threading.Event()

    def hold(message: bytes) -> int:
        release.wait(30)
        return len(message)

    waiting = [asyncio.create_task(parser.parse(hold, LARGE)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="try again"):
        await parser.parse(hold, LARGE)
    assert await parser.parse(len, b"small") == 5
    release.set()
    assert await asyncio.gather(*waiting) == [len(LARGE)] * 3
    assert await parser.parse(len, LARGE) == len(LARGE)
