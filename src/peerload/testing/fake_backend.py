"""A metadata backend in memory, for tests of what is built on one."""

from __future__ import annotations

from peerload.metadata.backend import MetadataBackend
from peerload.metadata.publications.addresses import Address
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.upkeep.dial import Answer, Dial
from peerload.store.memory import MemoryStore
from peerload.testing.clock import ManualClock
from peerload.testing.faulty_store import FaultyStore

__all__ = ["FakeMetadataBackend"]

_MOMENT = 0.2
"""Seconds in which a heartbeat that was answered is stored and has come back through the feed."""


async def _no_network(address: Address, worker_host: str) -> Answer:
    return Answer.NOTHING


class FakeMetadataBackend(MetadataBackend):
    """The real backend over a store in memory, a clock that stands still, and faults at will::

        async with FakeMetadataBackend() as backend:
            await backend.publish_metadata(identity, worker, "w1")
            await backend.clock.advance(91)      # its heartbeat runs out
            backend.store.fail()                 # the store is gone …
            backend.store.heal()                 # … and back

    Pass the `store` and the `clock` of a fake that was closed to play a restart, and `FaultyStore(fake.store.store)` with
    the clock of one that runs to play a second server. Sources that fall silent are connected to only by a `dial` that is
    passed.
    """

    def __init__(
        self,
        *,
        store: FaultyStore | None = None,
        clock: ManualClock | None = None,
        settings: MetadataSettings | None = None,
        dial: Dial | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.store = store or FaultyStore(MemoryStore(self.clock))
        super().__init__(self.store, self.clock, settings, dial=dial or _no_network)

    async def __aenter__(self) -> FakeMetadataBackend:
        """Connect, and wait until the store was listed if it can be."""
        await self.connect()
        await self.settle()
        return self

    async def settle(self) -> None:
        """Let what was answered be stored and come back through the feed."""
        await self.clock.advance(_MOMENT)
