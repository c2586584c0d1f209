"""HTTP/2 by hand, for what no well-behaved client does: frames as they are wanted, when they are wanted."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
NO_ERROR, CANCEL = 0, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WITHOUT_WINDOW = (0x4).to_bytes(2, "big") + bytes(4)
"""A SETTINGS payload: send me nothing until I say so."""


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    def encode(self) -> bytes:
        return frame(*self)


def block(path: str, *more: tuple[str, str]) -> bytes:
    """The header block of a gRPC call. Nothing is compressed and nothing indexed (RFC 7541, 6.2.2).

    A byte of the path that is no UTF-8 is written as surrogate: "\\udcfd" for 0xFD.
    """
    fields = (
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")),
        *(("content-type", "application/grpc"), ("te", "trailers")),
        *more,
    )
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(word),)) + word
        for name, value in fields
        for word in (value.encode(errors="surrogateescape"),)
    )


def call_headers(path: str, stream: int, *more: tuple[str, str], flags: int = 0) -> bytes:
    """The HEADERS of a gRPC call."""
    return frame(HEADERS, END_HEADERS | flags, stream, block(path, *more))


def message(body: bytes, *, compressed: bool = False, size: int | None = None) -> bytes:
    """A gRPC message in its envelope, which may lie about its size."""
    return bytes((compressed,)) + (len(body) if size is None else size).to_bytes(4, "big") + body


def prefix(size: int) -> bytes:
    """What precedes a gRPC message of that size."""
    return size.to_bytes(5, "big")


class RawConnection:
    """A connection that has sent its preface and settings, and answers nothing by itself."""

    def __init__(self, port: int, *, settings: bytes = b"", timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.sendall(PREFACE + Frame(SETTINGS, 0, 0, settings).encode())
        self._buffer = b""

    def send(self, *parts: bytes | Frame) -> None:
        self.socket.sendall(b"".join(part if isinstance(part, bytes) else part.encode() for part in parts))

    def call(self, path: str, message: bytes, stream: int = 1) -> None:
        """A whole call with one message."""
        self.send(call_headers(path, stream), Frame(DATA, END_STREAM, stream, prefix(len(message)) + message))

    def frames(self) -> Iterator[Frame]:
        """What the server sends, until it closes the connection. Raises TimeoutError where it stays silent."""
        with contextlib.suppress(ConnectionError):
            while True:
                while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3], "big"):
                    part = self.socket.recv(65_536)
                    if not part:
                        return
                    self._buffer += part
                size = int.from_bytes(self._buffer[:3], "big")
                head, payload = self._buffer[:9], self._buffer[9 : 9 + size]
                self._buffer = self._buffer[9 + size :]
                yield Frame(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload)

    def until(self, kind: int, *, flags: int = 0) -> Frame:
        """The next frame of that kind with those flags; what comes before it is passed over."""
        for frame in self.frames():
            if frame.kind == kind and frame.flags & flags == flags:
                return frame
        raise AssertionError("the server closed the connection")

    def ended(self, stream: int = 1) -> bool:
        """Whether the server ends this stream, in whichever way, before it closes the connection."""
        return any(
            frame.stream == stream and (frame.kind == RST_STREAM or frame.flags & END_STREAM)
            for frame in self.frames()
            if frame.kind in (DATA, HEADERS, RST_STREAM)
        )

    def closed(self) -> bool:
        """True once the server has closed the connection. Raises TimeoutError where it does not."""
        for _ in self.frames():
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
