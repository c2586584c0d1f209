"""What this engine adds to the conversation of the tcp engine (`peerload.engines.tcp.protocol`), and what its descriptors hold.

It is held over a unix socket, and no bytes of weights are sent. A reader may ask for PAGES: the reply ACCEPTED is followed by
where each region lies, and then by the memfds, each once, 128 to a byte as ancillary data. A reply DATA is followed by
*grants* in place of the bytes: how many of them the reader may copy from there now, until it has been granted all.

    pages   arenas u32 | regions u32 | size u64 each arena | arena u32, offset u64 each region
    grant   bytes u64, at least 1
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from peerload.engines.base import Descriptor
from peerload.engines.checks import MAX_REGIONS
from peerload.engines.memfd.host import Host
from peerload.errors import InvalidArgument, TransferFailed

__all__ = ["GRANT", "MAX_ARENAS", "PASSED", "Endpoint", "Layout"]

NAME: Final = "memfd"
MAX_ARENAS: Final = 1024
"""Memfds that one publication lies in at most: each costs either side descriptors."""
PASSED: Final = 128
"""Descriptors with one byte; the kernel takes 253 (SCM_MAX_FD)."""
GRANT: Final = struct.Struct("<Q")
_VERSION: Final = 1
_DATA: Final = struct.Struct("<B16sQ8s32sBI")
_COUNTS: Final = struct.Struct("<II")
_PLACE: Final = struct.Struct("<IQ")
_NO_ARENA: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a descriptor says: on which host the source is, its abstract socket's name, the publication and its secret, and its
    regions' sizes.

    data   version u8 | boot 16s | network u64 | publication 8s | secret 32s | name length u8 | regions u32 | name | sizes u64 each
    """

    host: Host
    socket: str
    publication: bytes
    secret: bytes
    sizes: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Endpoint({self.socket!r}, {len(self.sizes)} regions)"

    def encode(self) -> Descriptor:
        """The descriptor that says this."""
        name = self.socket.encode("ascii")
        head = _DATA.pack(
            _VERSION, self.host.boot, self.host.network, self.publication, self.secret, len(name), len(self.sizes)
        )
        return Descriptor(NAME, f"@{self.socket}", head + name + struct.pack(f"<{len(self.sizes)}Q", *self.sizes))

    @classmethod
    def decode(cls, descriptor: Descriptor) -> Endpoint:
        """What a descriptor says. Raises `TransferFailed` for whatever is wrong with it, since it comes from a peer, except
        `InvalidArgument` for one of another engine."""
        if descriptor.engine != NAME:
            raise InvalidArgument("descriptor", f"is of engine {descriptor.engine!r}, not {NAME}")
        data = descriptor.data
        if len(data) < _DATA.size or data[0] != _VERSION:
            raise TransferFailed("the source's descriptor is not one of this engine's version", retryable=False)
        _, boot, network, publication, secret, length, count = _DATA.unpack_from(data)
        if count > MAX_REGIONS or len(data) != _DATA.size + length + 8 * count:
            raise TransferFailed("the source's descriptor is damaged", retryable=False)
        name = data[_DATA.size : _DATA.size + length]
        # Abstract names are that long at most (unix(7)), and a NUL in one begins no other.
        if not 1 <= len(name) <= 100 or not name.isascii() or b"\0" in name:
            raise TransferFailed("the source's descriptor names no socket", retryable=False)
        sizes = struct.unpack_from(f"<{count}Q", data, _DATA.size + length)
        # The address is what others go by to tell endpoints apart, so the bytes may not lead elsewhere.
        if descriptor.address != f"@{name.decode('ascii')}":
            raise TransferFailed("the source's descriptor contradicts its address", retryable=False)
        return cls(Host(boot, network), name.decode("ascii"), publication, secret, sizes)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the regions lie: in which arena, from which offset; None for a region of no bytes."""

    arenas: tuple[int, ...]
    """Sizes."""
    places: tuple[tuple[int, int] | None, ...]

    def encode(self) -> bytes:
        """As PAGES is answered with."""
        return b"".join(
            [
                _COUNTS.pack(len(self.arenas), len(self.places)),
                struct.pack(f"<{len(self.arenas)}Q", *self.arenas),
                *(_PLACE.pack(*(place or (_NO_ARENA, 0))) for place in self.places),
            ]
        )

    @staticmethod
    def limit(regions: int) -> int:
        """Bytes that a layout of so many regions has at most."""
        return _COUNTS.size + 8 * MAX_ARENAS + _PLACE.size * regions

    @classmethod
    def decode(cls, data: bytes, sizes: Sequence[int]) -> Layout:
        """The layout of regions of those sizes. Raises `ValueError` for one that cannot be."""
        if len(data) < _COUNTS.size:
            raise ValueError("is too short")
        arenas, regions = _COUNTS.unpack_from(data)
        at = _COUNTS.size + 8 * arenas
        if arenas > MAX_ARENAS or regions != len(sizes) or len(data) != at + _PLACE.size * regions:
            raise ValueError("is of another publication")
        extents = struct.unpack_from(f"<{arenas}Q", data, _COUNTS.size)
        places: list[tuple[int, int] | None] = []
        for size, (arena, offset) in zip(sizes, _PLACE.iter_unpack(data[at:]), strict=True):
            if not size:
                places.append(None)
            elif arena >= arenas or offset + size > extents[arena]:
                raise ValueError("has a region that lies nowhere")
            else:
                places.append((arena, offset))
        return cls(extents, tuple(places))
