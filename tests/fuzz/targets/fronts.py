"""What strangers write to the port: bytes after HTTP/2's greeting, to a real server of each front."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Final, Self
from unittest import mock

import grpc

from peerload.server import calls
from peerload.server.addresses import split_address
from peerload.server.fronts.asgi.app import Application
from peerload.wire import p2p_pb2, sources_pb2
from tests.fuzz.target import Target
from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawConnection,
    block,
    call_headers,
    frame,
    message,
)
from tests.support.live import Rpc, code_of, eventually, publication
from tests.support.server import serving

__all__ = ["TARGETS"]

_P2P: Final = "/model_express.p2p.P2pService"
_PATIENCE_S: Final = 20.0
_LINGER_S: Final = 0.05
"""How long an answer is waited for where the server does not hang up, but waits for the rest of a frame."""
_LOST: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_LAST: Final = (1 << 20) + 1
"""The stream of a call that follows each input."""
_INPUTS: Final = 5_000
"""After so many there is a new server: what was published to one stays there."""


class _Live:
    """A server on a thread, with one source that nobody else speaks of."""

    def __init__(self, front: str) -> None:
        self._front = front
        self._inputs = 0
        self._wrong: list[str] = []
        self._thread: threading.Thread | None = None

    def run(self, data: bytes) -> None:
        """Write it; then the source must be there still, and no call have failed in a way that was not foreseen."""
        if self._inputs % _INPUTS == 0:
            self._start()
        self._inputs += 1
        with contextlib.suppress(OSError), RawConnection(self._port, timeout=_PATIENCE_S) as connection:
            connection.send(data)
            connection.call(f"{_P2P}/ListSources", b"", _LAST)
            connection.socket.settimeout(_LINGER_S)
            # Once the last call is answered, those before it have begun at least.
            connection.ended(_LAST)
        assert eventually(self._control, within=_PATIENCE_S).found
        assert self._rpc.update(self._update, timeout=_PATIENCE_S).success
        assert not self._wrong, self._wrong

    def _control(self) -> p2p_pb2.GetMetadataResponse | None:
        """The source as it is; None where the server is not there, which on grpc may be for a moment."""
        try:
            return self._rpc.get(self._source_id, "control", timeout=_PATIENCE_S)
        except grpc.RpcError as error:
            if self._front != "grpc" or code_of(error) not in _LOST:
                raise
            return None

    def _start(self) -> None:
        if self._thread is not None:
            self._rpc.__exit__(None, None, None)
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(_PATIENCE_S)
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(_PATIENCE_S)
        self._rpc = Rpc(self._address)
        self._rpc.__enter__()
        self._source_id = self._rpc.publish(publication("org/control", "control")).mx_source_id
        self._update = p2p_pb2.UpdateStatusRequest(
            mx_source_id=self._source_id, worker_id="control", status=p2p_pb2.SOURCE_STATUS_READY
        )

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._failed)
        with mock.patch.object(calls, "_log", self), mock.patch.object(Application, "__call__", self._guarded()):
            async with serving(front=self._front, timeout_request=1.0, heartbeat_timeout=3600.0) as server:
                self._address = server.address
                self._port = split_address(server.address)[1]
                started.set()
                await self._over.wait()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A path that is no UTF-8 ends the server of grpcio, and another takes its place.
        if self._front != "grpc" or not isinstance(context.get("exception"), UnicodeDecodeError):
            self._wrong.append(str(context))

    def _guarded(self) -> Callable[..., Any]:
        answer = Application.__call__

        async def guarded(application: Application, scope: Any, receive: Any, send: Any) -> None:
            try:
                await answer(application, scope, receive, send)
            except Exception as error:
                self._wrong.append(repr(error))
                raise

        return guarded

    # What the calls log.

    def error(self, event: str, **words: Any) -> None:
        self._wrong.append(f"{event}: {words}")

    def bind(self, **words: Any) -> Self:
        return self

    def _say(self, event: str, **words: Any) -> None:
        pass

    debug = info = warning = _say


@cache
def _live(front: str) -> _Live:
    return _Live(front)


def run(front: str, data: bytes) -> None:
    """Bytes to that front."""
    _live(front).run(data)


def seeds() -> Iterator[bytes]:
    """Calls as they should be, and frames about them."""
    request = publication("org/fuzzed", "w", tensors=2).SerializeToString()
    listed = sources_pb2.ListRequest().SerializeToString()
    for path, body in (
        (f"{_P2P}/PublishMetadata", request),
        (f"{_P2P}/ListSources", b""),
        ("/peerload.v1.SourceService/List", listed),
        ("/peerload.v1.SourceService/Watch", sources_pb2.WatchRequest().SerializeToString()),
        ("/grpc.health.v1.Health/Check", b""),
        ("/no.Such/Method", b"x"),
    ):
        yield _call(1, path, message(body))
    yield _call(1, f"{_P2P}/ListSources", message(b""), ("grpc-timeout", "1S")) + _call(3, f"{_P2P}/ListSources", b"")
    yield _call(1, f"{_P2P}/ListSources", message(b"x", compressed=True), ("grpc-encoding", "gzip"))
    yield _call(1, f"{_P2P}/ListSources", message(b"\x1f\x8b\x08", compressed=True), ("grpc-encoding", "deflate"))
    yield _call(1, f"{_P2P}/PublishMetadata", message(b"", size=2**32 - 1), ("authorization", "Bearer x"))
    yield _call(1, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", message(b"\x3a\x00") * 3)
    head = block(f"{_P2P}/ListSources")
    yield (frame(HEADERS, 0, 1, head[:9]) + frame(CONTINUATION, END_HEADERS, 1, head[9:]) + frame(DATA, 0, 1, b"\0"))
    yield frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + head + bytes(3)) + frame(RST_STREAM, 0, 1, bytes(4))
    yield (
        frame(SETTINGS, payload=struct.pack(">HIHI", 4, 0, 5, 1 << 14))
        + frame(WINDOW_UPDATE, payload=struct.pack(">I", 1 << 20))
        + frame(PRIORITY, 0, 3, bytes(5))
        + frame(PING, payload=bytes(8))
        + _call(5, f"{_P2P}/ListSources", message(b""))
        + frame(WINDOW_UPDATE, 0, 5, struct.pack(">I", 0))
        + frame(GOAWAY, payload=bytes(8))
    )


def _call(stream: int, path: str, body: bytes, *more: tuple[str, str]) -> bytes:
    return call_headers(path, stream, *more) + frame(DATA, END_STREAM, stream, body)


def _target(front: str) -> Target:
    act: Callable[[bytes], None] = partial(run, front)
    return Target(f"front-{front}", act, seeds, mutations=100)


TARGETS = [_target("h2corn"), _target("grpc")]
