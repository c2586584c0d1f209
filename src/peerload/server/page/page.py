"""The web page as the server starts and stops it; what it is made of is imported only where it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from peerload.clock import Clock
from peerload.errors import MissingExtra
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.principals import Principal
from peerload.server.addresses import is_loopback
from peerload.server.readiness import Readiness
from peerload.server.rpc import Gate
from peerload.server.tls import TlsKeeper
from peerload.server.traffic import Traffic
from peerload.store.base import Store

if TYPE_CHECKING:
    from peerload.server.page.condition import Condition
    from peerload.server.page.port import PagePort

__all__ = ["Page"]


class Page:
    """The page of one server: `start` it, `run` it meanwhile, `stop` it."""

    def __init__(
        self, backend: MetadataBackend, store: Store, readiness: Readiness, traffic: Traffic, clock: Clock
    ) -> None:
        self._backend = backend
        self._store = store
        self._readiness = readiness
        self._traffic = traffic
        self._clock = clock
        self._condition: Condition | None = None
        self._port: PagePort | None = None
        self.address = ""
        """`HOST:PORT` as bound."""

    async def start(
        self, host: str, port: int, *, gate: Gate | None, tls: TlsKeeper | None, server: Callable[[], str]
    ) -> None:
        """Listen; `server` tells the address of the gRPC port, once that is bound. Raises `MissingExtra`, and `Unavailable` where the address cannot
        be had."""
        try:
            from peerload.server.page.application import application
            from peerload.server.page.condition import Condition
            from peerload.server.page.port import PagePort
        except ImportError:
            raise MissingExtra("the web page", "ui") from None
        condition = self._condition = Condition(self._backend, self._store, self._readiness, self._traffic, self._clock)

        def fixed(principal: Principal) -> dict[str, object]:
            return condition.fixed(principal, server(), tls is not None)

        ending = asyncio.Event()
        app = application(
            self._backend,
            self._traffic,
            condition,
            self._clock,
            gate=gate,
            fixed=fixed,
            local=is_loopback(host),
            ending=ending,
        )
        self._port = PagePort(app, tls, ending)
        self.address = await self._port.start(host, port)

    async def run(self) -> None:
        """Look at the store while people look, until cancelled."""
        assert self._condition is not None
        await self._condition.run()

    async def stop(self) -> None:
        """Close the port. Twice is allowed."""
        if self._port is not None:
            await self._port.stop()
