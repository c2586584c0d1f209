"""What an operation costs, in things that can be counted and are the same on every machine.

Rounds to the store, Python calls, messages parsed and encoded, blobs packed, bytes of memory: never time. A server in this process is
asked through the ASGI application that the fast front is made of, without a transport.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest

from peerload.clock import SystemClock
from peerload.metadata.directory.liveness import SERVER_PREFIX
from peerload.server import admission, app
from peerload.server.admission import Admission
from peerload.server.fronts.asgi.app import Application
from peerload.server.fronts.asgi.framing import PREFIX_BYTES, prefix
from peerload.server.limits import Limits
from peerload.server.rpc import Gate, Methods
from peerload.server.turns import Turns
from peerload.store.base import ANY, KEEP, Beat, Entry, Expect, Keep, Touch, Touched, Value, Written
from peerload.store.memory import MemoryStore
from tests.support.server import serving

__all__ = ["Asked", "CountingStore", "Spent", "asked_directly", "counted", "finished", "peak_bytes"]

T = TypeVar("T")
PARSES = frozenset({"FromString", "ParseFromString", "MergeFromString"})
ENCODES = frozenset({"SerializeToString", "SerializePartialToString"})
OURS = str(Path(app.__file__).parent.parent)
P2P = "/model_express.p2p.P2pService/"


class CountingStore(MemoryStore):
    """A store that counts what it is asked: each is a round to a store on another machine."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.rounds: Counter[str] = Counter()
        self.touched: list[int] = []

    async def put(
        self,
        key: str,
        value: Value,
        *,
        blob: bytes | Keep = KEEP,
        expect: Expect = ANY,
        beat: Beat | None = None,
    ) -> Written:
        self.rounds["put"] += not key.startswith(SERVER_PREFIX)
        return await super().put(key, value, blob=blob, expect=expect, beat=beat)

    async def touch(self, touches: list[Touch]) -> list[Touched]:  # type: ignore[override]
        # Its own sign of life a server gives when it is due.
        if len(touches) > 1:
            self.rounds["touch"] += 1
            self.touched.append(len(touches))
        return await super().touch(touches)

    async def get(self, key: str) -> Entry | None:
        self.rounds["get"] += 1
        return await super().get(key)

    async def blob(self, key: str, generation: int) -> bytes:
        self.rounds["blob"] += 1
        return await super().blob(key, generation)

    def taken(self) -> dict[str, int]:
        """What was asked since the last time; signs of life apart."""
        rounds, self.rounds, self.touched = +self.rounds, Counter(), []
        return dict(rounds)


@dataclass
class Spent:
    """What a block did."""

    calls: int = 0
    """Functions of ours entered, and coroutines resumed: what asyncio does depends on what its timers are at."""
    parsed: Counter[str] = field(default_factory=Counter)
    """Protobuf messages, by name."""
    encoded: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def counted() -> Iterator[Spent]:
    """Count what this thread does, and threads that it starts."""
    spent = Spent()

    def note(frame: FrameType, event: str, what: Any) -> None:
        if event == "call":
            spent.calls += frame.f_code.co_filename.startswith(OURS)
        elif event == "c_call" and what.__name__ in PARSES | ENCODES:
            owner = what.__self__ if isinstance(what.__self__, type) else type(what.__self__)
            (spent.parsed if what.__name__ in PARSES else spent.encoded)[owner.DESCRIPTOR.name] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield spent
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@contextlib.contextmanager
def peak_bytes() -> Iterator[list[int]]:
    """How much more memory than before there was at most, in a list of one, once the block has ended."""
    told = [0]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield told
        told[0] = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What it returns. It must not wait for anything, not even for a turn of the event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waited")


class Asked:
    """A server's methods, called as by the fast front."""

    def __init__(self, methods: Methods) -> None:
        self.admission = Admission(Limits(), None)
        # On a clock that stands still: nobody waits for a turn because the machine is slow.
        self.admission._turns = Turns(lambda: 0.0)
        self._application = Application(methods, self.admission)

    async def call(self, method: str, request: bytes) -> bytes:
        """The answer. Raises AssertionError for any status but OK."""
        answer: list[bytes] = []
        status = await self._ask(P2P + method, request, answer.append)
        assert status == b"0"
        return b"".join(answer)[PREFIX_BYTES:]

    async def watch(self, request: bytes, hear: Callable[[bytes], None]) -> None:
        """Be told what changes, framed, until cancelled."""
        await self._ask("/peerload.v1.SourceService/Watch", request, hear)

    async def _ask(self, path: str, request: bytes, hear: Callable[[bytes], None]) -> bytes:
        body: bytes | None = prefix(len(request)) + request
        status = b""

        async def receive() -> dict[str, Any]:
            nonlocal body
            sent, body = body, None
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(event: Any) -> None:
            nonlocal status
            if event["type"] == "http.response.body":
                hear(event["body"])
            elif event["type"] == "http.response.trailers":
                status = dict(event["headers"])[b"grpc-status"]

        scope = {
            "type": "http",
            "method": "POST",
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": ((b"content-type", b"application/grpc"), (b"te", b"trailers")),
            "extensions": {"http.response.trailers": {}},
            "client": ("127.0.0.1", 1),
        }
        await self._application(scope, receive, send)
        return status


@contextlib.asynccontextmanager
async def asked_directly(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    """A server over that store, whose front is no more than a table."""
    made: list[Asked] = []

    class Table:
        def __init__(self, methods: Methods, *, gate: Gate | None, **more: Any) -> None:
            self.admission = Admission(Limits(), gate)
            made.append(Asked(methods))
            self.admission = made[-1].admission

        async def start(self, listen: str) -> str:
            return "127.0.0.1:1"

        async def leave(self, grace: float) -> None: ...

        async def stop(self, grace: float) -> None: ...

    monkeypatch.setitem(app._FRONTS, "grpc", Table)
    # However slow the machine is, nobody has to wait for a turn.
    monkeypatch.setattr(admission, "Turns", partial(Turns, lambda: 0.0))
    async with serving(store=store, front="grpc", log_level="critical"):
        yield made[0]
