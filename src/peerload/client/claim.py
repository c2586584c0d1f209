"""A claim that this process holds at the server: renewed until it is let go of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from peerload import tracing
from peerload.client.connection import Connection
from peerload.errors import PeerloadError
from peerload.wire import claims_pb2

__all__ = ["Claim", "Claimed"]

_log: Final = logging.getLogger("peerload.client")
_RELEASE_S: Final = 5.0
"""How long a claim is tried to be let go; one that is left behind runs out by itself."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """How a claim stands: whether it is ours, and else what its holder says of itself and how many seconds it has left."""

    ours: bool
    note: str
    left: float


class Claim:
    """A name that one process of the fleet holds at a time. `take`, and while it is ours, work in an `async with` block.

    `lease` is how many seconds after this process's last sign of life another may take it. Losing it (the server may forget)
    does not end the work: two who do the same are a waste, and no harm.
    """

    def __init__(self, connection: Connection, name: str, lease: float) -> None:
        self._connection = connection
        self._name = name
        self._lease = lease
        self._holder = uuid.uuid4().hex
        self._note = f"{socket.gethostname()}, process {os.getpid()}"
        self._heart: asyncio.Task[None] | None = None

    async def take(self) -> Claimed:
        """Take it if it is free. Raises `Unavailable`."""
        response = await self._connection.acquire(
            claims_pb2.AcquireClaimRequest(
                name=self._name, holder=self._holder, lease_ms=round(self._lease * 1000), note=self._note
            )
        )
        return Claimed(response.acquired, response.claim.note, response.claim.left_ms / 1000)

    async def __aenter__(self) -> Self:
        self._heart = asyncio.create_task(self._renew_forever(), name="peerload-claim", context=tracing.unrelated())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._heart is not None:
            self._heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heart
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._connection.release(claims_pb2.ReleaseClaimRequest(name=self._name, holder=self._holder))
        except (PeerloadError, TimeoutError) as failure:
            _log.warning("the claim %r could not be let go, and will run out by itself: %s", self._name, failure)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                # Taking what one holds renews it; what was lost is taken again, unless somebody else has it by now.
                await self.take()
            except PeerloadError as error:
                _log.warning("the claim %r could not be renewed: %s", self._name, error)
