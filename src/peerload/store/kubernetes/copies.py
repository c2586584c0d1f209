"""Heartbeats of sources for the eye: written into their records too, as many as is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from peerload.clock import Clock
from peerload.errors import PeerloadError
from peerload.store.base import Beat
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.names import server_of
from peerload.store.kubernetes.objects import Record, beat_patch
from peerload.store.kubernetes.records import Records
from peerload.store.kubernetes.several import each

__all__ = ["Copies"]

_AT_ONCE: Final = 4
_ALIVE_SECONDS: Final = 15.0
"""A server whose shared heartbeats have not changed for so long writes none."""
_SAVED_SECONDS: Final = 6.0
"""Over how long the writes that are allowed add up."""


class Copies:
    """`kubectl get` shows when a source was last heard from: always in a small fleet, in turn in a large one.

    `shares` says of a key whether its heartbeats are in shared objects alone otherwise; `rate` is how many are written a
    second by all servers together.
    """

    def __init__(
        self,
        index: Index,
        records: Records,
        clock: Clock,
        token: str,
        *,
        shares: Callable[[str], bool],
        rate: float,
    ) -> None:
        self._index = index
        self._records = records
        self._clock = clock
        self._token = token
        self._shares = shares
        self._rate = rate
        self._allowed = 0.0
        self._allowed_at = clock.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End what is on its way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def write(self, beats: Mapping[int, Beat]) -> None:
        """Of a batch that is stored, write what is allowed, in the background: where the oldest one is shown first, and one
        at least. Nothing is lost where that fails."""
        self._earn()
        if self._task is not None and not self._task.done():
            return
        records = [self._index.by_generation.get(generation) for generation in beats]
        due = [record for record in records if record is not None and self._shares(record.key)]
        due.sort(key=lambda record: -1 if record.beat is None else record.beat.stamp)
        due = due[: max(1, int(self._allowed))]
        self._allowed = max(0.0, self._allowed - len(due))
        if due:
            self._task = asyncio.create_task(self._write_all(due, beats), name="kubernetes heartbeats for the eye")

    def _earn(self) -> None:
        now = self._clock.monotonic()
        shared = self._index.shared.items()
        servers = {server_of(name) for name, each in shared if now - each.changed < _ALIVE_SECONDS} | {self._token}
        rate = self._rate / len(servers)
        self._allowed = min(self._allowed + (now - self._allowed_at) * rate, _SAVED_SECONDS * rate)
        self._allowed_at = now

    async def _write_all(self, records: list[Record], beats: Mapping[int, Beat]) -> None:
        await each((self._write(record, beats[record.generation]) for record in records), _AT_ONCE)

    async def _write(self, record: Record, beat: Beat) -> None:
        if record.beat is not None and record.beat.stamp >= beat.stamp:
            return
        try:
            await self._records.patch(record, beat_patch(record, beat))
        except PeerloadError:
            pass  # it was changed meanwhile, or it is not the time for it
