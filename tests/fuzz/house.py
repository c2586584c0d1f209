"""A whole server without a front: its table of methods, bytes to bytes, over a store in memory and a clock driven by hand.

One source, `CONTROL`, nobody speaks of: whatever else is said to the server, it must be found as it was published.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from functools import cache
from typing import Any, Final, Self, TypeVar
from unittest import mock

from peerload.metadata.principals import ANYONE, Principal
from peerload.server import app
from peerload.server.admission import Admission
from peerload.server.limits import Limits
from peerload.server.rpc import BidiMethod, Code, Context, Method, Methods, RpcError, StreamMethod, UnaryMethod
from peerload.server.settings import Settings
from peerload.store.memory import MemoryStore
from peerload.testing.clock import ManualClock
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id

__all__ = ["CONTROL", "REFUSALS", "House", "methods", "opened", "run"]

CONTROL: Final = "beyond-reproach-71"
"""The worker id of the source that must not come to harm. Input that has it is not judged."""
REFUSALS: Final = frozenset(
    (
        *(Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.PERMISSION_DENIED),
        *(Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED, Code.UNAUTHENTICATED),
    )
)
"""How a method may end that has no answer for what it was asked. Nothing here is out, so UNAVAILABLE is no such thing."""

_P2P: Final = "/model_express.p2p.P2pService"
_IDENTITY: Final = p2p_pb2.SourceIdentity(model_name="org/control", mx_version="0.7.0", dtype="bfloat16")
_PATIENCE_S: Final = 40
"""On the manual clock; callers wait for 30."""
_MOST_ANSWERS: Final = 4
"""Of a stream."""
_T = TypeVar("_T")


class _Unspoken:
    """A `Front` that keeps the table it is given."""

    def __init__(self, methods: Methods, *given: Any, **settings: Any) -> None:
        self.methods = methods
        self.admission = Admission(Limits(), None)

    async def start(self, listen: str) -> str:
        return listen

    async def stop(self, grace: float) -> None:
        pass


class _Call(Context):
    """Somebody, who waits for half a minute."""

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    @property
    def metadata(self) -> Mapping[str, tuple[str | bytes, ...]]:
        return {}

    @property
    def peer(self) -> str:
        return "ipv4:127.0.0.1:9"

    @property
    def deadline(self) -> float | None:
        return asyncio.get_running_loop().time() + 30.0

    @property
    def client_certificate(self) -> bytes | None:
        return None

    @property
    def principal(self) -> Principal:
        return self._principal

    @property
    def request_id(self) -> str:
        return "fuzz"

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        pass


class House:
    """A server that runs. Every method raises AssertionError for what must not be."""

    def __init__(self, server: app.Server, table: Mapping[str, Method], clock: ManualClock) -> None:
        self._server = server
        self.table = table
        self.clock = clock

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store: MemoryStore, clock: ManualClock) -> AsyncIterator[Self]:
        """A server on that store."""
        server = app.Server(_settings(), clock=clock, store=store)
        with mock.patch.dict(app._FRONTS, dict.fromkeys(app._FRONTS, _Unspoken)):
            await server.start()
        front: Any = server._front
        try:
            yield cls(server, front.methods, clock)
        finally:
            await server._let_go()  # `stop` waits for a transport, by real time

    async def call(self, path: str, body: bytes, principal: Principal = ANYONE) -> list[bytes] | RpcError:
        """What a method answers, the first few messages of a stream; or how it refuses, which must be one of `REFUSALS`."""
        try:
            return await self._asked(self.table[path], body, _Call(principal))
        except RpcError as error:
            refusal = error
        assert refusal.code in REFUSALS, f"{path}: {refusal}"
        return refusal

    async def publish_control(self) -> None:
        """Publish the one source."""
        worker = {"status": p2p_pb2.SOURCE_STATUS_READY, "nixl_metadata": b"agent"}
        request = p2p_pb2.PublishMetadataRequest(identity=_IDENTITY, worker=worker, worker_id=CONTROL)
        answer = p2p_pb2.PublishMetadataResponse.FromString(await self._certain("PublishMetadata", request))
        assert answer.success

    async def check(self) -> None:
        """The one source is there, its heartbeats are taken, and every task of the server's runs."""
        update = p2p_pb2.UpdateStatusRequest(
            mx_source_id=source_id(_IDENTITY), worker_id=CONTROL, status=p2p_pb2.SOURCE_STATUS_READY
        )
        answer = p2p_pb2.UpdateStatusResponse.FromString(await self._certain("UpdateStatus", update))
        assert answer.success, answer.message
        for asked in (
            p2p_pb2.ListSourcesRequest(identity=_IDENTITY, status_filter=p2p_pb2.SOURCE_STATUS_READY),
            p2p_pb2.ListSourcesRequest(),
        ):
            listed = p2p_pb2.ListSourcesResponse.FromString(await self._certain("ListSources", asked))
            assert CONTROL in [ref.worker_id for ref in listed.instances]
        wanted = p2p_pb2.GetMetadataRequest(mx_source_id=source_id(_IDENTITY), worker_id=CONTROL)
        found = p2p_pb2.GetMetadataResponse.FromString(await self._certain("GetMetadata", wanted))
        assert (found.found, found.identity, found.worker.nixl_metadata) == (True, _IDENTITY, b"agent")
        everything = await self.call("/peerload.v1.SourceService/List", b"")
        assert isinstance(everything, list), everything
        sources = sources_pb2.ListResponse.FromString(everything[0]).sources
        assert CONTROL in [source.worker_id for source in sources]
        assert self._server.backend.serving, self._server.backend.reason
        ended = [task.get_name() for task in self._server._tasks if task.done()]
        assert not ended, ended

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, in which the one source beats."""
        while seconds > 0:
            await self.clock.advance(min(seconds, 3.0))
            await self.check()
            seconds -= 3.0

    async def _certain(self, method: str, request: Any) -> bytes:
        answer = await self.call(f"{_P2P}/{method}", request.SerializeToString())
        assert isinstance(answer, list), f"{method} of a good source: {answer}"
        return answer[0]

    async def _asked(self, method: Method, body: bytes, call: _Call) -> list[bytes]:
        match method:
            case UnaryMethod(unary):
                return [await self._waited(unary(body, call))]
            case StreamMethod(stream):
                return await self._streamed(stream(body, call), endless=True)
            case BidiMethod(bidi):
                return await self._streamed(bidi(_each(body), call), endless=False)

    async def _streamed(self, answers: AsyncIterator[bytes], *, endless: bool) -> list[bytes]:
        found: list[bytes] = []
        try:
            while len(found) < _MOST_ANSWERS:
                following = asyncio.ensure_future(anext(answers))
                await self.clock.settle()
                if not following.done() and endless and found:
                    following.cancel()
                    await asyncio.wait([following])
                    break
                found.append(await self._waited(following))
        except StopAsyncIteration:
            pass
        finally:
            await answers.aclose()  # type: ignore[attr-defined]
        return found

    async def _waited(self, answer: Awaitable[_T]) -> _T:
        """The answer, however long that takes by the clock, within reason."""
        task = asyncio.ensure_future(answer)
        await self.clock.settle()
        for _ in range(_PATIENCE_S):
            if task.done():
                return task.result()
            await self.clock.advance(1.0)
        task.cancel()
        raise AssertionError("there is no answer, and no end of the call at its deadline")


@contextlib.asynccontextmanager
async def opened(store: MemoryStore) -> AsyncIterator[None]:
    """Keep what a store holds while servers come and go."""
    await store.open()
    try:
        yield
    finally:
        await store.close()


def run(act: Awaitable[None]) -> None:
    """Run to the end, on an event loop that lives as long as this process."""
    _loop().run_until_complete(act)


@cache
def methods() -> tuple[str, ...]:
    """The paths of all methods of a server."""

    async def look() -> tuple[str, ...]:
        clock = ManualClock()
        async with House.open(MemoryStore(clock), clock) as house:
            return tuple(house.table)

    return _loop().run_until_complete(look())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _settings() -> Settings:
    # A source's whole life passes in seconds. No probes: addresses that are made up are not to be connected to.
    ages = {"heartbeat_timeout": 4.0, "reaper_interval": 1.0, "gc_timeout": 6.0}
    return Settings(store="memory:", listen="127.0.0.1:0", metrics="off", probe=False, grace=0, drain_delay=0, **ages)


async def _each(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
