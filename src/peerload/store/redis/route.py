"""Which process is the primary now: fixed, known to sentinels, or the owner of our slot in a cluster."""

from __future__ import annotations

from typing import Any, Final, Protocol

from peerload.errors import Unavailable
from peerload.store.redis.link import Link, ReplyError, connect
from peerload.store.redis.place import Address, RedisPlace
from peerload.store.redis.slot import slot
from peerload.store.redis.trouble import Passing, refusal

__all__ = ["Route", "route_to"]


class Route(Protocol):
    """The way to the primary."""

    async def connect(self) -> Link:
        """A connection to the primary as it is known now. Raises `Unavailable`."""
        ...

    def forget(self) -> None:
        """What is known seems to be wrong: ask again before the next connection."""
        ...


def route_to(place: RedisPlace) -> Route:
    """The route for a place."""
    if place.kind == "sentinel":
        return _Sentinels(place)
    return _Cluster(place) if place.kind == "cluster" else _Direct(place)


class _Direct:
    def __init__(self, place: RedisPlace) -> None:
        self._place = place

    async def connect(self) -> Link:
        place = self._place
        return await connect(place.addresses[0], place.credentials, db=place.db, tls=place.tls)

    def forget(self) -> None:
        pass


class _Sentinels:
    """Asks the sentinels in turn, the one that answered last first; believes only a process that says it is primary."""

    def __init__(self, place: RedisPlace) -> None:
        self._place = place
        self._sentinels = list(place.addresses)
        self._primary: Address | None = None

    async def connect(self) -> Link:
        place = self._place
        address = self._primary or await self._ask()
        try:
            link = await connect(address, place.credentials, db=place.db, tls=place.tls)
            try:
                (role,) = await link.ask(("ROLE",))
            except BaseException:
                link.close()
                raise
        except Unavailable:
            self.forget()
            raise
        if isinstance(role, list) and role and role[0] != b"master":
            # The sentinels have not agreed on the next one yet, or it has not heard of its new office.
            link.close()
            self.forget()
            raise Passing(address, "READONLY")
        self._primary = address
        return link

    def forget(self) -> None:
        self._primary = None

    async def _ask(self) -> Address:
        place = self._place
        last: Unavailable | None = None
        for sentinel in list(self._sentinels):
            try:
                link = await connect(sentinel, place.sentinel_credentials, tls=place.tls)
                try:
                    (answer,) = await link.ask(("SENTINEL", "get-master-addr-by-name", place.service))
                finally:
                    link.close()
            except Unavailable as error:
                last = error
                continue
            if isinstance(answer, list) and len(answer) == 2:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return Address(answer[0].decode(), int(answer[1]))
            if isinstance(answer, ReplyError):
                last = _as_unavailable(refusal(sentinel, str(answer)))
            else:
                last = Unavailable(f"the sentinel at {sentinel} knows no service {place.service!r}")
        raise last or Unavailable("no sentinel is known")


class _Cluster:
    """Asks any node who owns our slot. One hash tag is one slot: a cluster gives fail-over here, not scale."""

    def __init__(self, place: RedisPlace) -> None:
        self._place = place
        self._slot = slot(place.namespace)
        self._nodes = list(place.addresses)
        self._owner: Address | None = None

    async def connect(self) -> Link:
        place = self._place
        address = self._owner or await self._ask()
        try:
            link = await connect(address, place.credentials, tls=place.tls)
        except Unavailable:
            self.forget()
            raise
        self._owner = address
        return link

    def forget(self) -> None:
        self._owner = None

    async def _ask(self) -> Address:
        place = self._place
        last: Unavailable | None = None
        for node in dict.fromkeys([*self._nodes, *place.addresses]):
            try:
                link = await connect(node, place.credentials, tls=place.tls)
                try:
                    (answer,) = await link.ask(("CLUSTER", "SLOTS"))
                finally:
                    link.close()
            except Unavailable as error:
                last = error
                continue
            if isinstance(answer, ReplyError):
                last = _as_unavailable(refusal(node, str(answer)))
                continue
            owner = self._read(node, answer)
            if owner is not None:
                return owner
            last = Passing(node, "CLUSTERDOWN")
        raise last or Unavailable("no node of the cluster is known")

    def _read(self, node: Address, answer: Any) -> Address | None:
        """Who owns our slot; the nodes that are named are remembered, for when those of the URL are gone."""
        owner = None
        known: dict[Address, None] = {}
        for first, last, *nodes in answer:
            addresses = [Address((host or b"").decode() or node.host, port) for host, port, *_ in nodes]
            known.update(dict.fromkeys(addresses))
            if first <= self._slot <= last and addresses:
                owner = addresses[0]
        # One that has just answered comes first, the owner that may be the one in trouble last.
        self._nodes = [each for each in dict.fromkeys([node, *known]) if each != owner][:_MOST_NODES]
        if owner is not None:
            self._nodes.append(owner)
        return owner


_MOST_NODES: Final = 50


def _as_unavailable(error: Exception) -> Unavailable:
    return error if isinstance(error, Unavailable) else Unavailable(str(error))
