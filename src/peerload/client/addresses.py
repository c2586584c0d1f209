"""Where the servers are: what arguments and variables say, and what names lead to."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from peerload.errors import InvalidArgument, LimitExceeded, Unavailable

__all__ = ["ADDRESS_VARIABLES", "DEFAULT_ADDRESS", "Place", "Servers", "resolve", "server_address", "servers"]

DEFAULT_ADDRESS: Final = "localhost:8001"
ADDRESS_VARIABLES: Final = ("PEERLOAD_SERVER", "MODEL_EXPRESS_URL", "MX_SERVER_ADDRESS")
"""Environment variables that may name the server; the first that is set counts."""

_DEFAULT_PORT: Final = 8001
_MOST: Final = 64
_UNIX: Final = "unix:"
_SCHEMES: Final[Mapping[str, bool | None]] = {
    "http://": False,
    "https://": True,
    "grpc://": False,
    "grpcs://": True,
    "dns:///": None,
}
"""What may stand before an address, and whether it asks for TLS."""
_OURS: Final = ("address", "PEERLOAD_SERVER")
"""Where a scheme means what it says. The stock package drops it and speaks plaintext, so in its variables it says nothing."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of one directory, as somebody wrote them down."""

    addresses: tuple[str, ...]
    """Each HOST:PORT, or unix:PATH."""
    tls: bool | None
    """Whether their scheme asks for TLS or for plaintext; None: it says nothing."""
    field: str
    """The argument or the variable."""

    def __str__(self) -> str:
        return ",".join(self.addresses)


@dataclass(frozen=True, slots=True)
class Place:
    """One address of one server."""

    name: str
    """The server, as it was written: HOST:PORT, or unix:PATH."""
    target: str
    """Where to connect: the same, with the host's IP address."""

    @property
    def host(self) -> str:
        """The host's name, without brackets; empty for unix:PATH."""
        return "" if self.name.startswith(_UNIX) else self.name.rpartition(":")[0].strip("[]")

    @property
    def socket_address(self) -> tuple[str, int] | None:
        """IP address and port; None for unix:PATH."""
        if self.target.startswith(_UNIX):
            return None
        host, _, port = self.target.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_local(self) -> bool:
        """Whether what is sent there does not leave this machine."""
        where = self.socket_address
        return where is None or ipaddress.ip_address(where[0]).is_loopback


def servers(address: str | None = None, env: Mapping[str, str] | None = None) -> Servers:
    """What the argument says, else the first of `ADDRESS_VARIABLES` that is set, else the default.

    Several are written with commas between them, a missing port is 8001. `https://` or `grpcs://` before any of them asks for
    TLS, in the argument and in PEERLOAD_SERVER. Raises `InvalidArgument` whose field is where it stands.
    """
    env = os.environ if env is None else env
    given = [("address", address), *((name, env.get(name)) for name in ADDRESS_VARIABLES)]
    field, text = next(((name, text) for name, text in given if text), ("address", DEFAULT_ADDRESS))
    found: dict[str, None] = {}
    schemes: set[bool] = set()
    for part in text.split(","):
        if part.strip():
            one, tls = _parse(part.strip(), field)
            found[one] = None
            schemes |= set() if tls is None or field not in _OURS else {tls}
    if not found:
        raise InvalidArgument(field, f"{text[:200]!r} names no server")
    if len(found) > _MOST:
        raise LimitExceeded(field, f"names {len(found)} servers, more than {_MOST}", limit=_MOST)
    if len(schemes) > 1:
        raise InvalidArgument(field, f"{text[:200]!r} asks for TLS and for plaintext")
    return Servers(tuple(found), schemes.pop() if schemes else None, field)


def server_address(address: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """The servers' `HOST:PORT`, with commas between them; where they are given is told at `AsyncClient`.

    Raises `InvalidArgument`.
    """
    return str(servers(address, env))


async def resolve(address: str) -> list[list[Place]]:
    """The places of one server: those to try first, and in a list of its own what is left where its name leads to
    addresses of two families, which may be the same machine's. Raises `Unavailable`."""
    if address.startswith(_UNIX):
        return [[Place(address, address)]]
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
        return [[Place(address, address)]]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Unavailable(f"no server answers at {address}: its name cannot be resolved ({reason})") from error
    families: dict[int, dict[Place, None]] = {}
    for family, _, _, _, where in found:
        ip = str(where[0])
        target = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
        families.setdefault(family, {})[Place(address, target)] = None
    return [list(places) for places in families.values()]


def _parse(text: str, field: str) -> tuple[str, bool | None]:
    """One address in its usual form, and whether its scheme asks for TLS."""
    given = text
    if text.startswith(_UNIX):
        return text, None
    tls: bool | None = None
    for scheme, means in _SCHEMES.items():
        if text.lower().startswith(scheme):
            text, tls = text[len(scheme) :], means
            break
    text = text.rstrip("/")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (text.count(":") > 1 and not text.startswith("[")):
        host, port = text, str(_DEFAULT_PORT)
        if host.count(":") > 1 and not host.startswith("["):
            host = f"[{host}]"
    if not host or "/" in host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(field, f"{given[:200]!r} is not HOST:PORT")
    return f"{host}:{port}", tls
