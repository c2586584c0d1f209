"""What parent and child tell each other: objects of JSON, one a line, over a pair of sockets that nobody else has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

__all__ = ["Messages"]

_MAX_LINE: Final = 64 * 1024 * 1024


class Messages:
    """One end of the pair. Belongs to one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Messages:
        """Those of this end, which is theirs from now."""
        return cls(*await asyncio.open_connection(sock=end, limit=_MAX_LINE))

    def tell(self, **message: Any) -> None:
        """Send one. The other side may be gone; then nobody hears it."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def told(self) -> AsyncIterator[dict[str, Any]]:
        """What the other side sends, until it is gone."""
        while True:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)

    def close(self) -> None:
        """Say and hear nothing more. What was said is sent."""
        self._writer.close()

    async def closed(self) -> None:
        """Wait until what was said is sent, or cannot be."""
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
