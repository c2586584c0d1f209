"""What tests of whole servers ask, and how a server says no."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import grpc
import pytest

from peerload.wire import p2p_pb2
from tests.support.live import Rpc, code_of, ready

__all__ = ["answered", "heartbeat", "listed", "refusal"]


def heartbeat(source_id: str, worker_id: str = "w0") -> p2p_pb2.UpdateStatusRequest:
    return p2p_pb2.UpdateStatusRequest(mx_source_id=source_id, worker_id=worker_id, status=p2p_pb2.SOURCE_STATUS_READY)


def listed(rpc: Rpc, **more: float) -> set[str]:
    return {ref.worker_id for ref in rpc.list(ready(), **more).instances}


def refusal(call: Callable[[], object]) -> str:
    """The words with which a call is answered UNAVAILABLE."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert code_of(error.value) is grpc.StatusCode.UNAVAILABLE, error.value
    return str(error.value.details())


def answered(call: Callable[[], object]) -> bool:
    """Whether a call ends well."""
    with contextlib.suppress(grpc.RpcError):
        call()
        return True
    return False
