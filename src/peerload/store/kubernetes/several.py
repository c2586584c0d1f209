"""Doing several things at once, but not all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

__all__ = ["each"]

_T = TypeVar("_T")


async def each(work: Iterable[Awaitable[_T]], at_once: int) -> list[_T]:
    """The results of all, in order; so many are on their way at a time. The first failure ends the others.

    `work` is asked for the next one only when it can begin.
    """
    results: dict[int, _T] = {}
    waiting = iter(enumerate(work))

    async def some() -> None:
        for number, one in waiting:
            results[number] = await one

    workers = [asyncio.ensure_future(some()) for _ in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    return [result for _, result in sorted(results.items(), key=lambda item: item[0])]
