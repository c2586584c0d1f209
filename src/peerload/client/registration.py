"""A record at the server, kept alive: announced, heartbeating, announced again where the server lost it, taken back."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from peerload import tracing
from peerload.client.connection import Connection
from peerload.client.settings import ClientSettings
from peerload.clock import Clock
from peerload.errors import NotFound, PeerloadError, Unavailable
from peerload.metadata.records import SourceKey, Status
from peerload.wire import p2p_pb2, sources_pb2

__all__ = ["OnSourceEvent", "Registration", "SourceEvent", "SourceState"]

_log: Final = logging.getLogger("peerload.client")
_FIRST_RETRY_S: Final = 1.0


class SourceState(enum.Enum):
    """Where a source of this process stands."""

    STARTING = "starting"
    LIVE = "live"
    """Published, and the last heartbeat was taken."""
    UNREACHABLE = "unreachable"
    """The last heartbeat was not taken; it goes on trying, and serves meanwhile."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """A source entered `state`; `reason` says why where that is not plain."""

    state: SourceState
    reason: str = ""


OnSourceEvent: TypeAlias = Callable[[SourceEvent], None]
"""Called on the event loop's thread."""


class Registration:
    """One worker's record under `key`. `publish` sends what it says, and `load` tells how busy the worker is.

    `changed` says whether what was published holds no more, so that it is published again at the next heartbeat.
    """

    def __init__(
        self,
        connection: Connection,
        key: SourceKey,
        *,
        publish: Callable[[], Awaitable[object]],
        load: Callable[[], float],
        changed: Callable[[], Awaitable[bool]] | None = None,
        settings: ClientSettings,
        clock: Clock,
        rng: random.Random,
        on_event: OnSourceEvent | None = None,
    ) -> None:
        self._connection = connection
        self._publish = publish
        self._load = load
        self._changed = changed
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._on_event = on_event
        self._heart: asyncio.Task[None] | None = None
        self.key = key
        self.state = SourceState.STARTING

    async def announce(self, *, patient: bool = False) -> None:
        """Publish. A `patient` one goes on without a server that cannot be reached, and is published when it can be."""
        try:
            await self._publish()
        except Unavailable as error:
            if not patient:
                raise
            # The first heartbeat that gets through will be told that the server knows no such worker.
            self._warn("publishing %s: %s", self.key.encode(), error)
            self.enter(SourceState.UNREACHABLE, str(error))
        else:
            self.enter(SourceState.LIVE)

    def start(self) -> None:
        """Heartbeat from now on, until `stop`."""
        self._heart = asyncio.create_task(
            self._beat_forever(), name=f"peerload-heartbeat-{self.key.worker_id}", context=tracing.unrelated()
        )

    async def stop(self) -> None:
        """Heartbeat no more."""
        if self._heart is not None:
            self._heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heart

    async def beat(self) -> None:
        """Send one heartbeat now; publish again where the server says that it does not know this worker, or what was
        published holds no more.

        Raises `Unavailable` if no server could be reached, `PeerloadError` for what else it answers.
        """
        if self._changed is not None and await self._changed():
            await self._publish()
            self.enter(SourceState.LIVE, "published: it is reached another way than before")
            return
        response = await self._connection.update_status(
            p2p_pb2.UpdateStatusRequest(
                mx_source_id=self.key.source_id,
                worker_rank=self.key.worker_rank,
                worker_id=self.key.worker_id,
                status=cast(p2p_pb2.SourceStatus, int(Status.READY)),
                source_load=self._load(),
            )
        )
        if not response.success:
            self._warn("the server lost %s (%s): publishing again", self.key.encode(), response.message)
            await self._publish()
            self.enter(SourceState.LIVE, "published: the server had no record")
        elif self.state is not SourceState.LIVE:
            self.enter(SourceState.LIVE, "the server is back")

    async def withdraw(self, seconds: float) -> None:
        """Take the record back, trying for so long; one that is left behind runs out by itself."""
        request = sources_pb2.WithdrawRequest(
            source_id=self.key.source_id, worker_id=self.key.worker_id, worker_rank=self.key.worker_rank
        )
        try:
            async with asyncio.timeout(seconds):
                await self._connection.withdraw(request)
        except (Unavailable, NotFound, TimeoutError) as error:
            reason = str(error) or f"no answer within {seconds:g} s"
            _log.warning("%s could not be withdrawn, and will run out by itself: %s", self.key.encode(), reason)

    def enter(self, state: SourceState, reason: str = "") -> None:
        """Be in a state, and tell of it."""
        self.state = state
        if self._on_event is not None:
            # Not called from here: what a callback raises is for the loop to report, and must not stop a heart.
            asyncio.get_running_loop().call_soon(self._on_event, SourceEvent(state, reason))

    def _warn(self, message: str, *values: object) -> None:
        """Of what `enter` tells next: whoever listens to that need not be told twice."""
        _log.log(logging.WARNING if self._on_event is None else logging.DEBUG, message, *values)

    async def _beat_forever(self) -> None:
        failures = 0 if self.state is SourceState.LIVE else 1
        interval = self._settings.heartbeat_interval
        while True:
            # Spread, so that a fleet that started together does not call together.
            pause = min(interval, _FIRST_RETRY_S * 2.0 ** min(failures - 1, 16)) if failures else interval
            await self._clock.sleep(pause * self._rng.uniform(0.8, 1.0))
            try:
                await self.beat()
                failures = 0
            except PeerloadError as error:
                failures += 1
                if self.state is not SourceState.UNREACHABLE:
                    self._warn("heartbeat of %s: %s", self.key.encode(), error)
                    self.enter(SourceState.UNREACHABLE, str(error))
