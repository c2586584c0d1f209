"""CRC32C, the checksum of artifacts: of an extra package, asked for when the first artifact is."""

from __future__ import annotations

from typing import Any, Protocol, cast

from peerload.errors import MissingExtra

__all__ = ["Crc", "new_crc"]


class Crc(Protocol):
    """A checksum that grows with what it is told."""

    def update(self, chunk: bytes) -> None:
        """Take bytes in."""
        ...

    def hexdigest(self) -> bytes:
        """Eight hex digits of all that was taken in."""
        ...


def new_crc() -> Crc:
    """A CRC32C of nothing yet. Raises `MissingExtra`."""
    try:
        import google_crc32c
    except ModuleNotFoundError:
        raise MissingExtra("sharing and pulling artifacts", "nixl") from None
    return cast(Crc, cast(Any, google_crc32c).Checksum())
