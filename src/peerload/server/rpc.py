"""A call, whatever carries it: how it ends, what its handler sees of it, and the kinds of methods that there are.

A service is a table from method path to a handler that takes the request's bytes and a `Context`, and gives the answer's
bytes, or a stream of them.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeAlias

from peerload.metadata.principals import Principal

__all__ = [
    "REQUEST_ID_KEY",
    "Bidi",
    "BidiMethod",
    "Code",
    "Context",
    "Gate",
    "Method",
    "Methods",
    "RpcError",
    "Stream",
    "StreamMethod",
    "Unary",
    "UnaryMethod",
]

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata of a call, and trailing metadata of an error: what the call is known by."""

_MAX_ESCAPED_MESSAGE: Final = 4_000
"""Messages travel percent-encoded in a header, and transports bound all headers together (8 KiB is common)."""


class Code(enum.IntEnum):
    """gRPC's status codes (https://grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Ends a call with a status. `message` is for the caller's eyes, one sentence, cut to what a header can carry;
    `details` an encoded google.rpc.Status, if any."""

    def __init__(self, code: Code, message: str, details: bytes | None = None) -> None:
        message = _fitting(message)
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.details = details

    def bare(self) -> Self:
        """The same, without what led to it and the frames that all of that went through: they know what the call held, its
        request above all, and may be kept until the garbage collector comes."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


def _fitting(message: str) -> str:
    # A lone surrogate (possible in text that came from a file name) has no UTF-8 form and would fail in transport.
    clean = message[:_MAX_ESCAPED_MESSAGE].encode(errors="replace").decode()
    size = 0
    for index, character in enumerate(clean):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > _MAX_ESCAPED_MESSAGE:
            return clean[:index] + "…"
    return clean if len(message) <= _MAX_ESCAPED_MESSAGE else clean + "…"


class Context(Protocol):
    """One call, as its handler sees it."""

    @property
    def metadata(self) -> Mapping[str, tuple[str | bytes, ...]]:
        """Request metadata by lower-case key; bytes for keys that end in `-bin`."""
        ...

    @property
    def peer(self) -> str:
        """Where the call comes from, for logs."""
        ...

    @property
    def deadline(self) -> float | None:
        """When the caller gives up, in seconds of the event loop's monotonic clock; None: never."""
        ...

    @property
    def client_certificate(self) -> bytes | None:
        """The client's certificate (PEM) where the connection is mutual TLS."""
        ...

    @property
    def principal(self) -> Principal:
        """Who calls, as the gate found; `ANYONE` where there is no gate."""
        ...

    @property
    def request_id(self) -> str:
        """What the call is known by in logs, and in the trailing metadata of an error: see `peerload.server.requests`."""
        ...

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        """Send these after the answer, in place of any set before."""
        ...


class Gate(Protocol):
    """Who may call what: a front asks it about each call of a method that is in its table."""

    async def admit(self, path: str, context: Context) -> Principal:
        """Who calls, from the call's metadata and certificate. Raises `RpcError` to refuse the call."""
        ...


Unary: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
"""One request, one answer."""

Stream: TypeAlias = Callable[[bytes, Context], AsyncIterator[bytes]]
"""One request, a stream of answers."""

Bidi: TypeAlias = Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]
"""A stream of requests, a stream of answers."""


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """A method with one request and one answer."""

    handler: Unary
    large: bool = False
    """Whether it is there to be sent much, as publications are. A front that cannot see how large a request is before it
    has read all of it finds room for the largest first."""


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """A method with one request and a stream of answers."""

    handler: Stream


@dataclass(frozen=True, slots=True)
class BidiMethod:
    """A method with streams both ways."""

    handler: Bidi


Method: TypeAlias = UnaryMethod | StreamMethod | BidiMethod

Methods: TypeAlias = Mapping[str, Method]
"""By path: `/package.Service/Method`."""
