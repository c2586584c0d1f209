"""The one table from what the house raises to gRPC status codes; the client has its mirror."""

from __future__ import annotations

from typing import Final

from peerload import errors
from peerload.server.rpc import Code, RpcError

__all__ = ["CODES", "to_rpc_error"]

CODES: Final[tuple[tuple[type[errors.PeerloadError], Code], ...]] = (
    (errors.LimitExceeded, Code.RESOURCE_EXHAUSTED),
    (errors.InvalidArgument, Code.INVALID_ARGUMENT),
    (errors.NotFound, Code.NOT_FOUND),
    (errors.Unauthenticated, Code.UNAUTHENTICATED),
    (errors.NotAllowed, Code.PERMISSION_DENIED),
    (errors.DeadlineExceeded, Code.DEADLINE_EXCEEDED),
    (errors.Unavailable, Code.UNAVAILABLE),
    (errors.Conflict, Code.ABORTED),
    (errors.Compacted, Code.UNAVAILABLE),
    (errors.Damaged, Code.DATA_LOSS),
    (errors.VerificationFailed, Code.DATA_LOSS),
    (errors.MissingExtra, Code.FAILED_PRECONDITION),
)
"""The first class that fits counts, so a class stands before its bases."""


def to_rpc_error(error: errors.PeerloadError) -> RpcError | None:
    """The status that tells a caller of `error`; None for what a server should never raise (a defect)."""
    for kind, code in CODES:
        if isinstance(error, kind):
            return RpcError(code, str(error))
    return None
