"""The lines of a watch, of which each is an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peerload.kubernetes.trouble import Broken

__all__ = ["MOST_EVENT_BYTES", "Lines"]

MOST_EVENT_BYTES: Final = 16 * 1024 * 1024


class Lines:
    """Puts the lines of a stream together, of any length up to `MOST_EVENT_BYTES`."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def partial(self) -> bool:
        """Whether there is the beginning of a line."""
        return bool(self._held)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that are complete now. Raises `Broken` for one that is too long."""
        seen = len(self._held)
        self._held += chunk
        while (end := self._held.find(b"\n", seen)) >= 0:
            line = bytes(self._held[:end])
            del self._held[: end + 1]
            seen = 0
            yield line
        if len(self._held) > MOST_EVENT_BYTES:
            raise Broken(f"an event of a watch has more than {MOST_EVENT_BYTES} bytes")
