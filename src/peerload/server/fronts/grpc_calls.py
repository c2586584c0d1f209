"""The calls of the front on grpc.aio: how a table of methods is handed to it, and what its calls look like to a handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, cast

import grpc
import grpc.aio

from peerload.errors import PeerloadError
from peerload.metadata.principals import ANYONE, Principal
from peerload.server.admission import Admission
from peerload.server.limits import SMALL_BYTES
from peerload.server.requests import CURRENT, request_id
from peerload.server.rpc import (
    REQUEST_ID_KEY,
    Bidi,
    BidiMethod,
    Code,
    Context,
    Method,
    Methods,
    RpcError,
    Stream,
    StreamMethod,
    Unary,
    UnaryMethod,
)

__all__ = ["Table"]

_T = TypeVar("_T")

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_KEY: Final = "grpc-status-details-bin"


class Table(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds a method's handler by its path; none: grpc answers UNIMPLEMENTED."""

    def __init__(self, methods: Methods, admission: Admission) -> None:
        self._handlers = {path: _handler(_Way(path, method, admission), method) for path, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _handler(way: _Way, method: Method) -> grpc.RpcMethodHandler:
    # Without serializers grpc hands bytes through.
    match method:
        case UnaryMethod(handler=unary, large=True):
            # For a method that takes one request grpc reads it before it calls us.
            return grpc.stream_unary_rpc_method_handler(_large(way, unary))
        case UnaryMethod(handler=unary):
            return grpc.unary_unary_rpc_method_handler(_unary(way, unary))
        case StreamMethod(stream):
            return grpc.unary_stream_rpc_method_handler(_stream(way, stream))
        case BidiMethod(bidi):
            return grpc.stream_stream_rpc_method_handler(_bidi(way, bidi))


class _Way:
    """The way of a method's calls through the admission."""

    def __init__(self, path: str, method: Method, admission: Admission) -> None:
        self._path = path
        self._places = admission.places(path, method)
        self.admission = admission

    async def lead(self, context: Any, work: Callable[[_Call], Awaitable[_T]]) -> _T:
        """Do the work of a call once it is let in. Errors in it become its status."""
        call = _Call(context)
        CURRENT.set(call)
        outcome = await self._outcome(call, work)
        if isinstance(outcome, RpcError):
            await _abort(context, outcome, call.request_id)
            raise AssertionError("unreachable")
        return outcome

    async def _outcome(self, call: _Call, work: Callable[[_Call], Awaitable[_T]]) -> _T | RpcError:
        # An aborted call's frames are kept by gRPC until the garbage collector comes. So what a call held, an answer that found no
        # room above all, must be in none of them: the frames of what failed end here.
        try:
            with self._places:
                call.principal = await self.admission.admit(self._path, call)
                return await work(call)
        except RpcError as error:
            return error.bare()
        except PeerloadError as error:
            refusal = self.admission.refusal(error)
            if refusal is None:
                raise
            return refusal

    async def hold_answer(self, answer: bytes, call: _Call, context: Any) -> bytes:
        """Find room for a large answer, until it has been sent."""
        if len(answer) > SMALL_BYTES:
            self.admission.check_answer(len(answer))
            # Twice, because gRPC makes a copy of it.
            held = await self.admission.answers.take(2 * len(answer), call.deadline)
            context.add_done_callback(lambda _: held.release())
        return answer


def _unary(way: _Way, handler: Unary) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def call(request: bytes, context: Any) -> bytes:
        async def work(admitted: _Call) -> bytes:
            with await way.admission.requests.take(len(request), admitted.deadline):
                answer = await handler(request, admitted)
            return await way.hold_answer(answer, admitted, context)

        try:
            return await way.lead(context, work)
        finally:
            request = b""  # see `_Way._outcome`: this frame may be kept

    return call


def _large(way: _Way, handler: Unary) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]:
    async def call(_: AsyncIterator[bytes], context: Any) -> bytes:
        async def work(admitted: _Call) -> bytes:
            limits = way.admission.limits
            with await way.admission.requests.take(limits.limit_message_bytes, admitted.deadline) as held:
                request = await _read(context, limits.timeout_request)
                held.shrink(len(request))
                answer = await handler(request, admitted)
            return await way.hold_answer(answer, admitted, context)

        return await way.lead(context, work)

    return call


async def _read(context: Any, allowed: float) -> bytes:
    try:
        async with asyncio.timeout(allowed):
            request = await context.read()
    except TimeoutError:
        raise RpcError(
            Code.DEADLINE_EXCEEDED, f"--timeout-request: the request was not there after {allowed:g} s"
        ) from None
    if request is grpc.aio.EOF:
        raise RpcError(Code.INTERNAL, "the request has no message")
    return cast(bytes, request)


def _stream(way: _Way, handler: Stream) -> Callable[[bytes, Any], Awaitable[None]]:
    async def call(request: bytes, context: Any) -> None:
        await way.lead(context, lambda admitted: _send(handler(request, admitted), context, way))

    return call


def _bidi(way: _Way, handler: Bidi) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
    async def call(requests: AsyncIterator[bytes], context: Any) -> None:
        await way.lead(context, lambda admitted: _send(handler(requests, admitted), context, way))

    return call


async def _send(answers: AsyncIterator[bytes], context: Any, way: _Way) -> None:
    try:
        async for answer in answers:
            way.admission.check_answer(len(answer))
            with await way.admission.answers.take(2 * len(answer), None):
                # Returns when the transport has taken it: that is what holds back a stream nobody reads.
                await context.write(answer)
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()


async def _abort(context: Any, error: RpcError, request_id: str) -> Any:
    trailing = (*(context.trailing_metadata() or ()), (REQUEST_ID_KEY, request_id))
    if error.details is not None:
        trailing += ((_DETAILS_KEY, error.details),)
    await context.abort(_CODES[int(error.code)], error.message, trailing)


class _Call(Context):
    """A `Context` over grpc's; everything is looked up only when it is asked for."""

    __slots__ = ("_context", "_request_id", "principal")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._request_id = ""
        self.principal: Principal = ANYONE

    @property
    def metadata(self) -> Mapping[str, tuple[str | bytes, ...]]:
        found: dict[str, tuple[str | bytes, ...]] = {}
        for key, value in self._context.invocation_metadata() or ():
            found[key] = (*found.get(key, ()), value)
        return found

    @property
    def peer(self) -> str:
        return str(self._context.peer())

    @property
    def deadline(self) -> float | None:
        remaining = self._context.time_remaining()
        return None if remaining is None else asyncio.get_running_loop().time() + remaining

    @property
    def client_certificate(self) -> bytes | None:
        pems = self._context.auth_context().get("x509_pem_cert")
        return bytes(pems[0]) if pems else None

    @property
    def request_id(self) -> str:
        if not self._request_id:
            given = self._context.invocation_metadata() or ()
            self._request_id = request_id(value for key, value in given if key == REQUEST_ID_KEY)
        return self._request_id

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        self._context.set_trailing_metadata(pairs)
