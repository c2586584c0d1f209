"""How NIXL's agents tell each other of themselves: our side of it against theirs, and against peers that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from peerload.client.stock.agents import MAX_AGENT_BYTES, AgentListener, fetch_agent
from peerload.errors import Fault, TransferFailed
from tests.support.live import free_port
from tests.support.stock_peers import needs_nixl, stock


@needs_nixl
async def test_a_real_agent_is_asked_and_asks() -> None:
    port = free_port()
    async with stock("agent", port=port) as one, stock("agent", port=free_port()) as other:
        said, _ = await one.hear(), await other.hear()
        blob = await fetch_agent(f"127.0.0.1:{port}", timeout=10.0)
        assert blob.hex() == said["metadata"]

        async def metadata() -> bytes:
            return blob

        listener = AgentListener(metadata)
        await listener.start("127.0.0.1")
        try:
            other.tell(json.dumps([said["agent"], listener.port]))
            assert await other.hear() == {"loaded": True}
        finally:
            await listener.close()


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def peer(talk: Talk) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await reader.readexactly(21)
            await talk(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def saying(*pieces: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return talk


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(struct.pack("<Q", 1 << 20) + b"NIXLCOMM:LOAD")
    await reader.read()


@pytest.mark.parametrize(
    ("talk", "fault", "retryable"),
    [
        (silent, Fault.STALLED, True),
        (dripping, Fault.STALLED, True),
        (saying(), Fault.LOST, True),
        (saying(struct.pack("<Q", 100) + b"NIXLCOMM:LOAD"), Fault.LOST, True),
        (saying(struct.pack("<Q", MAX_AGENT_BYTES + 14)), Fault.OTHER, False),
        (saying(struct.pack("<Q", 2**64 - 1)), Fault.OTHER, False),
        (saying(struct.pack("<Q", 13) + b"NIXLCOMM:LOAD"), Fault.OTHER, False),
        (saying(struct.pack("<Q", 20) + b"HTTP/1.1 400 Bad Req"), Fault.OTHER, False),
    ],
    ids=["silent", "dripping", "closing", "cut short", "too long", "endless", "empty", "another protocol"],
)
async def test_a_listener_that_is_none(talk: Talk, fault: Fault, retryable: bool) -> None:
    async with peer(talk) as endpoint:
        with pytest.raises(TransferFailed) as error:
            # Who says something is listened to for as long as that takes.
            await fetch_agent(endpoint, timeout=0.3 if fault is Fault.STALLED else 20.0)
    assert (error.value.fault, error.value.retryable) == (fault, retryable)


async def test_nobody_listens() -> None:
    with pytest.raises(TransferFailed) as error:
        await fetch_agent(f"127.0.0.1:{free_port()}", timeout=5.0)
    assert error.value.fault is Fault.REFUSED
    for endpoint in ("", "host", "host:99999", "[::1:5"):
        with pytest.raises(TransferFailed, match="HOST:PORT"):
            await fetch_agent(endpoint, timeout=5.0)


async def test_readers_that_misbehave_are_cut_off() -> None:
    async def metadata() -> bytes:
        return b"blob"

    listener = AgentListener(metadata, most=2)
    await listener.start("127.0.0.1")
    ask = struct.pack("<Q", 13) + b"NIXLCOMM:SEND"
    try:
        for nonsense in (struct.pack("<Q", 2**63), struct.pack("<Q", 70_000)):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(nonsense)
            assert await asyncio.wait_for(reader.read(), 5.0) == b""
            writer.close()
        kept = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
        for reader, writer in kept:
            # What agents say besides is heard and not answered.
            writer.write(struct.pack("<Q", 16) + b"NIXLCOMM:INVLabc" + ask + ask)
            for _ in range(2):
                assert await reader.readexactly(25) == struct.pack("<Q", 17) + b"NIXLCOMM:LOADblob"
        late, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        assert await asyncio.wait_for(kept[0][0].read(), 5.0) == b"", "the one that was silent longest goes"
        writer.write(ask)
        assert await late.readexactly(25)
        writer.close()
        for _, each in kept:
            each.close()
    finally:
        await listener.close()
        await listener.close()
