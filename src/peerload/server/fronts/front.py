"""The contract between the services and whatever speaks gRPC on the port.

A *front* owns the listening socket, HTTP/2, framing, deadlines and size limits, and serves a table of methods
(`peerload.server.rpc`). Neither it nor a service knows the other, so fronts can be exchanged.

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

from typing import Protocol

from peerload.server.admission import Admission

__all__ = ["Front"]


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
