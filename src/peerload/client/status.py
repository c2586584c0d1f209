"""From gRPC status codes to the exceptions of `peerload.errors`: the mirror of the server's table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import grpc

from peerload import errors

__all__ = ["NotReached", "Stopping", "to_error"]

_FIELD: Final = re.compile(r"([A-Za-z_][\w.\[\]-]{0,199}): (.+)", re.DOTALL)
_NUMBER: Final = re.compile(r"\d+")
_NOT_REACHED: Final = (
    "failed to connect",
    "connection refused",
    "lookup",
    "socket closed",
    "connection reset",
    "stream removed",
)
"""What gRPC itself says of a server that could not be reached, or was lost. A server may use the same words of its store:
then its answer has a request id."""


_STOPPING: Final = "the server is stopping"
"""What a server says that has been told to stop, to whoever calls it still."""


_BUSY: Final = "; try again"
"""How a server ends what it says of a limit that others have used up; what is itself too large stays so."""


class NotReached(errors.Unavailable):
    """There was no connection, or it was lost. `refused`: nobody listens there, and more need not be found out."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Stopping(errors.Unavailable):
    """The server is being stopped; another one, or its successor, may answer."""


def _split(message: str) -> tuple[str, str]:
    """The field that a message of `InvalidArgument` begins with, and the rest."""
    found = _FIELD.fullmatch(message)
    return (found[1], found[2]) if found else ("request", message)


def _invalid(message: str) -> errors.PeerloadError:
    return errors.InvalidArgument(*_split(message))


def _limit(message: str) -> errors.PeerloadError:
    if message.endswith(_BUSY):
        return errors.Unavailable(message)
    numbers = [int(number) for number in _NUMBER.findall(message)]
    # The limit is not sent apart from the text, which names it last.
    return errors.LimitExceeded(*_split(message), limit=numbers[-1] if numbers else 0)


_ERRORS: Final[dict[grpc.StatusCode, Callable[[str], errors.PeerloadError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.OUT_OF_RANGE: _invalid,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _limit,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.FAILED_PRECONDITION: errors.NotAllowed,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.ABORTED: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: errors.VerificationFailed,
}


def _last_cause(message: str) -> str:
    """Of gRPC's account of a failed connection, the end: what went wrong at last."""
    # Of failed handshakes it says how the check of certificates ended: OK, mostly.
    return message.rpartition("last error:")[2].removesuffix(": OK").rpartition(": ")[2].strip(" ]}").lower()


def to_error(
    code: grpc.StatusCode, message: str, address: str, method: str, request_id: str = ""
) -> errors.PeerloadError:
    """The exception that tells of a call's status. `address` and `method` are named where the text alone would not
    say who did not answer what; `request_id`, by which the server's log knows the call, where only that tells more. Without one
    it was no server of ours that answered."""
    make = _ERRORS.get(code)
    if make is None:
        text = f"the server at {address} answered {code.name} to {method}: {message}"
        if request_id:
            text += f" (request_id {request_id})"
        if code is grpc.StatusCode.UNIMPLEMENTED:
            text = f"what answers at {address} does not know {method}: is it a Peerload server?"
        return errors.PeerloadError(text)
    if make is errors.DeadlineExceeded:
        return make(f"the server at {address} did not answer {method.rpartition('/')[2]} in time")
    if make is errors.Unavailable:
        if not message or (not request_id and any(sign in message.lower() for sign in _NOT_REACHED)):
            cause = _last_cause(message) or "the connection broke"
            return NotReached(f"no server answers at {address}: {cause}", refused=cause == "connection refused")
        if message == _STOPPING:
            return Stopping(f"the server at {address} is stopping")
        return make(f"the server at {address} is not available: {message}")
    return make(message or code.name)
