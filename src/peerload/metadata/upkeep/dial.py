"""Whether somebody listens at an address: a TCP connection that is opened and closed, over which nothing is sent.

Only a refusal proves anything: it is the host itself that says that nobody listens there. Silence, a network that cannot
be reached, a name that cannot be resolved, a process without descriptors say nothing about the source.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from peerload.clock import Clock
from peerload.metadata.publications.addresses import Address, allowed
from peerload.metadata.waiting import settled_within

__all__ = ["Answer", "Dial", "Dialer"]

_LOOKUPS: Final = 4
"""Names that are resolved at once: the resolver cannot be stopped, and may take half a minute."""
_MOST_PLACES: Final = 4
_CONNECT_SECONDS: Final = 2.0
"""For a name to be resolved, and for a connection."""
_HOST_PAUSE: Final = 0.1
"""Between two connections to one host."""
_QUEUE_SECONDS: Final = 5.0
"""Who would have to wait longer for a turn at a host is not asked."""
_HOSTS: Final = 1_024
"""Hosts whose last turn is remembered beside those that still matter."""
_NAMELESS: Final = frozenset({"", "localhost", "localhost.localdomain"})
"""Names that many machines have."""


class Answer(enum.Enum):
    """What came of a connection."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOTHING = "nothing"


Dial: TypeAlias = Callable[[Address, str], Awaitable[Answer]]
"""Connects to an address that a worker on a host of that name published; ends in bounded time, and raises nothing."""

_Place: TypeAlias = tuple[int, tuple[Any, ...]]
"""A family of addresses, and an address and port of it."""


class Dialer:
    """Connects. `host_name` is this machine's: what a worker of the same name calls loopback is this machine's too."""

    def __init__(self, clock: Clock, host_name: str | None = None) -> None:
        self._clock = clock
        self._host_name = socket.gethostname() if host_name is None else host_name
        self._lookups = 0
        self._turns: dict[str, float] = {}

    async def dial(self, address: Address, worker_host: str) -> Answer:
        """Connect to every IP address of the host: accepted by one is accepted, refused is refused by all."""
        here = worker_host == self._host_name and worker_host not in _NAMELESS
        answers = set()
        for family, place in await self._resolve(address):
            ip = place[0]
            if not allowed(ip, here=here) or not await self._turn(ip):
                return Answer.NOTHING
            connecting = asyncio.ensure_future(_connect(family, place))
            try:
                done = await settled_within(self._clock, _CONNECT_SECONDS, connecting)
            finally:
                connecting.cancel()
            answer = connecting.result() if done else Answer.NOTHING
            if answer is Answer.ACCEPTED:
                return answer
            answers.add(answer)
        return Answer.REFUSED if answers == {Answer.REFUSED} else Answer.NOTHING

    async def _turn(self, ip: str) -> bool:
        """Wait for a turn at a host; False if too many wait already."""
        now = self._clock.monotonic()
        at = max(now, self._turns.get(ip, now))
        if at - now > _QUEUE_SECONDS:
            return False
        if len(self._turns) >= _HOSTS:
            self._turns = {each: free for each, free in self._turns.items() if free > now}
        self._turns[ip] = at + _HOST_PAUSE
        await self._clock.sleep(at - now)
        return True

    async def _resolve(self, address: Address) -> list[_Place]:
        """The places at which a host may be; none where that cannot be known soon."""
        if _is_ip(address.host):
            # Takes no time, and must not wait behind names that hang.
            return _places(address, socket.AI_NUMERICHOST)
        if self._lookups >= _LOOKUPS:
            return []
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[_Place]] = loop.create_future()

        def done(places: list[_Place]) -> None:
            self._lookups -= 1
            if not found.done():
                found.set_result(places)

        def look_up() -> None:
            places = _places(address)
            # The loop may have been closed meanwhile; then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done, places)

        try:
            # A daemon: what hangs in the resolver must not hold up the end of the process.
            threading.Thread(target=look_up, name="peerload-lookup", daemon=True).start()
        except RuntimeError:
            return []  # no thread to be had
        self._lookups += 1
        return found.result() if await settled_within(self._clock, _CONNECT_SECONDS, found) else []


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _places(address: Address, flags: int = 0) -> list[_Place]:
    # UnicodeError: a name that cannot be one.
    with contextlib.suppress(OSError, UnicodeError):
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
        return list(dict.fromkeys((int(info[0]), info[4]) for info in infos))[:_MOST_PLACES]
    return []


async def _connect(family: int, place: tuple[Any, ...]) -> Answer:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, place)
    except ConnectionRefusedError:
        return Answer.REFUSED
    except OSError:
        return Answer.NOTHING
    return Answer.ACCEPTED
