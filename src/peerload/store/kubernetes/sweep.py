"""Removes what nobody needs any more and nobody else removes."""

from __future__ import annotations

import contextlib
import random
from datetime import datetime
from typing import Any, Final

import structlog

from peerload.clock import Clock
from peerload.errors import PeerloadError
from peerload.kubernetes.trouble import Moved, NotThere
from peerload.store.kubernetes.fence import Fence
from peerload.store.kubernetes.index import Index, read_beat
from peerload.store.kubernetes.kubetime import KubeTime
from peerload.store.kubernetes.names import LABELS, Type, server_of, token_of
from peerload.store.kubernetes.resources import Resources

__all__ = ["Sweep"]

_log = structlog.stdlib.get_logger(__name__)

_EVERY_SECONDS: Final = (180.0, 300.0)
_OLD_MS: Final = 600_000
"""A part of a blob that is named by no record after so long never will be: a put gives up after two minutes."""
_QUIET_SECONDS: Final = 600.0


class Sweep:
    """Looks every few minutes. Every server does, and doing it twice does nothing."""

    def __init__(
        self, resources: Resources, index: Index, fence: Fence, clock: Clock, time: KubeTime, token: str
    ) -> None:
        self._resources = resources
        self._index = index
        self._fence = fence
        self._clock = clock
        self._time = time
        self._token = token

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(random.uniform(*_EVERY_SECONDS))
            try:
                await self.once()
            except PeerloadError as error:
                _log.info("the sweep is put off", error=str(error))

    async def once(self) -> None:
        """Remove parts of blobs that no record names, and shared heartbeats that no longer count."""
        old: dict[str, list[str]] = {}
        async with contextlib.aclosing(self._resources.chunk_pages({LABELS.TYPE: Type.BLOB})) as pages:
            async for _, page in pages:
                for body in page:
                    if self._time.now() - _created_ms(body) > _OLD_MS:
                        name = body["metadata"]["name"]
                        old.setdefault(token_of(name), []).append(name)
        # Only now is it certain that every record that names one of them has been seen.
        await self._fence.passed()
        for record in self._index.records.values():
            if record.blob is not None:
                old.pop(record.blob.token, None)
        for name in [name for names in old.values() for name in names]:
            await self._resources.delete_chunk(name)
        for name, version in self._settled():
            with contextlib.suppress(Moved, NotThere):
                await self._resources.delete(name, version=version)
        if old:
            _log.info("parts of blobs were removed that belong to no record", count=sum(map(len, old.values())))

    def _settled(self) -> list[tuple[str, int]]:
        """Other servers' shared heartbeats of which none counts, unchanged for long."""
        now = self._clock.monotonic()
        return [
            (name, shared.version)
            for name, shared in self._index.shared.items()
            if server_of(name) != self._token
            and now - shared.changed > _QUIET_SECONDS
            and not any(self._index.counts(generation, read_beat(text)) for generation, text in shared.beats.items())
        ]


def _created_ms(body: dict[str, Any]) -> float:
    return datetime.fromisoformat(body["metadata"]["creationTimestamp"]).timestamp() * 1_000.0
