"""Both fronts and the tracking of calls, with handlers made for the purpose."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import urllib.parse
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
import structlog.testing

from peerload.errors import Conflict, InvalidArgument, LimitExceeded, NotFound, Unavailable
from peerload.metadata.principals import ANYONE, Principal
from peerload.server.calls import Calls
from peerload.server.fronts.front import Front
from peerload.server.fronts.grpc import GrpcFront
from peerload.server.fronts.h2corn import H2cornFront
from peerload.server.limits import Limits
from peerload.server.rpc import BidiMethod, Code, Context, Methods, RpcError, StreamMethod, UnaryMethod

LIMIT = 1024 * 1024
FRONTS = {"grpc": GrpcFront, "h2corn": H2cornFront}

Kind: TypeAlias = type[GrpcFront] | type[H2cornFront]


@pytest.fixture(params=FRONTS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return FRONTS[request.param]


class Handlers:
    """One handler for each thing that can happen to a call."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.produced = 0
        self.closed = asyncio.Event()

    def methods(self) -> Methods:
        return {
            "/t.T/Echo": UnaryMethod(self.echo),
            "/t.T/Hold": UnaryMethod(self.hold),
            "/t.T/Publish": UnaryMethod(self.echo, large=True),
            "/t.T/Fail": UnaryMethod(self.fail),
            "/t.T/Context": UnaryMethod(self.context),
            "/t.T/Flood": StreamMethod(self.flood),
            "/t.T/Quiet": StreamMethod(self.quiet),
            "/t.T/Broken": StreamMethod(self.broken),
            "/t.T/Both": BidiMethod(self.both),
        }

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def hold(self, request: bytes, context: Context) -> bytes:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"held"

    async def fail(self, request: bytes, context: Context) -> bytes:
        match request:
            case b"status":
                raise RpcError(Code.ABORTED, "as asked", b"\x08\x0a")
            case b"limit":
                raise LimitExceeded("tensors", "more than 5", limit=5)
            case b"argument":
                raise InvalidArgument("name", "is a\nb\x00c \N{SNOWMAN}")
            case b"absent":
                raise NotFound("no such thing")
            case b"outage":
                raise Unavailable("the store is away")
            case b"conflict":
                raise Conflict("k", 5)
            case b"long":
                raise InvalidArgument("name", "\N{SNOWMAN}" * 1_000_000)
        raise ZeroDivisionError("the secret")

    async def context(self, request: bytes, context: Context) -> bytes:
        context.set_trailing_metadata(("x-after", "done"))
        assert context.deadline is not None
        remaining = context.deadline - asyncio.get_running_loop().time()
        assert 0 < remaining < 65
        assert context.client_certificate is None
        assert context.metadata["x-bin"] == (b"\x00\xff",)
        assert context.metadata["x-two"] == ("a", "b")
        return context.peer.encode()

    async def flood(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                self.produced += 1
                yield bytes(64 * 1024)
        finally:
            self.closed.set()

    async def quiet(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await self.release.wait()
        finally:
            self.closed.set()

    async def broken(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        raise NotFound("gone") if request else ZeroDivisionError("the secret")

    async def both(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield request[::-1]
        finally:
            self.closed.set()


class Served:
    def __init__(self, handlers: Handlers, calls: Calls, front: Front, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.handlers = handlers
        self.calls = calls
        self.front = front
        self.channel = channel

    def unary(self, name: str):
        return self.channel.unary_unary(f"/t.T/{name}")

    def stream(self, name: str):
        return self.channel.unary_stream(f"/t.T/{name}")


@contextlib.asynccontextmanager
async def serve(kind: Kind) -> AsyncIterator[Served]:
    handlers, calls = Handlers(), Calls()
    front = kind(calls.wrap(handlers.methods()), limits=Limits(limit_message_bytes=LIMIT))
    address = await front.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(
        address, options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    ) as channel:
        try:
            yield Served(handlers, calls, front, address, channel)
        finally:
            await front.stop(0)


async def test_bytes_go_through_unchanged(kind: Kind) -> None:
    async with serve(kind) as served:
        for message in (b"", b"\x00\xff" * 1000, bytes(LIMIT - 100)):
            assert await served.unary("Echo")(message) == message


async def test_a_message_over_the_limit_names_it_and_harms_nothing(kind: Kind) -> None:
    async with serve(kind) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.unary("Echo")(bytes(LIMIT + 1))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(LIMIT) in failure.value.details()
        assert await served.unary("Echo")(b"still here") == b"still here"


@contextlib.asynccontextmanager
async def held_by_nobody_after(front: Front, kept: bytes) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a front that is started. What is done with it leaves nothing that holds `kept`, without the garbage
    collector's help."""
    gc.disable()
    try:
        async with grpc.aio.insecure_channel(await front.start("127.0.0.1:0")) as channel:
            before = sys.getrefcount(kept)
            yield channel
            # The last call's task may be on its way out.
            assert sys.getrefcount(kept) <= before + 3
    finally:
        gc.enable()
        await front.stop(0)


async def test_answers_that_are_turned_away_are_let_go_of_at_once(kind: Kind) -> None:
    answer = bytes(LIMIT + 1)

    async def large(request: bytes, context: Context) -> bytes:
        return answer

    front = kind(Calls().wrap({"/t.T/Large": UnaryMethod(large)}), limits=Limits(limit_message_bytes=LIMIT))
    async with held_by_nobody_after(front, answer) as channel:
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError, match="--limit-message-bytes"):
                await channel.unary_unary("/t.T/Large")(b"")


async def test_what_a_refused_call_held_is_let_go_of_at_once(kind: Kind) -> None:
    """A few requests of the largest would fill the memory before the garbage collector comes."""
    kept = bytes(LIMIT)
    requests: list[bytes] = []

    async def refuse(request: bytes, context: Context) -> bytes:
        requests.append(request)
        held = kept
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        loop.call_soon(answer.set_exception, InvalidArgument("request", f"has {len(held)} bytes"))
        try:
            return await answer
        finally:
            del answer  # nothing here knows the error

    front = kind(Calls().wrap({"/t.T/Refuse": UnaryMethod(refuse)}))
    async with held_by_nobody_after(front, kept) as channel:
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
                await channel.unary_unary("/t.T/Refuse")(bytes(LIMIT - 100))
        alone = sys.getrefcount(bytes(LIMIT))
        assert [sys.getrefcount(requests.pop(0)) for _ in range(4)] == [alone] * 4


@pytest.mark.parametrize("timeout", [None, 0.05], ids=["taken back", "late"])
async def test_what_an_unanswered_call_held_is_let_go_of_at_once(kind: Kind, timeout: float | None) -> None:
    kept = bytes(LIMIT)
    begun = asyncio.Event()

    async def wait(request: bytes, context: Context) -> bytes:
        held = kept
        begun.set()
        await asyncio.Event().wait()
        return held

    calls = Calls()
    front = kind(calls.wrap({"/t.T/Wait": UnaryMethod(wait)}))
    async with held_by_nobody_after(front, kept) as channel:
        held = 0
        while held < 5:
            call = channel.unary_unary("/t.T/Wait")(b"", timeout=timeout)
            if timeout is None:
                await begun.wait()
                call.cancel()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await call
            while calls.in_flight:
                await asyncio.sleep(0.001)
            if begun.is_set():
                held += 1
                begun.clear()
            elif timeout is not None:
                timeout *= 2  # it was late before it was here


class Closed:
    """A gate that lets nobody in but those who call by one path."""

    async def admit(self, path: str, context: Context) -> Principal:
        if path != "/t.T/Echo":
            raise RpcError(Code.PERMISSION_DENIED, f"{path} is closed")
        return ANYONE


async def test_who_is_not_let_in_is_told_before_the_request_is_read(kind: Kind) -> None:
    handlers = Handlers()
    front = kind(handlers.methods(), gate=Closed())
    address = await front.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(address) as channel:
        assert await channel.unary_unary("/t.T/Echo")(b"x") == b"x"
        # Nothing of the message is ever sent.
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.stream_unary("/t.T/Publish")()
        assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert failure.value.details() == "/t.T/Publish is closed"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_stream("/t.T/Flood")(b"").read()
        assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert handlers.produced == 0
    await front.stop(0)


async def test_a_large_request_and_a_missing_one(kind: Kind) -> None:
    async with serve(kind) as served:
        publish = served.channel.stream_unary("/t.T/Publish")
        message = bytes(LIMIT - 100)

        async def once() -> AsyncIterator[bytes]:
            yield message

        async def never() -> AsyncIterator[bytes]:
            return
            yield b""

        assert await publish(once()) == message
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await publish(never())
        assert failure.value.code() is grpc.StatusCode.INTERNAL
        assert failure.value.details() == "the request has no message"


async def test_an_unknown_method_is_unimplemented(kind: Kind) -> None:
    async with serve(kind) as served:
        for path in ("/t.T/Nothing", "/model_express.model.ModelService/EnsureModelDownloaded", "/"):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await served.channel.unary_unary(path)(b"")
            assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("request_bytes", "code", "text"),
    [
        (b"status", grpc.StatusCode.ABORTED, "as asked"),
        (b"limit", grpc.StatusCode.RESOURCE_EXHAUSTED, "tensors: more than 5"),
        (b"argument", grpc.StatusCode.INVALID_ARGUMENT, "name: is a\nb\x00c \N{SNOWMAN}"),
        (b"absent", grpc.StatusCode.NOT_FOUND, "no such thing"),
        (b"outage", grpc.StatusCode.UNAVAILABLE, "the store is away"),
        (b"conflict", grpc.StatusCode.ABORTED, "conflict: entry 'k' is at revision 5"),
    ],
)
async def test_errors_become_statuses(kind: Kind, request_bytes: bytes, code: grpc.StatusCode, text: str) -> None:
    async with serve(kind) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.unary("Fail")(request_bytes)
        assert failure.value.code() is code
        assert failure.value.details() == text


async def test_details_travel_beside_the_status(kind: Kind) -> None:
    async with serve(kind) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.unary("Fail")(b"status")
        assert dict(failure.value.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x0a"


async def test_a_message_that_no_header_could_carry_is_cut(kind: Kind) -> None:
    async with serve(kind) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.unary("Fail")(b"long")
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.value.details().startswith("name: \N{SNOWMAN}")
        assert failure.value.details().endswith("…")


@pytest.mark.parametrize("message", ["x" * 10_000, "\x00" * 10_000, "%" * 10_000, "\N{OLD ITALIC LETTER A}" * 10_000])
def test_every_message_fits_a_header(message: str) -> None:
    assert len(urllib.parse.quote(RpcError(Code.INTERNAL, message).message)) < 4_200


def test_a_lone_surrogate_is_replaced() -> None:
    assert RpcError(Code.INTERNAL, "a\udc80b").message == "a?b"


async def test_a_defect_is_internal_and_tells_nothing(kind: Kind) -> None:
    async with serve(kind) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.unary("Fail")(b"")
        assert failure.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in failure.value.details()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in served.stream("Broken")(b""):
                pass
        assert failure.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in failure.value.details()


async def test_the_context_knows_the_call(kind: Kind) -> None:
    async with serve(kind) as served:
        call = served.unary("Context")(
            b"", timeout=60, metadata=(("x-bin", b"\x00\xff"), ("x-two", "a"), ("x-two", "b"))
        )
        assert b"127.0.0.1" in await call
        assert dict(await call.trailing_metadata())["x-after"] == "done"


async def test_a_cancelled_call_is_a_cancelled_task(kind: Kind) -> None:
    async with serve(kind) as served:
        call = served.unary("Hold")(b"")
        waiting = asyncio.ensure_future(_finish(call))
        await served.handlers.entered.wait()
        call.cancel()
        await served.handlers.cancelled.wait()
        await waiting
        assert served.calls.in_flight == 0


async def test_a_deadline_is_a_cancelled_task(kind: Kind) -> None:
    async with serve(kind) as served:
        timeout = 0.5
        while not served.handlers.entered.is_set():
            timeout *= 2  # so that the call is there before
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await served.unary("Hold")(b"", timeout=timeout)
            assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await served.handlers.cancelled.wait()


async def test_a_stream_that_nobody_reads_stands_still(kind: Kind) -> None:
    async with serve(kind) as served:
        call = served.stream("Flood")(b"")
        assert await call.read() == bytes(64 * 1024)
        # It stands still once the transport's windows are full; how much those hold is gRPC's business.
        before = -1
        async with grpc.aio.insecure_channel(served.address) as other:
            while before != served.handlers.produced:
                before = served.handlers.produced
                for _ in range(20):
                    await other.unary_unary("/t.T/Echo")(b"")
        assert served.handlers.produced < 500
        call.cancel()
        await served.handlers.closed.wait()


async def test_a_stream_ends_in_a_status(kind: Kind) -> None:
    async with serve(kind) as served:
        call = served.stream("Broken")(b"x")
        assert await call.read() == b"first"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call.read()
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_streams_both_ways(kind: Kind) -> None:
    async with serve(kind) as served:
        call = served.channel.stream_stream("/t.T/Both")()
        for word in (b"abc", b"", b"xy"):
            await call.write(word)
            assert await call.read() == word[::-1]
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF


async def test_streams_both_ways_that_are_taken_back(kind: Kind) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serve(kind) as served:
            call = served.channel.stream_stream("/t.T/Both")()
            await call.write(b"abc")
            assert await call.read() == b"cba"
            call.cancel()
            await served.handlers.closed.wait()
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_draining_ends_streams_and_waits_for_calls(kind: Kind) -> None:
    async with serve(kind) as served:
        stream = served.stream("Quiet")(b"")
        assert await stream.read() == b"first"
        held = asyncio.ensure_future(_finish(served.unary("Hold")(b"")))
        await served.handlers.entered.wait()
        drain = asyncio.ensure_future(served.calls.drain(60))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failure.value.details() == "the server is stopping"
        await served.handlers.closed.wait()
        assert not drain.done()
        served.handlers.release.set()
        assert await held == b"held"
        await drain


async def test_draining_ends_calls_that_outlast_the_grace(kind: Kind) -> None:
    async with serve(kind) as served:
        held = asyncio.ensure_future(_finish(served.unary("Hold")(b"")))
        await served.handlers.entered.wait()
        await served.calls.drain(0.05)
        ended = await held
        assert isinstance(ended, grpc.aio.AioRpcError)
        assert ended.code() is grpc.StatusCode.UNAVAILABLE
        assert ended.details() == "the server is stopping"
        assert served.handlers.cancelled.is_set()


async def test_a_stream_that_begins_while_draining_ends_at_once(kind: Kind) -> None:
    async with serve(kind) as served:
        await served.calls.drain(0)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in served.stream("Flood")(b""):
                pytest.fail("answered")
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_port_in_use_is_refused_plainly(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"{address} is in use"):
            await kind({}).start(address)


@pytest.mark.parametrize(
    ("address", "text"),
    [("203.0.113.1:0", "not an address of this machine"), ("name.invalid:0", "cannot be resolved")],
)
async def test_an_address_that_cannot_be_had_is_refused_plainly(kind: Kind, address: str, text: str) -> None:
    with pytest.raises(Unavailable, match=text):
        await kind({}).start(address)


@pytest.mark.parametrize("address", ["", "127.0.0.1", "::1:5", "127.0.0.1:x", "127.0.0.1:70000", ":5"])
async def test_an_address_that_is_none_is_bad_input(kind: Kind, address: str) -> None:
    with pytest.raises(InvalidArgument, match="listen"):
        await kind({}).start(address)


async def _finish(call):
    try:
        return await call
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
        return error
