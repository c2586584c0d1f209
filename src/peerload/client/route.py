"""The way to the server: which of its addresses is in use, and the channels to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import grpc.aio

from peerload.client.addresses import Place, resolve
from peerload.client.tls import ClientTls, Trust
from peerload.errors import Unavailable

__all__ = ["MAX_MESSAGE_BYTES", "Link", "Resolve", "Route"]

MAX_MESSAGE_BYTES: Final = 100 * 1024 * 1024
"""The largest message either way."""

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A watch may be silent for hours: pings tell a dead server from a quiet one.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # After an outage heartbeats must come soon, however long it was.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # This one is how long an attempt to connect may take, despite its name.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
    # Clients of one process must not share a connection that one of them closes.
    ("grpc.use_local_subchannel_pool", 1),
)

Resolve = Callable[[str], Awaitable[list[list[Place]]]]
"""As `peerload.client.addresses.resolve`."""


class Link:
    """A channel to one place. It is closed when it has been given up and nobody calls through it any more."""

    def __init__(self, place: Place, trust: Trust | None, closing: Callable[[Link], None]) -> None:
        self.place = place
        self.trust = trust
        self._closing = closing
        self._callers = 0
        self._given_up = False
        self.channel: grpc.aio.Channel
        if trust is None:
            options = (*_OPTIONS, ("grpc.default_authority", place.name)) if place.host else _OPTIONS
            self.channel = grpc.aio.insecure_channel(place.target, options=options)
        else:
            # What the certificate must be for; of an IP address gRPC knows that itself.
            name = trust.name or ("" if place.name == place.target else place.host)
            options = (*_OPTIONS, ("grpc.ssl_target_name_override", name)) if name else _OPTIONS
            self.channel = grpc.aio.secure_channel(place.target, trust.credentials(), options=options)

    @contextmanager
    def calling(self) -> Iterator[grpc.aio.Channel]:
        """The channel, which stays open for this block at least."""
        self._callers += 1
        try:
            yield self.channel
        finally:
            self._callers -= 1
            self._close_if_idle()

    def give_up(self) -> None:
        """Take no more calls; those that are on their way may end."""
        if not self._given_up:
            self._given_up = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._given_up and not self._callers:
            self._closing(self)


class Route:
    """Leads every call to the same place for as long as that works, and then to the next. Belongs to one event loop.

    Names are resolved when they are first needed, and again whenever no place has worked. The order is by chance, so that the
    clients of a fleet spread over the servers.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        tls: ClientTls | None,
        *,
        rng: random.Random,
        resolve: Resolve = resolve,
    ) -> None:
        self._addresses = addresses
        self._tls = tls
        self._rng = rng
        self._resolve = resolve
        self._trust = None if tls is None else tls.current()
        self._places: list[Place] = []
        """The first is in use."""
        self._stale = True
        self._resolving = asyncio.Lock()
        self._links: dict[Place, Link] = {}
        """Those that take calls."""
        self._open: set[Link] = set()
        """These, and those that have been given up and through which somebody calls still."""
        self._closing: set[asyncio.Task[None]] = set()

    async def link(self, failed: Container[Place] = ()) -> Link | None:
        """The first place that a call has not `failed` at; None if there is no other. Raises `Unavailable` where no name can
        be resolved."""
        if self._stale:
            async with self._resolving:
                if self._stale:
                    await self._look_up()
        if self._tls is not None and (trust := self._tls.current()) is not self._trust:
            self._trust = trust
            self._keep(())
        place = next((place for place in self._places if place not in failed), None)
        if place is None:
            self._stale = True
            return None
        if place not in self._links:
            self._links[place] = Link(place, self._trust, self._close_soon)
            self._open.add(self._links[place])
        return self._links[place]

    def works(self, link: Link) -> None:
        """A call through this link was answered: those to other places are no longer needed."""
        if len(self._links) > 1 and self._places[0] == link.place:
            self._keep((link.place,))

    def failed(self, link: Link, *, for_good: bool = False) -> None:
        """A call through this link was not answered: the next ones go elsewhere. `for_good`: they would not be answered
        through this link, though they may be at the same place."""
        if self._places and self._places[0] == link.place:
            self._places.append(self._places.pop(0))
        if for_good and self._links.get(link.place) is link:
            del self._links[link.place]
            link.give_up()

    async def close(self) -> None:
        """End the calls in flight and every channel. Closing twice is allowed."""
        links, self._open = self._open, set()
        self._links.clear()
        await asyncio.gather(*(link.channel.close() for link in links), *self._closing)

    async def _look_up(self) -> None:
        first: list[Place] = []
        others: list[Place] = []
        reasons: list[Unavailable] = []
        addresses = list(self._addresses)
        found = await asyncio.gather(*map(self._resolve, addresses), return_exceptions=True)
        for each in found:
            if isinstance(each, Unavailable):
                reasons.append(each)
            elif isinstance(each, BaseException):
                raise each
            else:
                first += each[0]
                others += [place for family in each[1:] for place in family]
        if not first:
            if not self._places:
                raise reasons[0]
            first = self._places  # what was known may be so still
        self._rng.shuffle(first)
        self._rng.shuffle(others)
        self._places = list(dict.fromkeys((*first, *others)))
        self._stale = False
        self._keep(self._places)

    def _keep(self, places: Container[Place]) -> None:
        for place in [place for place in self._links if place not in places]:
            self._links.pop(place).give_up()

    def _close_soon(self, link: Link) -> None:
        self._open.discard(link)
        task = asyncio.get_running_loop().create_task(link.channel.close(), name="peerload-link")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
