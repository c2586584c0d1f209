"""A table of methods as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from peerload.errors import PeerloadError
from peerload.server.admission import Admission, Places
from peerload.server.fronts.asgi.call import Call, Send
from peerload.server.fronts.asgi.framing import Disconnected, Messages, Receive
from peerload.server.fronts.asgi.headers import timeout_of
from peerload.server.fronts.asgi.inflate import ENCODINGS
from peerload.server.fronts.asgi.timer import Timer
from peerload.server.fronts.asgi.waited import Waited
from peerload.server.requests import CURRENT
from peerload.server.rpc import BidiMethod, Code, Method, Methods, RpcError, StreamMethod, UnaryMethod

__all__ = ["Application"]

_CONTENT_TYPE: Final = b"application/grpc"
_IDENTITY: Final = b"identity"
_LONGEST_SECONDS: Final = 365 * 24 * 3600.0
"""Deadlines that are further away are none; the event loop's clock need not be able to tell them."""


@dataclass(frozen=True, slots=True)
class _Route:
    path: str
    method: Method
    places: Places


@dataclass(slots=True)
class _Head:
    """What the headers say of how a call is to be read."""

    is_grpc: bool = False
    timeout: float | None = None
    encoding: bytes | None = None
    takes_trailers: bool = False
    wrong: RpcError | None = None


class Application:
    """Serves gRPC to whatever speaks ASGI; each request is a call, and a task of its own."""

    def __init__(self, methods: Methods, admission: Admission) -> None:
        self._admission = admission
        # By the path's bytes: gRPC knows no escapes in paths.
        self._routes = {
            path.encode(): _Route(path, method, admission.places(path, method)) for path, method in methods.items()
        }
        self._calls: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    @property
    def calls(self) -> int:
        """How many there are."""
        return len(self._calls)

    def end_calls(self) -> None:
        """End the calls that there are. They are told UNAVAILABLE, which clients take as 'try again elsewhere'."""
        self._ended |= self._calls
        self._cancel()

    def drop_calls(self) -> None:
        """End the calls that there are, and tell them nothing."""
        self._ended.clear()
        self._cancel()

    def _cancel(self) -> None:
        for task in self._calls:
            task.cancel()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request; see the ASGI specification."""
        if scope["type"] == "websocket":
            with contextlib.suppress(OSError):
                await send({"type": "websocket.close"})
            return
        head = _head_of(scope)
        if not head.is_grpc or not head.takes_trailers or scope["method"] != "POST":
            await _refuse(send, 415 if not head.is_grpc else 400 if not head.takes_trailers else 405)
            return
        deadline = None if head.timeout is None else asyncio.get_running_loop().time() + head.timeout
        call = Call(scope, send, deadline, self._admission)
        CURRENT.set(call)
        route = None if scope["query_string"] else self._routes.get(scope["raw_path"])
        failure = head.wrong
        if route is None:
            failure = RpcError(Code.UNIMPLEMENTED, "Method not found!")
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            if failure is None:
                assert route is not None
                timer = Timer(task, deadline, self._admission.limits.timeout_request)
                messages = Messages(receive, self._admission, head.encoding, deadline, timer)
                failure = await self._handle(route, messages, call, timer)
            if failure is not None:
                await call.fail(failure)
        except Disconnected:
            pass
        finally:
            self._calls.discard(task)
            self._ended.discard(task)

    async def _handle(self, route: _Route, messages: Messages, call: Call, timer: Timer) -> RpcError | None:
        """Answer a call; the failure with which it is still to be ended, if any. Raises `Disconnected`."""
        try:
            await Waited(self._let_in(route, messages, call), timer.arm)
        except RpcError as error:
            return error.bare()
        except PeerloadError as error:
            refusal = self._admission.refusal(error)
            if refusal is None:
                raise
            return refusal
        except asyncio.CancelledError:
            if timer.takes_back():
                return self._late(timer)
            task = asyncio.current_task()
            if task is None or task not in self._ended:
                raise
            task.uncancel()
            return RpcError(Code.UNAVAILABLE, "the connection has come to its end; make another one")
        finally:
            if timer.armed:
                timer.stop()
        return None

    async def _let_in(self, route: _Route, messages: Messages, call: Call) -> None:
        with route.places:
            call.principal = await self._admission.admit(route.path, call)
            match route.method:
                case UnaryMethod(handler=unary):
                    request, held = await messages.only()
                    with held:
                        answer = await unary(request, call)
                    await call.answer(answer)
                case StreamMethod(stream):
                    request, held = await messages.only()
                    # What a stream was asked for is small, and not worth holding for hours.
                    held.release()
                    await _pass_on(stream(request, call), call)
                case BidiMethod(bidi):
                    await _pass_on(bidi(_each(messages), call), call)

    def _late(self, timer: Timer) -> RpcError:
        if timer.slow:
            allowed = self._admission.limits.timeout_request
            text = f"--timeout-request: the request was not there after {allowed:g} s"
        else:
            text = "Deadline Exceeded"
        return RpcError(Code.DEADLINE_EXCEEDED, text)


async def _each(messages: Messages) -> AsyncIterator[bytes]:
    while True:
        try:
            got = await messages.next()
        except Disconnected:
            # The handler, who asks, is to hear of it as of any call that is taken back.
            raise asyncio.CancelledError from None
        if got is None:
            return
        message, held = got
        with held:
            yield message


async def _pass_on(answers: AsyncIterator[bytes], call: Call) -> None:
    try:
        async for answer in answers:
            await call.send(answer)
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()
    await call.finish()


def _head_of(scope: Mapping[str, Any]) -> _Head:
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"")
    if kind != _CONTENT_TYPE:
        kind = kind.partition(b";")[0].strip()
    head = _Head(
        is_grpc=kind == _CONTENT_TYPE or kind.startswith(_CONTENT_TYPE + b"+"),
        takes_trailers="http.response.trailers" in scope["extensions"],
    )
    if (value := headers.get(b"grpc-timeout")) is not None:
        try:
            timeout = timeout_of(value)
        except ValueError as error:
            head.wrong = RpcError(Code.INVALID_ARGUMENT, f"grpc-timeout: {error}")
        else:
            head.timeout = timeout if timeout < _LONGEST_SECONDS else None
    encoding = headers.get(b"grpc-encoding", _IDENTITY)
    if encoding in ENCODINGS:
        head.encoding = encoding
    elif encoding != _IDENTITY:
        head.wrong = RpcError(Code.UNIMPLEMENTED, "grpc-encoding: is none of identity, gzip and deflate")
    return head


async def _refuse(send: Send, status: int) -> None:
    """Answer something that is no gRPC call."""
    # Whoever has gone by now is told nothing.
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": ((b"content-length", b"0"),)})
        await send({"type": "http.response.body", "body": b""})
