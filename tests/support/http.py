"""An HTTP/1.1 client of a few lines, for tests in the server's own event loop: `get` asks once, `Events` reads a stream of
server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Events", "get", "looking"]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def _ask(
    address: str, path: str, headers: Mapping[str, str], tls: ssl.SSLContext | None, method: str = "GET"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int, dict[str, str]]:
    host, _, port = address.rpartition(":")
    name = {} if tls is None else {"server_hostname": "localhost"}
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls, limit=1 << 16, **name)
    try:
        status, found = await _head(reader, writer, address, path, headers, method)
    except BaseException:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        raise
    return reader, writer, status, found


async def _head(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: str,
    path: str,
    headers: Mapping[str, str],
    method: str,
) -> tuple[int, dict[str, str]]:
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{key}: {value}" for key, value in {"Host": address, "Connection": "close", **headers}.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    found = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:] if line)}
    return int(head[0].split(" ")[1]), found


def _with(token: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    return {**({} if token is None else {"Authorization": f"Bearer {token}"}), **(headers or {})}


async def get(
    address: str,
    path: str,
    token: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    method: str = "GET",
) -> Answer:
    """The answer to one request."""
    reader, writer, status, found = await _ask(address, path, _with(token, headers), tls, method)
    with contextlib.closing(writer):
        return Answer(status, found, await reader.read())


class Events:
    """The events of a stream, one after the other; `until` waits for one of some kind that is as it should be."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self) -> tuple[str, Any]:
        """Name and data. Raises `EOFError` at the end."""
        text = b""
        while not text.endswith(b"\n\n"):
            size = int((await self._line()) or b"0", 16)
            if not size:
                raise EOFError
            text += await self._reader.readexactly(size)
            await self._line()
        name, _, data = text.decode().strip().partition("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def _line(self) -> bytes:
        return (await self._reader.readline()).strip()

    async def until(self, name: str, good: Any = lambda data: True) -> Any:
        """The data of the next event of that name that is good."""
        async with asyncio.timeout(30):
            while True:
                found, data = await self.next()
                if found == name and good(data):
                    return data


@contextlib.asynccontextmanager
async def looking(
    address: str, token: str | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Events]:
    """A browser that looks on."""
    reader, writer, status, _ = await _ask(address, "/api/events", _with(token, None), tls)
    assert status == 200, await reader.read()
    try:
        yield Events(reader)
    finally:
        writer.close()
