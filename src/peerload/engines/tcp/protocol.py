"""What goes over a connection of the TCP engine, and what a descriptor holds. Integers are little-endian.

A reader opens with a *greeting*: magic, version, and the publication's id and secret. The source answers with a *reply*
and, if it accepts, the connection belongs to that publication. The reader then sends *requests*: READ, with 1 to
`MAX_RANGES` ranges of together at most `MAX_WINDOW` bytes, or END once it has read all it came for. Each READ has one
reply: DATA, followed by exactly the bytes of the ranges in their order, or REFUSED, followed by a short text. Readers may
have `MAX_AHEAD` requests out before their replies; replies come in order.

    greeting   magic 8s | version u16 | 0 u16 | publication 8s | secret 32s
    request    magic 4s | kind u8 | 0 u8 0 u16 | count u32 | count times: region u32, offset u64, length u64
    reply      magic 4s | kind u8 | refusal u8 | retryable u8 | 0 u8 | length u64 | length bytes

A greeting's first eight bytes belong to no other protocol, and a reply never looks like a greeting: a reader that happens
to be connected to itself, or to something else that echoes, notices.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from peerload.engines.base import Descriptor
from peerload.engines.checks import MAX_REGIONS
from peerload.errors import InvalidArgument, TransferFailed

__all__ = [
    "GREETING",
    "MAX_AHEAD",
    "MAX_RANGES",
    "MAX_TEXT",
    "MAX_WINDOW",
    "RANGE",
    "REPLY",
    "REPLY_MAGIC",
    "REQUEST",
    "REQUEST_MAGIC",
    "VERSION",
    "Endpoint",
    "Kind",
    "Refusal",
    "accepted",
    "greeting",
    "is_greeting",
    "read_request",
    "refused",
]

MAGIC: Final = b"\x93PLTCP\r\n"
VERSION: Final = 1
REQUEST_MAGIC: Final = b"PLrq"
REPLY_MAGIC: Final = b"PLrs"
GREETING: Final = struct.Struct("<8sHH8s32s")
REQUEST: Final = struct.Struct("<4sBxxxI")
RANGE: Final = struct.Struct("<IQQ")
REPLY: Final = struct.Struct("<4sBBBxQ")
MAX_RANGES: Final = 2048
MAX_WINDOW: Final = 64 * 1024 * 1024
MAX_AHEAD: Final = 2
MAX_TEXT: Final = 1024
PUBLICATION_BYTES: Final = 8
SECRET_BYTES: Final = 32


class Kind(enum.IntEnum):
    """What a request or a reply is."""

    READ = 1
    END = 2
    PAGES = 3
    """Of the engine memfd."""
    ACCEPTED = 16
    DATA = 17
    REFUSED = 18


class Refusal(enum.IntEnum):
    """Why a source refuses, for programs; the text is for people."""

    UNKNOWN = 1
    RETIRED = 2
    OUT_OF_RANGE = 3
    BUSY = 4
    MALFORMED = 5
    VERSION = 6
    FORBIDDEN = 7
    """This process may not read it, whoever else may: another way to the same source is worth trying."""
    UNAVAILABLE = 8
    """It cannot for the moment, and says why."""


def greeting(publication: bytes, secret: bytes) -> bytes:
    """What a reader says first."""
    return GREETING.pack(MAGIC, VERSION, 0, publication, secret)


def is_greeting(start: bytes) -> bool:
    """Whether a greeting may begin with these bytes."""
    return MAGIC.startswith(start[: len(MAGIC)])


def read_request(ranges: Sequence[tuple[int, int, int]]) -> bytes:
    """A READ for (region, offset, length) each."""
    body = struct.pack("<" + "IQQ" * len(ranges), *chain.from_iterable(ranges))
    return REQUEST.pack(REQUEST_MAGIC, Kind.READ, len(ranges)) + body


def accepted() -> bytes:
    """The source's answer to a greeting that it accepts."""
    return REPLY.pack(REPLY_MAGIC, Kind.ACCEPTED, 0, 0, 0)


def refused(refusal: Refusal, text: str) -> bytes:
    """The source's answer to what it does not do, or not now: then it may be asked the same thing again."""
    encoded = text.encode()[:MAX_TEXT]
    retryable = refusal in (Refusal.BUSY, Refusal.UNAVAILABLE)
    return REPLY.pack(REPLY_MAGIC, Kind.REFUSED, refusal, retryable, len(encoded)) + encoded


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a descriptor says: where the source listens, the publication and its secret, and its regions' sizes.

    data   version u8 | host length u8 | port u16 | publication 8s | secret 32s | regions u32 | host | sizes u64 each
    """

    host: str
    port: int
    publication: bytes
    secret: bytes
    sizes: tuple[int, ...]
    engine: str = "tcp"
    """Engines that are reached in the same way say the same."""

    def __repr__(self) -> str:
        return f"Endpoint({self.address!r}, {len(self.sizes)} regions)"

    @property
    def address(self) -> str:
        """For people: host:port, [host]:port for an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def encode(self) -> Descriptor:
        """The descriptor that says this."""
        host = self.host.encode("ascii")
        head = _DATA.pack(VERSION, len(host), self.port, self.publication, self.secret, len(self.sizes))
        return Descriptor(self.engine, self.address, head + host + struct.pack(f"<{len(self.sizes)}Q", *self.sizes))

    @classmethod
    def decode(cls, descriptor: Descriptor, engine: str = "tcp") -> Endpoint:
        """What a descriptor says. It comes from a peer: whatever is wrong with it is `TransferFailed`, except that a
        descriptor of another engine is the caller's `InvalidArgument`."""
        if descriptor.engine != engine:
            raise InvalidArgument("descriptor", f"is of engine {descriptor.engine!r}, not {engine}")
        data = descriptor.data
        if len(data) < _DATA.size or data[0] != VERSION:
            raise TransferFailed("the source's descriptor is not one of this engine's version", retryable=False)
        _, host_length, port, publication, secret, count = _DATA.unpack_from(data)
        if count > MAX_REGIONS or len(data) != _DATA.size + host_length + 8 * count:
            raise TransferFailed("the source's descriptor is damaged", retryable=False)
        raw_host = data[_DATA.size : _DATA.size + host_length]
        if not raw_host.isascii() or not raw_host or not port:
            raise TransferFailed("the source's descriptor names no host and port", retryable=False)
        sizes = struct.unpack_from(f"<{count}Q", data, _DATA.size + host_length)
        endpoint = cls(raw_host.decode("ascii"), port, publication, secret, sizes, engine)
        # The address is what others go by to tell endpoints apart, so the bytes may not lead elsewhere.
        if endpoint.address != descriptor.address:
            raise TransferFailed("the source's descriptor contradicts its address", retryable=False)
        return endpoint


_DATA: Final = struct.Struct("<BBH8s32sI")


def check_host(host: str) -> str:
    """A host name or address as it goes into descriptors: brackets off, IDNA applied; `InvalidArgument` if it is none."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        ascii_host = bare.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_host = ""
    if not 1 <= len(ascii_host) <= 255 or not all(c.isalnum() or c in "-._" for c in ascii_host):
        raise InvalidArgument("host", f"{host!r} is not a host name or an IP address")
    return ascii_host
