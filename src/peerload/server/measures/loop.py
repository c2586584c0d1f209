"""Whether the event loop keeps up: everything that a server does waits for its turn there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import Metric

from peerload.server.measures.families import histogram
from peerload.tally import Histogram

__all__ = ["LoopDelay"]

_PAUSE_SECONDS: Final = 0.25


class LoopDelay:
    """How late the event loop is, asked four times a second. On the loop's own clock: it is that which is measured."""

    def __init__(self) -> None:
        self.seconds = Histogram()

    async def run(self) -> None:
        """Ask, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PAUSE_SECONDS
            await asyncio.sleep(_PAUSE_SECONDS)
            self.seconds.observe(max(0.0, loop.time() - due))

    def collect(self) -> Iterator[Metric]:
        """As it is now."""
        yield histogram(
            "peerload_event_loop_delay_seconds",
            "How late the event loop gets to what is due, asked four times a second.",
            (),
            [((), self.seconds)],
        )
