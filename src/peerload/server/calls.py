"""Calls in flight: what stands between the services and the front, whichever front it is.

Here errors become statuses, defects are logged, and a server that is told to stop lets calls end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import structlog

from peerload.errors import PeerloadError
from peerload.server.admission import HEALTH_PATHS
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
from peerload.server.status import to_rpc_error

__all__ = ["Calls"]

_MOMENT_SECONDS: Final = 0.1
_HUSH_SECONDS: Final = 1.0

_log = structlog.get_logger("peerload.server")


class Calls:
    """Keeps track of the calls in flight. `wrap` a table of methods once, `drain` once at the end."""

    def __init__(self) -> None:
        self._last_arrival = 0.0
        self._unary: set[asyncio.Task[object]] = set()
        self._evicted: set[asyncio.Task[object]] = set()
        self._waiting_streams: set[asyncio.Timeout] = set()
        self._draining = False
        self._streams_end = False

    def wrap(self, methods: Methods) -> dict[str, Method]:
        """The same table; its handlers raise nothing but `RpcError` and cancellation."""
        wrapped: dict[str, Method] = {}
        for path, method in methods.items():
            match method:
                case UnaryMethod(handler=unary):
                    wrapped[path] = replace(method, handler=self._wrap_unary(path, unary))
                case StreamMethod(stream):
                    wrapped[path] = StreamMethod(self._wrap_stream(path, stream))
                case BidiMethod(bidi):
                    wrapped[path] = BidiMethod(self._wrap_bidi(path, bidi))
        return wrapped

    @property
    def in_flight(self) -> int:
        """Unary calls that have not been answered."""
        return len(self._unary)

    async def drain(self, grace: float) -> None:
        """Turn new calls away, end every stream now, wait `grace` seconds for the other calls, then end those too.

        All of them are told UNAVAILABLE, which clients take as 'try again elsewhere'. Health is told to the end.
        """
        self._draining = True
        self._last_arrival = asyncio.get_running_loop().time()
        self.end_streams()
        if self._unary:
            await asyncio.wait(self._unary, timeout=grace)
        late = set(self._unary)
        for task in late:
            self._evicted.add(task)
            task.cancel()
        if late:
            _log.warning("calls were ended after the grace period", calls=len(late), grace=grace)
            # Bounded: a handler that shields itself from cancellation must not keep the server from stopping.
            await asyncio.wait(late, timeout=1.0)

    def end_streams(self) -> None:
        """End every stream now, as `drain` does, and those that come."""
        self._streams_end = True
        now = asyncio.get_running_loop().time()
        for waiting in self._waiting_streams:
            waiting.reschedule(now)

    async def hush(self) -> None:
        """Return once no call has come in for a moment, or they keep coming for too long.

        A transport that is stopped cancels what it has received and not handed over yet, and a client cannot tell that
        from a server that gave its call up.
        """
        loop = asyncio.get_running_loop()
        latest = loop.time() + _HUSH_SECONDS
        while (left := min(latest, self._last_arrival + _MOMENT_SECONDS) - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)  # calls move its end

    def _wrap_unary(self, path: str, handler: Unary) -> Unary:
        tells_health = path.startswith(HEALTH_PATHS)

        async def call(request: bytes, context: Context) -> bytes:
            if self._draining and not tells_health:
                self._last_arrival = asyncio.get_running_loop().time()
                raise _stopping()
            task = asyncio.current_task()
            assert task is not None
            self._unary.add(task)
            try:
                return await handler(request, context)
            except RpcError:
                raise
            except asyncio.CancelledError:
                if task not in self._evicted:
                    raise
                task.uncancel()
                raise _stopping() from None
            except Exception as error:
                raise _answer(path, error) from error
            finally:
                self._unary.discard(task)
                self._evicted.discard(task)

        return call

    def _wrap_stream(self, path: str, handler: Stream) -> Stream:
        def call(request: bytes, context: Context) -> AsyncIterator[bytes]:
            return self._guard(path, handler(request, context))

        return call

    def _wrap_bidi(self, path: str, handler: Bidi) -> Bidi:
        def call(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            return self._guard(path, handler(requests, context))

        return call

    async def _guard(self, path: str, answers: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            while not self._streams_end:
                # The deadline is brought forward by `drain`. It covers only the wait for the next answer, not the
                # time in which the front sends one.
                async with asyncio.timeout(None) as waiting:
                    self._waiting_streams.add(waiting)
                    try:
                        answer = await anext(answers)
                    except StopAsyncIteration:
                        return
                    finally:
                        self._waiting_streams.discard(waiting)
                yield answer
            raise _stopping()
        except RpcError:
            raise
        except Exception as error:
            if self._streams_end and isinstance(error, TimeoutError):
                raise _stopping() from None
            raise _answer(path, error) from error
        finally:
            close = getattr(answers, "aclose", None)
            if close is not None:
                await close()


def _stopping() -> RpcError:
    return RpcError(Code.UNAVAILABLE, "the server is stopping")


def _answer(path: str, error: Exception) -> RpcError:
    known = to_rpc_error(error) if isinstance(error, PeerloadError) else None
    if known is not None:
        return known
    _log.error("a call failed unexpectedly", method=path, exc_info=error)
    return RpcError(Code.INTERNAL, "the server failed to answer this call; its log tells why")
