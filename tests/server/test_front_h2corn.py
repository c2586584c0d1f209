"""What only the front on h2corn does: its servers take over from each other, readers that stall are let go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from peerload.server.calls import Calls
from peerload.server.fronts.h2corn import H2cornFront
from peerload.server.limits import Limits
from peerload.server.rpc import Context, Methods, StreamMethod, UnaryMethod

MEBIBYTE = 1024 * 1024


class Handlers:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def methods(self) -> Methods:
        return {
            "/t.T/Echo": UnaryMethod(self.echo),
            "/t.T/Large": UnaryMethod(self.large),
            "/t.T/Quiet": StreamMethod(self.quiet),
            "/t.T/Flood": StreamMethod(self.flood),
        }

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def large(self, request: bytes, context: Context) -> bytes:
        return bytes(20 * MEBIBYTE)

    async def quiet(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async def flood(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(64 * 1024)
        finally:
            self.closed.set()


@contextlib.asynccontextmanager
async def serving(
    limits: Limits | None = None, listen: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[H2cornFront, Handlers, str]]:
    handlers = Handlers()
    front = H2cornFront(Calls().wrap(handlers.methods()), limits=limits)
    address = await front.start(listen)
    try:
        yield front, handlers, address
    finally:
        await front.stop(0)


def channel_to(address: str) -> grpc.aio.Channel:
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    return grpc.aio.insecure_channel(address, options=options)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests(compression: grpc.Compression) -> None:
    async with serving() as (_, _, address), channel_to(address) as channel:
        for message in (b"", b"small", bytes(MEBIBYTE)):
            assert await channel.unary_unary("/t.T/Echo")(message, compression=compression) == message


async def test_a_large_answer_arrives_whole() -> None:
    async with serving() as (_, _, address), channel_to(address) as channel:
        assert await channel.unary_unary("/t.T/Large")(b"") == bytes(20 * MEBIBYTE)


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        ("0.0.0.0:0", ["127.0.0.1"]),
        ("[::]:0", ["127.0.0.1", "[::1]"]),
        ("[::1]:0", ["[::1]"]),
        ("localhost:0", ["127.0.0.1"]),
    ],
)
async def test_where_it_listens(listen: str, hosts: list[str]) -> None:
    if "::" in listen and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with serving(listen=listen) as (_, _, address):
        port = address.rpartition(":")[2]
        for host in hosts:
            async with channel_to(f"{host}:{port}") as channel:
                assert await channel.unary_unary("/t.T/Echo")(b"x", timeout=20) == b"x"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_another_server_takes_over_and_no_call_is_lost() -> None:
    async with serving() as (front, _, address), channel_to(address) as channel:
        stream = channel.unary_stream("/t.T/Quiet")(b"")
        assert await stream.read() == b"first"
        echo = channel.unary_unary("/t.T/Echo")
        done = asyncio.Event()

        async def ask() -> int:
            count = 0
            while not done.is_set():
                assert await echo(b"x", timeout=20) == b"x"
                count += 1
            return count

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await front.roll()
        await asyncio.gather(front.roll(), front.roll())
        for _ in range(20):
            await echo(b"x", timeout=20)
        done.set()
        assert all([await task for task in asking])
        # The stream goes on at the server that has it.
        assert not stream.done()


async def test_a_connection_past_its_grace_is_ended_as_an_outage() -> None:
    async with serving() as (front, _, address), channel_to(address) as channel:
        stream = channel.unary_stream("/t.T/Quiet")(b"")
        assert await stream.read() == b"first"
        await front.roll(0)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await channel.unary_unary("/t.T/Echo")(b"x", timeout=20) == b"x"


async def test_connections_grow_no_older_than_they_may() -> None:
    limits = Limits(connection_age=0.05, connection_age_grace=0.05)
    async with serving(limits) as (_, _, address), channel_to(address) as channel:
        for _ in range(2):
            stream = channel.unary_stream("/t.T/Quiet")(b"", wait_for_ready=True)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                while await stream.read() is not grpc.aio.EOF:
                    pass
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_reader_that_takes_nothing_is_let_go() -> None:
    async with serving(Limits(timeout_stall=0.2)) as (_, handlers, address), channel_to(address) as channel:
        stream = channel.unary_stream("/t.T/Flood")(b"")
        assert await stream.read() == bytes(64 * 1024)
        await handlers.closed.wait()
        # What it held up goes on.
        assert await channel.unary_unary("/t.T/Echo")(b"x", timeout=20) == b"x"


async def test_it_stops_with_readers_that_take_nothing() -> None:
    async with serving() as (front, handlers, address), channel_to(address) as channel:
        stream = channel.unary_stream("/t.T/Flood")(b"")
        assert await stream.read() == bytes(64 * 1024)
        await front.stop(0)
        await front.stop(0)
        await handlers.closed.wait()
        # Nothing of it is left that the end of the event loop would have to wait for.
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "peerload-h2corn"]
