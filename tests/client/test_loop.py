"""Callers of an event loop on another thread, which are interrupted wherever a signal may come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from peerload.client import loop as module
from peerload.client.loop import LoopThread

_WAIT = module._Call.ended_within.__code__


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, and all that wait for it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


class Interruption:
    """Ctrl-C at the `place`th event of a kind (as `sys.settrace` has them) within the wait for a call's end."""

    def __init__(self, event: str, place: int) -> None:
        self._event = event
        self._left = place

    def look(self, frame: FrameType, event: str, _: Any) -> Any:
        if not any(each.f_code is _WAIT for each in callers(frame)):
            return None
        self._left -= event == self._event
        if self._left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return self.look


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["ends", "goes on"])
@pytest.mark.parametrize("event", ["line", "return"])
@pytest.mark.parametrize("place", range(1, 9))
def test_an_interruption_anywhere_in_a_wait_ends_the_call(
    monkeypatch: pytest.MonkeyPatch, place: int, event: str, seconds: float
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    monkeypatch.setattr(module, "_INTERRUPT_S", 3600.0)
    under_way = 0

    async def work() -> None:
        nonlocal under_way
        under_way += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            under_way -= 1

    loop = LoopThread()
    before = sys.gettrace()
    sys.settrace(Interruption(event, place).look)
    try:
        loop.run(work())
    except KeyboardInterrupt:
        pass
    else:
        assert not seconds, "nothing interrupted it"
    finally:
        sys.settrace(before)
    assert not under_way
    loop.close()
