"""Which process is the primary now: fixed, known to sentinels, or the owner of our slot in a cluster."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any, Final

from peerload.errors import Unavailable
from peerload.store.redis.link import Command, Link, ReplyError, connect
from peerload.store.redis.place import Address, Credentials, RedisPlace
from peerload.store.redis.slot import slot
from peerload.store.redis.trouble import refusal

__all__ = ["Route", "route_to"]

_MOST_NODES: Final = 50


def route_to(place: RedisPlace) -> Route:
    """The route for a place."""
    if place.kind == "sentinel":
        return _Sentinels(place)
    return _Cluster(place) if place.kind == "cluster" else Route(place)


class Route:
    """The way to the primary, which here is where the place says."""

    def __init__(self, place: RedisPlace) -> None:
        self._place = place
        self.asked = place.addresses[0]
        """Which process was asked last: the one that is silent, where nothing comes."""

    async def connect(self) -> Link:
        """A connection to the primary as it is known now. Raises `Unavailable`."""
        return await self._connect(self._place.addresses[0])

    def forget(self) -> None:
        """What is known seems to be wrong: ask again before the next connection."""

    async def _connect(self, address: Address) -> Link:
        return await connect(address, self._place.credentials, db=self._place.db, tls=self._place.tls)


class _Guided(Route, ABC):
    """Asks guides in turn where the primary is, and remembers it."""

    def __init__(self, place: RedisPlace, credentials: Credentials, question: Command) -> None:
        super().__init__(place)
        self._credentials = credentials
        self._question = question
        self._guides = list(place.addresses)
        self._primary: Address | None = None

    async def connect(self) -> Link:
        address = self.asked = self._primary or await self._ask()
        try:
            link = await self._connect(address)
        except Unavailable:
            self.forget()
            raise
        self._primary = address
        return link

    def forget(self) -> None:
        self._primary = None

    async def _ask(self) -> Address:
        """What the first says who knows; otherwise raises what is wrong with the last."""
        trouble = Unavailable("nobody is known who knows the primary")
        for guide in dict.fromkeys([*self._guides, *self._place.addresses]):
            self.asked = guide
            try:
                with contextlib.closing(await connect(guide, self._credentials, tls=self._place.tls)) as link:
                    (answer,) = await link.ask(self._question)
                if isinstance(answer, ReplyError):
                    raise refusal(guide, str(answer))
                return self._read(guide, answer)
            except Unavailable as error:
                trouble = error
        raise trouble

    @abstractmethod
    def _read(self, guide: Address, answer: Any) -> Address:
        """The primary according to a guide. Raises `Unavailable`."""


class _Sentinels(_Guided):
    """Asks the sentinel that answered last first; believes only a process that says it is primary."""

    def __init__(self, place: RedisPlace) -> None:
        super().__init__(place, place.sentinel_credentials, ("SENTINEL", "get-master-addr-by-name", place.service))

    def _read(self, guide: Address, answer: Any) -> Address:
        if not isinstance(answer, list) or len(answer) != 2:
            raise Unavailable(f"the sentinel at {guide} knows no service {self._place.service!r}")
        self._guides = [guide]
        return Address(answer[0].decode(), int(answer[1]))

    async def _connect(self, address: Address) -> Link:
        link = await super()._connect(address)
        with contextlib.ExitStack() as on_error:
            on_error.callback(link.close)
            (role,) = await link.ask(("ROLE",))
            if isinstance(role, list) and role and role[0] != b"master":
                # The sentinels have not agreed on the next one yet, or it has not heard of its new office.
                raise refusal(address, "READONLY")
            on_error.pop_all()
        return link


class _Cluster(_Guided):
    """Asks any node who owns our slot. One hash tag is one slot: a cluster gives fail-over here, not scale."""

    def __init__(self, place: RedisPlace) -> None:
        super().__init__(place, place.credentials, ("CLUSTER", "SLOTS"))
        self._slot = slot(place.namespace)

    def _read(self, guide: Address, answer: Any) -> Address:
        """Who owns our slot; the nodes that are named are remembered, for when those of the URL are gone."""
        owner = None
        known: dict[Address, None] = {}
        for first, last, *nodes in answer:
            addresses = [Address((host or b"").decode() or guide.host, port) for host, port, *_ in nodes]
            known.update(dict.fromkeys(addresses))
            if first <= self._slot <= last and addresses:
                owner = addresses[0]
        # One that has just answered comes first, the owner that may be the one in trouble last.
        self._guides = [each for each in dict.fromkeys([guide, *known]) if each != owner][:_MOST_NODES]
        if owner is None:
            raise refusal(guide, "CLUSTERDOWN")
        self._guides.append(owner)
        return owner
