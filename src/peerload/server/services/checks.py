"""What a server's settings demand of publications, besides what every publication must be."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote

from peerload.errors import NotAllowed, Unavailable
from peerload.metadata.limits import MAX_TENSORS
from peerload.metadata.publications.packed import Packed, Reading

__all__ = ["NO_CHECKS", "Checks"]

_RESOLVE_SECONDS: Final = 5.0

_Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Checks:
    """The settings, and their doing. With `own_addresses` every host that a publication names must be the one that the call
    comes from, or a name of it: then nobody sends targets elsewhere. What it names in bytes of an engine's own is not looked
    at."""

    most_tensors: int = MAX_TENSORS
    own_addresses: bool = False

    def reading(self, *, v1: bool) -> Reading:
        """How publications are read for them."""
        return Reading(v1, self.most_tensors, self.own_addresses)

    async def check(self, packed: Packed, peer: str) -> None:
        """Raises `NotAllowed` for hosts that are not the peer's, `Unavailable` where a name cannot be looked up now."""
        if not self.own_addresses:
            return
        caller = _address_of(peer)
        for field, host in packed.hosts:
            if caller is None or caller not in await _addresses(field, host):
                come = "has none" if caller is None else f"is {caller}"
                raise NotAllowed(f"{field}: {host[:200]!r} is not the address that this call comes from, which {come}")


NO_CHECKS: Final = Checks()


async def _addresses(field: str, host: str) -> set[_Ip]:
    """Those of a host."""
    try:
        return {_plain(ipaddress.ip_address(host))}
    except ValueError:
        pass
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise Unavailable(f"{field}: {host[:200]!r} could not be looked up in time; try again") from None
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Unavailable(f"{field}: {host[:200]!r} cannot be looked up now; try again") from None
        return set()
    except UnicodeError:
        return set()
    return {_plain(ipaddress.ip_address(str(where[0]).partition("%")[0])) for *_, where in found}


def _address_of(peer: str) -> _Ip | None:
    """The address in `ipv4:HOST:PORT` or `ipv6:[HOST]:PORT`; None where a call has none."""
    family, _, rest = unquote(peer).partition(":")
    if family not in ("ipv4", "ipv6"):
        return None
    try:
        return _plain(ipaddress.ip_address(rest.rpartition(":")[0].strip("[]").partition("%")[0]))
    except ValueError:
        return None


def _plain(address: _Ip) -> _Ip:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
