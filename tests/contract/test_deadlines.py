"""Every call that needs the store ends as unavailable before its caller's deadline, from the very start of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.message import Message

from peerload.errors import Unavailable
from peerload.metadata.principals import ANYONE, Principal
from peerload.server.diagnosis.misses import Misses
from peerload.server.metrics import Metrics
from peerload.server.rpc import StreamMethod, UnaryMethod
from peerload.server.services.p2p import P2pService
from peerload.server.services.parsing import Parser
from peerload.server.services.sources import SourceService
from peerload.store.memory import MemoryStore
from peerload.testing import FaultyStore, ManualClock
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import p2p_pb2, sources_pb2
from tests.metadata.publications import SOURCE, identity, worker

RECORD = p2p_pb2.PublishMetadataRequest(identity=identity(), worker=worker(), worker_id="w1")
CALLS: dict[str, Message] = {
    "/model_express.p2p.P2pService/PublishMetadata": RECORD,
    "/model_express.p2p.P2pService/ListSources": p2p_pb2.ListSourcesRequest(status_filter=p2p_pb2.SOURCE_STATUS_READY),
    "/model_express.p2p.P2pService/GetMetadata": p2p_pb2.GetMetadataRequest(mx_source_id=SOURCE, worker_id="w1"),
    "/model_express.p2p.P2pService/UpdateStatus": p2p_pb2.UpdateStatusRequest(
        mx_source_id=SOURCE, worker_id="w1", status=p2p_pb2.SOURCE_STATUS_READY
    ),
    "/peerload.v1.SourceService/Publish": sources_pb2.PublishRequest(record=RECORD, manifest={}),
    "/peerload.v1.SourceService/Withdraw": sources_pb2.WithdrawRequest(source_id=SOURCE, worker_id="w1"),
    "/peerload.v1.SourceService/GetManifest": sources_pb2.GetManifestRequest(source_id=SOURCE, worker_id="w1"),
    "/peerload.v1.SourceService/List": sources_pb2.ListRequest(),
    "/peerload.v1.SourceService/Watch": sources_pb2.WatchRequest(),
}


@dataclass
class _Call:
    """A call with a deadline, in the event loop's seconds."""

    deadline: float | None = None
    metadata: Mapping[str, tuple[str | bytes, ...]] = field(default_factory=dict)
    peer: str = "test"
    client_certificate: bytes | None = None
    principal: Principal = ANYONE

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        raise AssertionError("nothing to send")


@pytest.fixture
async def hung() -> AsyncIterator[FakeMetadataBackend]:
    """A server whose store has hung from the beginning."""
    clock = ManualClock()
    store = FaultyStore(MemoryStore(clock))
    store.hang()
    async with FakeMetadataBackend(store=store, clock=clock) as backend:
        yield backend
        store.heal()


def handlers(backend: FakeMetadataBackend, parser: Parser) -> dict[str, Any]:
    misses = Misses(backend, backend.clock, Metrics())
    services = (
        P2pService(backend, backend.clock, parser, misses),
        SourceService(backend, backend.clock, parser, misses),
    )
    return {path: method for service in services for path, method in service.methods().items()}


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("seconds", [5.0, None])
async def test_a_call_ends_in_time(hung: FakeMetadataBackend, path: str, seconds: float | None) -> None:
    parser = Parser()
    method = handlers(hung, parser)[path]
    request = CALLS[path].SerializeToString()
    loop = asyncio.get_running_loop()
    # Read when the call begins, in the next turn of the loop: real seconds count for nothing beside the clock's.
    call = _Call(None if seconds is None else loop.time() + seconds)
    answer: Any
    if isinstance(method, UnaryMethod):
        answer = method.handler(request, call)
    else:
        assert isinstance(method, StreamMethod)
        answer = anext(aiter(method.handler(request, call)))
    task = asyncio.ensure_future(answer)
    # Without a deadline it ends too.
    await hung.clock.advance(5.0 if seconds is not None else 91.0)
    assert task.done()
    with pytest.raises(Unavailable):
        task.result()
    parser.close()


def test_no_call_is_left_out() -> None:
    backend = FakeMetadataBackend()
    parser = Parser()
    assert handlers(backend, parser).keys() == CALLS.keys()
    parser.close()
