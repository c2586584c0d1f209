"""How many calls there were of each method, how they ended and how long they took.

Of calls that were let in: those turned away by the gate or a limit are counted where that happens. At level debug each call is
also told in a log line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from peerload.clock import Clock
from peerload.server.rpc import (
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
from peerload.tally import Histogram

__all__ = ["CallMeasures", "MethodMeasures"]


# The standard library's own: of it one can ask cheaply, for each call, whether anybody wants to hear.
_log: Final = logging.getLogger("peerload.server.calls")


class MethodMeasures:
    """Of one method's calls. `seconds` and `sent` are of one kind of method each: a stream lasts as long as its reader."""

    __slots__ = ("codes", "seconds", "sent", "started", "streams")

    def __init__(self, *, streams: bool) -> None:
        self.streams = streams
        self.started = 0
        self.codes = [0] * len(Code)
        """How many ended with each status, by number."""
        self.seconds = Histogram()
        """From being let in to being answered."""
        self.sent = 0
        """Messages of streams."""

    @property
    def in_flight(self) -> int:
        """How many have not ended."""
        return self.started - sum(self.codes)


class CallMeasures:
    """Of every method. `wrap` a table whose handlers raise nothing but `RpcError` and cancellation."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self.methods: dict[str, MethodMeasures] = {}
        """By `package.Service/Method`."""

    def wrap(self, methods: Methods) -> dict[str, Method]:
        """The same table, measured."""
        wrapped: dict[str, Method] = {}
        for path, method in methods.items():
            measures = MethodMeasures(streams=not isinstance(method, UnaryMethod))
            self.methods[path.removeprefix("/")] = measures
            match method:
                case UnaryMethod(handler=unary):
                    wrapped[path] = replace(method, handler=self._unary(path.removeprefix("/"), measures, unary))
                case StreamMethod(stream):
                    wrapped[path] = StreamMethod(self._stream(path.removeprefix("/"), measures, stream))
                case BidiMethod(bidi):
                    wrapped[path] = BidiMethod(self._bidi(path.removeprefix("/"), measures, bidi))
        return wrapped

    def _unary(self, name: str, measures: MethodMeasures, handler: Unary) -> Unary:
        # Every heartbeat comes through here: names that are at hand cost least.
        now, observe, codes = self._now, measures.seconds.observe, measures.codes
        verbose = _log.isEnabledFor
        ok, unknown, cancelled = int(Code.OK), int(Code.UNKNOWN), int(Code.CANCELLED)

        async def call(request: bytes, context: Context) -> bytes:
            measures.started += 1
            begun = now()
            code = unknown
            try:
                answer = await handler(request, context)
                code = ok
                return answer
            except RpcError as error:
                code = int(error.code)
                raise
            except asyncio.CancelledError:
                code = cancelled
                raise
            finally:
                codes[code] += 1
                took = now() - begun
                observe(took)
                if verbose(logging.DEBUG):
                    _tell(name, code, took, context)

        return call

    def _stream(self, name: str, measures: MethodMeasures, handler: Stream) -> Stream:
        def call(request: bytes, context: Context) -> AsyncIterator[bytes]:
            return self._sent(name, measures, handler(request, context), context)

        return call

    def _bidi(self, name: str, measures: MethodMeasures, handler: Bidi) -> Bidi:
        def call(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            return self._sent(name, measures, handler(requests, context), context)

        return call

    async def _sent(
        self, name: str, measures: MethodMeasures, answers: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        with self._counted(name, measures, context):
            try:
                async for answer in answers:
                    measures.sent += 1
                    yield answer
            finally:
                close = getattr(answers, "aclose", None)
                if close is not None:
                    await close()

    @contextmanager
    def _counted(self, name: str, measures: MethodMeasures, context: Context) -> Iterator[None]:
        begun = self._now()
        code = Code.UNKNOWN
        measures.started += 1
        try:
            yield
            code = Code.OK
        except RpcError as error:
            code = error.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            # So a front ends the stream of a reader that has gone.
            code = Code.CANCELLED
            raise
        finally:
            measures.codes[code] += 1
            if _log.isEnabledFor(logging.DEBUG):
                _tell(name, code, self._now() - begun, context)


def _tell(name: str, code: int, seconds: float, context: Context) -> None:
    _log.debug(
        "a call has ended",
        extra={
            "method": name,
            "code": Code(code).name,
            "seconds": round(seconds, 6),
            "peer": context.peer,
            "principal": context.principal.name,
        },
    )
