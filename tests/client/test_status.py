"""What a client makes of a server that says that it has had enough."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from peerload.client.status import NotReached, to_error
from peerload.errors import LimitExceeded, Unavailable
from peerload.server.admission import Admission, Places
from peerload.server.limits import Limits
from peerload.server.room import Room
from peerload.server.status import to_rpc_error

MEBIBYTE = 1024 * 1024


def told(error: LimitExceeded) -> Exception:
    """What the error of a server is at its client."""
    sent = to_rpc_error(error)
    assert sent is not None
    return to_error(grpc.StatusCode.RESOURCE_EXHAUSTED, sent.message, "server:1", "/a/B")


async def full_room() -> None:
    room = Room(MEBIBYTE, setting="--limit-bytes-in-flight", max_waiting=0)
    with await room.take(MEBIBYTE, None):
        await room.take(MEBIBYTE, None)


def full_places() -> None:
    with Places(0, setting="--limit-calls", unit="calls in flight"):
        raise AssertionError("let in")


def test_a_server_that_others_fill_is_busy() -> None:
    with pytest.raises(LimitExceeded) as room:
        asyncio.run(full_room())
    with pytest.raises(LimitExceeded) as places:
        full_places()
    for error, setting in ((room.value, "--limit-bytes-in-flight"), (places.value, "--limit-calls")):
        busy = told(error)
        assert type(busy) is Unavailable
        assert setting in str(busy)


def test_what_is_too_large_for_ever_is_bad_input() -> None:
    admission = Admission(Limits(limit_message_bytes=MEBIBYTE), None)
    with pytest.raises(LimitExceeded) as error:
        admission.check_request(MEBIBYTE + 1)
    bad = told(error.value)
    assert isinstance(bad, LimitExceeded)
    assert bad.limit == MEBIBYTE
    assert "--limit-message-bytes" in str(bad)


def test_what_a_server_says_of_its_store_is_not_said_of_the_server() -> None:
    """gRPC says of a server that is away what servers say of their stores."""
    for said in ("nobody listens there (connection refused)", "Connection reset by peer", "a failed lookup"):
        answered = to_error(grpc.StatusCode.UNAVAILABLE, said, "server:1", "/a/B", "5f00aa")
        assert type(answered) is Unavailable
        assert str(answered) == f"the server at server:1 is not available: {said}"
        assert isinstance(to_error(grpc.StatusCode.UNAVAILABLE, said, "server:1", "/a/B"), NotReached)
