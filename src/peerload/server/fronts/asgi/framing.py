"""Messages out of the bodies of requests.

Each is preceded by five bytes: whether it is compressed, and its size. So what is too large, or finds no room, is known
before it has been read; until then at most a flow-control window of it is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from peerload.server.admission import Admission
from peerload.server.fronts.asgi.inflate import Corrupt, TooLarge, inflate, most_inflated
from peerload.server.fronts.asgi.timer import Timer
from peerload.server.limits import SMALL_BYTES
from peerload.server.room import Held
from peerload.server.rpc import Code, RpcError

__all__ = ["PREFIX_BYTES", "Disconnected", "Messages", "Receive", "prefix"]

PREFIX_BYTES: Final = 5

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Disconnected(Exception):
    """The client has gone, or has taken its call back."""


def prefix(size: int) -> bytes:
    """What precedes a message of that size that is not compressed."""
    return size.to_bytes(PREFIX_BYTES, "big")


class Messages:
    """The messages of one call's request.

    `until` is the call's deadline on the event loop's clock. `timer` is to end the call: it is brought forward while the client
    has to send something, and put back to the deadline when it has.
    """

    __slots__ = ("_admission", "_buffer", "_encoding", "_ended", "_receive", "_timer", "_until")

    def __init__(
        self, receive: Receive, admission: Admission, encoding: bytes | None, until: float | None, timer: Timer
    ) -> None:
        self._receive = receive
        self._admission = admission
        self._encoding = encoding
        self._until = until
        self._timer = timer
        self._buffer = bytearray()
        self._ended = False

    async def only(self) -> tuple[bytes, Held]:
        """The one message, and the room it takes. Raises `RpcError` for none or several, and what `next` raises."""
        await self._more()
        size = len(self._buffer) - PREFIX_BYTES
        if 0 <= size <= SMALL_BYTES and self._buffer.startswith(prefix(size)):
            if not self._ended:
                # The end mostly comes in an event of its own.
                await self._more()
            if self._ended and len(self._buffer) == size + PREFIX_BYTES:
                if self._timer.slow:
                    self._timer.be_patient()
                return bytes(memoryview(self._buffer)[PREFIX_BYTES:]), self._admission.requests.nothing
        got = await self.next(idle=False)
        if got is None:
            raise RpcError(Code.INTERNAL, "the request has no message")
        message, held = got
        try:
            while not self._ended and not self._buffer:
                await self._more()
            if self._buffer:
                raise RpcError(Code.INTERNAL, "the request has more than one message")
        except BaseException:
            held.release()
            raise
        self._timer.be_patient()
        return message, held

    async def next(self, *, idle: bool = True) -> tuple[bytes, Held] | None:
        """The next message and the room it takes; None after the last. Unless the client may be `idle`, its time begins before
        the message has begun.

        Raises `RpcError` for what is malformed, `LimitExceeded` for what is too large or finds no room, `Disconnected`.
        """
        buffer = self._buffer
        while len(buffer) < PREFIX_BYTES:
            if self._ended:
                if buffer:
                    raise RpcError(Code.INTERNAL, "the request ends within a message")
                return None
            await self._more(hurried=not idle or bool(buffer))
        compressed, size = buffer[0], int.from_bytes(buffer[1:PREFIX_BYTES], "big")
        if compressed > 1:
            raise RpcError(Code.INTERNAL, "the request is not framed as gRPC frames messages")
        if compressed and self._encoding is None:
            raise RpcError(Code.INTERNAL, "a message is compressed, and no header tells how")
        self._admission.check_request(size)
        del buffer[:PREFIX_BYTES]
        limit = self._admission.limits.limit_message_bytes
        needed = size + min(limit, most_inflated(size)) if compressed else size
        # Waiting for room is not the client's doing.
        self._timer.be_patient()
        held = await self._admission.requests.take(needed, self._until)
        try:
            while len(buffer) < size:
                if self._ended:
                    raise RpcError(Code.INTERNAL, "the request ends within a message")
                await self._more()
            self._timer.be_patient()
            message = bytes(memoryview(buffer)[:size]) if len(buffer) > size else bytes(buffer)
            del buffer[:size]
            if compressed:
                message = await self._inflated(message, limit)
                held.shrink(len(message))
        except BaseException:
            held.release()
            raise
        return message, held

    async def _more(self, *, hurried: bool = True) -> None:
        timer = self._timer
        if hurried:
            timer.expects = True
            if timer.armed:
                timer.hurry()
        event = await self._receive()
        timer.expects = False
        if event["type"] != "http.request":
            raise Disconnected
        body = event.get("body")
        if body:
            self._buffer += body
        self._ended = not event.get("more_body", False)

    async def _inflated(self, message: bytes, limit: int) -> bytes:
        encoding = self._encoding
        assert encoding is not None
        try:
            if most_inflated(len(message)) <= SMALL_BYTES:
                return inflate(encoding, message, limit)
            return await asyncio.get_running_loop().run_in_executor(None, inflate, encoding, message, limit)
        except TooLarge:
            self._admission.check_request(limit + 1)
            raise
        except Corrupt as error:
            raise RpcError(Code.INTERNAL, f"a message is not {encoding.decode()}: {error}") from None
