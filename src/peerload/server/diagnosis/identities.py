"""The identities of sources. The directory does not keep them: they are read from what was published, now and then."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from peerload.clock import Clock
from peerload.errors import PeerloadError, Unavailable
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.records import SourceKey

__all__ = ["Identities"]

_MOST: Final = 4_096
_MOST_BYTES: Final = 4 * 1024 * 1024
_REST_SECONDS: Final = 5.0
"""A store that could not be asked is left alone for so long: it has more urgent callers, and so have we."""


class Identities:
    """Encoded identities by source id, the lately used ones remembered. One identity stands for all workers of its source,
    and never changes, so that a store is asked once for each."""

    def __init__(self, backend: MetadataBackend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._rest_until = clock.monotonic()
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    async def read(self, key: SourceKey, *, deadline: float) -> bytes | None:
        """The identity of a source, by any worker of it. None where it cannot be had now: the source is gone, or
        damaged, or the store cannot be asked in time."""
        identity = self._known.get(key.source_id)
        if identity is not None:
            self._known.move_to_end(key.source_id)
            return identity
        if self._clock.monotonic() < self._rest_until:
            return None
        try:
            stored = await self._backend.stored(key.source_id, key.worker_id, key.worker_rank, deadline=deadline)
        except Unavailable:
            self._rest_until = self._clock.monotonic() + _REST_SECONDS
            return None
        except PeerloadError:
            return None
        if stored is None:
            return None
        self._known[key.source_id] = stored.identity
        self._bytes += len(stored.identity)
        while len(self._known) > _MOST or self._bytes > _MOST_BYTES:
            _, dropped = self._known.popitem(last=False)
            self._bytes -= len(dropped)
        return stored.identity
