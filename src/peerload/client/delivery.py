"""Weights as an asynchronous iterator, filled by a pull that runs beside it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from peerload.client.giving import As
from peerload.client.source import AsyncSource
from peerload.client.stream import StreamTarget
from peerload.client.weights import PullReport

__all__ = ["Delivered", "WeightStream"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a pull that has ended leaves beside the tensors."""

    report: PullReport
    source: AsyncSource | None


class WeightStream(AsyncIterator[tuple[str, T]], Generic[T]):
    """Weights as they arrive: each `(name, tensor)` as soon as it and all before it are verified.

    Made by `AsyncClient.iter_weights`; begins when the first one is asked for. An asynchronous context manager. Whoever
    stops early leaves it, calls `aclose`, or drops it: the read is abandoned then, and what was read ahead is freed.
    """

    def __init__(
        self,
        pull: Callable[[], Coroutine[Any, Any, Delivered]],
        target: StreamTarget,
        framework: As,
        news: asyncio.Event,
    ) -> None:
        self._pull = pull
        self._target = target
        self._framework = framework
        self._news = news
        """Set whenever more may be verified, and when the pull has ended."""
        self._task: asyncio.Task[Delivered] | None = None
        self._over = False
        self._delivered: Delivered | None = None
        self._dropped: weakref.finalize[Any, Any] | None = None

    @property
    def report(self) -> PullReport | None:
        """How the pull went, once the last tensor was given."""
        return self._delivered.report if self._delivered else None

    @property
    def source(self) -> AsyncSource | None:
        """This process as a source of the weights, if that was asked for, once the last tensor was given."""
        return self._delivered.source if self._delivered else None

    def take(self) -> tuple[str, T] | None:
        """The next one if it is here already; on any thread, one at a time."""
        tensor = None if self._over else self._target.take()
        return None if tensor is None else (tensor.name, self._framework(tensor))

    async def __anext__(self) -> tuple[str, T]:
        task = self._begin()
        while not self._over:
            self._news.clear()
            ended = task.done()  # Before looking: whatever it verified is there to be taken then.
            if (found := self.take()) is not None:
                return found
            if ended:
                self._over = True
                if task.cancelled():
                    raise RuntimeError("this client is closed")
                self._delivered = task.result()
                self._keep()
            else:
                await self._news.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop: nothing is read any more when this returns. Closing twice is allowed, and after the end does nothing."""
        self._over = True
        if self._task is not None and self._delivered is None:
            self._keep()
            await asyncio.shield(asyncio.create_task(_abandon(self._task)))

    async def interrupt(self) -> None:
        """End the pull, so that who goes on is told that the client was closed."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begin(self) -> asyncio.Task[Delivered]:
        if self._task is None:
            loop = asyncio.get_running_loop()
            news = self._news
            self._task = loop.create_task(self._pull(), name="peerload-weights")
            self._task.add_done_callback(lambda _: news.set())
            # The task knows nothing of this object, so that it can be dropped while the task runs.
            self._dropped = weakref.finalize(self, _dropped, loop, self._task)
            self._dropped.atexit = False
        return self._task

    def _keep(self) -> None:
        if self._dropped is not None:
            self._dropped.detach()


def _dropped(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Delivered]) -> None:
    """A stream is gone; on whatever thread that came out."""
    with contextlib.suppress(RuntimeError):  # The loop is closed, and with it whatever ran there.
        loop.call_soon_threadsafe(lambda: loop.create_task(_abandon(task)))


async def _abandon(task: asyncio.Task[Delivered]) -> None:
    """End it, with the source that it may have become meanwhile. What it raised does not matter any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        source = task.result().source
        if source is not None:
            await source.close()
