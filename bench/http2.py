"""gRPC calls over a bare socket, fast enough that the load is not the bottleneck: heads are encoded once, answers only counted.

It checks what matters for a figure: that each call was answered with a message (an error has none), and by how many bytes.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from typing import Final, NamedTuple

__all__ = ["Connection", "Done"]

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_MAX_STREAMS: Final = 3
_INITIAL_WINDOW: Final = 4
_FRAME: Final = struct.Struct(">HBBBI")
_LARGEST_WINDOW: Final = 2**31 - 1
_FIRST_WINDOW: Final = 65_535
_FIRST_STREAMS: Final = 100
"""In flight until the server has said how many there may be: the least that it should allow (RFC 9113, section 6.5.2)."""
_LARGEST_FRAME: Final = 16_384
_READ_BYTES: Final = 1 << 18
"""For what has come; a frame has at most 16 KiB."""
_SAID_AT: Final = 1 << 26
"""So much is read before the connection's window is opened again."""
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Done(NamedTuple):
    """A call that has ended."""

    call: int
    """The number it was begun with."""
    seconds: float
    size: int
    """Bytes of its answer; 0: it failed."""


class _Open:
    __slots__ = ("begun", "call", "rest", "size", "window")

    def __init__(self, call: int, begun: float, window: int) -> None:
        self.call, self.begun, self.window = call, begun, window
        self.size = 0
        self.rest: memoryview | None = None


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 255, kind, flags, stream) + payload


def head_of(path: str) -> bytes:
    """The header block of a call: nothing is compressed, and nothing remembered (RFC 7541, 6.2.2)."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "bench"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        # Clients give their calls a deadline.
        ("grpc-timeout", "30S"),
    )
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode() for name, value in fields
    )


class Connection:
    """One connection, not blocking. `begin` calls, then `send`, and `receive` what has ended."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.in_flight = 0
        self.events: list[tuple[int, float]] = []
        """Messages of answers that go on, as the calls' numbers and when they came; only where `tells_messages`."""
        self.tells_messages = False
        settings = struct.pack(">HIHI", 1, 0, _INITIAL_WINDOW, _LARGEST_WINDOW)
        self._out = bytearray(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, (_LARGEST_WINDOW - _FIRST_WINDOW).to_bytes(4, "big"))
        )
        self._in = bytearray(_READ_BYTES)
        self._filled = 0
        self._stream = -1
        self._open: dict[int, _Open] = {}
        self._held: deque[int] = deque()
        self._streams = _FIRST_STREAMS
        self._late: deque[tuple[int, bytes, bytes, float]] = deque()
        """Calls for which there is no stream yet."""
        self._window = self._first_window = _FIRST_WINDOW
        self._read = 0

    def begin(self, call: int, head: bytes, body: bytes, begun: float | None = None) -> None:
        """Begin a call, with a header block of `head_of` and a message. One for which the server allows no stream now is begun when
        another has ended; its time counts from here all the same."""
        self.in_flight += 1
        self._late.append((call, head, body, time.perf_counter() if begun is None else begun))
        self._begin_late()

    def _begin_late(self) -> None:
        while self._late and len(self._open) < self._streams:
            self._begin(*self._late.popleft())

    def _begin(self, call: int, head: bytes, body: bytes, begun: float) -> None:
        self._stream += 2
        stream, size = self._stream, len(body) + 5
        made = _Open(call, begun, self._first_window)
        self._open[stream] = made
        self._out += _frame(_HEADERS, _END_HEADERS, stream, head)
        message = b"\0" + len(body).to_bytes(4, "big") + body
        if size <= _LARGEST_FRAME and size <= self._window and size <= made.window and not self._held:
            self._window -= size
            self._out += _frame(_DATA, _END_STREAM, stream, message)
        else:
            made.rest = memoryview(message)
            self._held.append(stream)
            self._send_held()

    def send(self) -> bool:
        """Send what can be sent; whether something is left."""
        if self._out:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return True
            del self._out[:sent]
        return bool(self._out)

    def receive(self) -> list[Done]:
        """Read what is there, and return which calls have ended. Raises `ConnectionError` when the server hangs up."""
        try:
            count = self.socket.recv_into(memoryview(self._in)[self._filled :])
        except BlockingIOError:
            return []
        if not count:
            raise ConnectionError(f"the server hung up with {self.in_flight} calls in flight")
        self._filled += count
        return self._ended(time.perf_counter())

    def _ended(self, now: float) -> list[Done]:
        ended: list[Done] = []
        buffer, at, end = self._in, 0, self._filled
        while end - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(buffer, at)
            size = high << 8 | low
            if end - at - 9 < size:
                break
            if kind == _DATA:
                self._read += size
                if (going := self._open.get(stream)) is not None:
                    going.size += size
                    if self.tells_messages:
                        self.events.append((going.call, now))
            elif kind not in (_HEADERS, _RST_STREAM):
                self._take(kind, flags, stream, bytes(buffer[at + 9 : at + 9 + size]))
            if (kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RST_STREAM:
                over = self._open.pop(stream, None)
                if over is not None:
                    self.in_flight -= 1
                    ended.append(Done(over.call, now - over.begun, 0 if kind == _RST_STREAM else over.size))
            at += 9 + size
        self._begin_late()
        buffer[: end - at] = buffer[at:end]
        self._filled = end - at
        if self._read > _SAID_AT:
            self._out += _frame(_WINDOW_UPDATE, 0, 0, self._read.to_bytes(4, "big"))
            self._read = 0
        return ended

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == _MAX_STREAMS:
                    self._streams = value
                if name == _INITIAL_WINDOW:
                    for going in self._open.values():
                        going.window += value - self._first_window
                    self._first_window = value
            self._out += _frame(_SETTINGS, _ACK, 0)
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += more
            elif (call := self._open.get(stream)) is not None:
                call.window += more
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server says goodbye: {payload[8:200]!r}")
        if self._held:
            self._send_held()

    def _send_held(self) -> None:
        """Send what windows allow of messages that they have held up, each stream in its turn."""
        for _ in range(len(self._held)):
            stream = self._held.popleft()
            call = self._open.get(stream)
            if call is None or call.rest is None:
                continue
            while (size := min(_LARGEST_FRAME, self._window, call.window, len(call.rest))) > 0:
                part, call.rest = call.rest[:size], call.rest[size:]
                self._window -= size
                call.window -= size
                self._out += _frame(_DATA, 0 if len(call.rest) else _END_STREAM, stream, bytes(part))
            if len(call.rest):
                self._held.append(stream)
