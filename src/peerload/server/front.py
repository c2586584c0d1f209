"""The contract between the services and whatever speaks gRPC on the port.

A *front* owns the listening socket, HTTP/2, framing, deadlines and size limits. A service is a table from method path
to a handler that takes the request's bytes and a `Context`, and gives the answer's bytes, or a stream of them. Neither
knows the other, so fronts can be exchanged.

What every front keeps to:

- A handler ends a call by returning, or by raising `RpcError`; `peerload.server.calls` sees to it that a front is
  handed only such handlers.
- Cancellation (the client cancelled, its deadline passed, its connection broke) is cancellation of the task that runs
  the handler; an iterator that a handler returned is closed then.
- A stream's next message is asked for only when the transport has taken the one before it, so a client that does not
  read costs at most the front's own send buffer.
- A method that is not in the table is answered UNIMPLEMENTED.
- A call goes through `peerload.server.admission`, the `Gate` and the limits, before its handler runs, and where the
  transport allows it before its request is read. What is over a limit is answered RESOURCE_EXHAUSTED, with the name of
  the limit. How strictly each limit is kept is told where the front is.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias

from peerload.metadata.principals import Principal

if TYPE_CHECKING:
    from peerload.server.admission import Admission

__all__ = [
    "REQUEST_ID_KEY",
    "Bidi",
    "BidiMethod",
    "Code",
    "Context",
    "Front",
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


class Front(Protocol):
    """What speaks gRPC on one address."""

    @property
    def admission(self) -> Admission:
        """What lets its calls in."""
        ...

    async def start(self, listen: str) -> str:
        """Listen on `HOST:PORT` (port 0: any free one) and serve; the address that was bound.

        Raises `Unavailable`, naming the address, if it cannot be had.
        """
        ...

    async def leave(self, grace: float) -> None:
        """Where others serve on the same port: leave it to them, as far as that can be done without failing a call.

        Connections are not accepted any more, and clients asked to go on at another, for `grace` seconds at most; their
        calls are answered all the while. A front that cannot ask returns at once.
        """
        ...

    async def stop(self, grace: float) -> None:
        """Accept no more calls, let those in flight end for `grace` seconds, cancel the rest. Twice is allowed."""
        ...
