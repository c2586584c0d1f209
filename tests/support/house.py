"""A whole server in this process, on a clock driven by hand, spoken to through gRPC on a loopback port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from peerload.errors import Unavailable
from peerload.server.app import Server
from peerload.server.settings import Settings
from peerload.store import base
from peerload.testing import ManualClock
from peerload.wire import p2p_pb2, sources_pb2

STEP = 1.0
"""Time moves in steps of this many seconds, and what a step set going ends before the next one."""
_REAL_PATIENCE = 20.0
_REAL_ANSWER = 0.25
"""Seconds of real time in which a call that waits for nothing is answered, mostly."""
_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)


class CountedStore:
    """A store that knows whether anybody is waiting for it; otherwise it is the store it wraps."""

    def __init__(self, store: base.Store) -> None:
        self._store = store
        self.busy = 0
        self.watches: dict[object, int] = {}
        """How often each watch in progress has yielded."""

    async def _counted(self, call: Awaitable[_T]) -> _T:
        self.busy += 1
        try:
            return await call
        finally:
            self.busy -= 1

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def pace(self) -> float:
        return self._store.pace

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    def now(self) -> int:
        return self._store.now()

    @property
    def doubt_ms(self) -> float:
        return self._store.doubt_ms

    async def put(
        self,
        key: str,
        value: base.Value,
        *,
        blob: bytes | base.Keep = base.KEEP,
        expect: base.Expect = base.ANY,
        beat: base.Beat | None = None,
    ) -> base.Written:
        return await self._counted(self._store.put(key, value, blob=blob, expect=expect, beat=beat))

    async def touch(self, touches: Sequence[base.Touch]) -> list[base.Touched]:
        return await self._counted(self._store.touch(touches))

    async def get(self, key: str) -> base.Entry | None:
        return await self._counted(self._store.get(key))

    async def blob(self, key: str, generation: int) -> bytes:
        return await self._counted(self._store.blob(key, generation))

    async def delete(
        self,
        key: str,
        *,
        expect: int | Literal[base.Any.ANY] = base.ANY,
        unless_beaten_since: int | None = None,
    ) -> int:
        return await self._counted(self._store.delete(key, expect=expect, unless_beaten_since=unless_beaten_since))

    async def list(self, prefix: str = "") -> base.Listing:
        return await self._counted(self._store.list(prefix))

    async def watch(self, position: base.Position, prefix: str = "") -> AsyncGenerator[base.Feed, None]:
        token = object()
        self.watches[token] = 0
        feed = self._store.watch(position, prefix)
        try:
            async for batch in feed:
                self.watches[token] += 1
                yield batch
        finally:
            del self.watches[token]
            close = getattr(feed, "aclose", None)
            if close is not None:
                await close()


class House:
    """A server that can be stopped, killed and started again on the same store while time goes on."""

    def __init__(self, clock: ManualClock, make_store: Callable[[], base.Store], **settings: Any) -> None:
        self.clock = clock
        self._make_store = make_store
        self._settings = Settings(
            listen="127.0.0.1:0", store="memory:", grace=5.0, drain_delay=0.0, metrics="off", **settings
        )
        self._server: Server | None = None
        self._store: CountedStore | None = None
        self._channel: grpc.aio.Channel | None = None

    @property
    def up(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        """Start, and wait until the server says that it serves."""
        self._store = CountedStore(self._make_store())
        self._server = Server(self._settings, clock=self.clock, store=self._store)
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(
            self._server.address,
            options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )
        for _ in range(60):
            if self._server.readiness.serving:
                return
            await self.advance(0.25)
        raise AssertionError(f"the server does not serve: {self._server.readiness.reason}")

    async def stop(self) -> None:
        """Drain and end. Time does not pass."""
        server, self._server = self._server, None
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        if server is not None:
            await server.stop()

    async def kill(self) -> None:
        """End without a last word: what was not in the store by now never gets there."""
        assert self._store is not None
        store = self._store

        async def refused(*_: Any, **__: Any) -> Any:
            raise Unavailable("the server is dead")

        for verb in ("put", "touch", "delete"):
            setattr(store, verb, refused)
        await self.stop()

    async def advance(self, seconds: float) -> None:
        """Move time, in steps; after each one everything that it set going has come to rest."""
        while seconds > 1e-9:
            step = min(STEP, seconds)
            seconds -= step
            store = self._store if self.up else None
            before = dict(store.watches) if store else {}
            await self.clock.advance(step)
            # The store's ticks come every 0.8 s, so a whole step makes every watch yield.
            await self._rest(store, before if step == STEP else {})

    async def _rest(self, store: CountedStore | None, before: dict[object, int]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _REAL_PATIENCE
        calm = 0
        while calm < 2:
            await self.clock.settle()
            moved = store is None or all(
                store.watches[watch] > count for watch, count in before.items() if watch in store.watches
            )
            calm = calm + 1 if moved and (store is None or not store.busy) else 0
            if not calm:
                assert loop.time() < deadline, "the server does not come to rest"
                await asyncio.sleep(0.001)

    async def rest(self) -> None:
        """Let everything end that goes on without time moving."""
        await self._rest(self._store if self.up else None, {})

    async def call(self, path: str, request: Message | bytes, answer: type[_M], *, timeout: float = 60.0) -> _M:
        """One unary call. The deadline is real; time by our clock passes only while the call does not end without it."""
        assert self._channel is not None
        data = request if isinstance(request, bytes) else request.SerializeToString()
        pending = asyncio.ensure_future(self._channel.unary_unary(path)(data, timeout=timeout))
        # Most calls need only real time; one that waits for our clock is given some, little by little.
        done, _ = await asyncio.wait({pending}, timeout=_REAL_ANSWER)
        while not done:
            await self.advance(STEP)
            done, _ = await asyncio.wait({pending}, timeout=0.01)
        return answer.FromString(pending.result())

    async def publish(self, request: p2p_pb2.PublishMetadataRequest) -> p2p_pb2.PublishMetadataResponse:
        path = "/model_express.p2p.P2pService/PublishMetadata"
        return await self.call(path, request, p2p_pb2.PublishMetadataResponse)

    async def list(self, request: p2p_pb2.ListSourcesRequest) -> p2p_pb2.ListSourcesResponse:
        return await self.call("/model_express.p2p.P2pService/ListSources", request, p2p_pb2.ListSourcesResponse)

    async def get(self, source_id: str, worker_id: str) -> p2p_pb2.GetMetadataResponse:
        request = p2p_pb2.GetMetadataRequest(mx_source_id=source_id, worker_id=worker_id)
        return await self.call("/model_express.p2p.P2pService/GetMetadata", request, p2p_pb2.GetMetadataResponse)

    async def update(
        self,
        source_id: str,
        worker_id: str,
        status: p2p_pb2.SourceStatus = p2p_pb2.SOURCE_STATUS_READY,
        *,
        rank: int = 0,
        load: float | None = None,
    ) -> bool:
        request = p2p_pb2.UpdateStatusRequest(
            mx_source_id=source_id, worker_id=worker_id, worker_rank=rank, status=status, source_load=load
        )
        path = "/model_express.p2p.P2pService/UpdateStatus"
        return (await self.call(path, request, p2p_pb2.UpdateStatusResponse)).success

    async def withdraw(self, source_id: str, worker_id: str, rank: int | None = None) -> bool:
        request = sources_pb2.WithdrawRequest(source_id=source_id, worker_id=worker_id, worker_rank=rank)
        path = "/peerload.v1.SourceService/Withdraw"
        return (await self.call(path, request, sources_pb2.WithdrawResponse)).withdrawn

    async def sources(self) -> sources_pb2.ListResponse:
        return await self.call("/peerload.v1.SourceService/List", b"", sources_pb2.ListResponse)

    def watch(self, resume_token: str = "") -> AsyncIterator[bytes]:
        """The encoded answers of a watch of everything."""
        assert self._channel is not None
        request = sources_pb2.WatchRequest(resume_token=resume_token)
        stream: AsyncIterator[bytes] = self._channel.unary_stream("/peerload.v1.SourceService/Watch")(
            request.SerializeToString()
        )
        return stream


@asynccontextmanager
async def house(clock: ManualClock, make_store: Callable[[], base.Store], **settings: Any) -> AsyncIterator[House]:
    """A house whose server is up at the beginning and down at the end."""
    made = House(clock, make_store, **settings)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
