"""A server among clients that behave and clients that do not, and what must hold.

- Those who behave are told no error.
- The server's memory stays below a bound.
- Afterwards everything that was published is listed, alive, and can be fetched, and connections and threads are what they were.

How long those who behave wait is measured too, by turns without the others and with them. That is judged only in a run that
lasts: on a machine that does other things besides, a minute's times say nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import psutil

from peerload import AsyncClient, ClientSettings
from peerload.wire import p2p_pb2
from tests.security.entries import TOKENS, write_access
from tests.support.live import LiveServer, Rpc, eventually, publication, ready, sqlite_url
from tests.support.stock import import_stock

MIB: Final = 1 << 20
MEMORY: Final = 400 * MIB
"""What the server may hold at any moment, by the limits that it is given here."""
LIMITS: Final = {"PEERLOAD_LIMIT_MESSAGE_BYTES": str(8 * MIB), "PEERLOAD_LIMIT_BYTES_IN_FLIGHT": str(160 * MIB)}
"""On the front grpc a publication takes the room of the largest there may be. There is room for more of them than those who
misbehave begin and never end: whoever is let in and begins more does hold up the others (docs/security.md)."""
WORKERS: Final = 100
_MODEL: Final = "org/soak"
_TOPOLOGY: Final = {"rack": "r" * 1000, "host": "h" * 1000}
_HEARTBEAT: Final = 60.0
_PACE: Final = 0.02
_TURN: Final = 300.0
"""Seconds of a turn, of which the first fifth is quiet: what else the machine does is then the same for both."""
_CALM: Final = 5.0
"""Seconds after a turn until what the others left has been cleared away."""
_ROOM: Final = 20
"""Connections and threads that a server may have more afterwards than before."""


@dataclass
class Soak:
    """One run of `seconds`, of which a fifth is quiet. `folder` takes the store."""

    seconds: float
    seed: int
    folder: Path
    front: str = ""
    kinds: tuple[str, ...] = ()
    """What is done to the server, by the names of `abuse.Abuse`; nothing: everything."""
    waits: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """Of each phase (quiet, abused) and call: the seconds that it took, each time."""
    abuses: Counter[str] = field(default_factory=Counter)
    """How often what was done to the server."""
    peak: int = 0
    """The most bytes of memory that the server held."""
    wrong: list[str] = field(default_factory=list)
    """What must not happen, and did."""
    log: str = field(default="", repr=False)
    """What the server wrote."""
    _phase: str = "quiet"
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until the time is up; every process has ended then."""
        access = write_access(self.folder / "access.toml")
        self._token = self.folder / "token"
        self._token.write_text(TOKENS["admin"])
        environment = {
            **LIMITS,
            "PEERLOAD_ACCESS": str(access),
            "MX_HEARTBEAT_TIMEOUT_SECS": str(int(_HEARTBEAT)),
            **({"PEERLOAD_FRONT": self.front} if self.front else {}),
        }
        with LiveServer(sqlite_url(self.folder), environment=environment) as server:
            server.start()
            process = psutil.Process(server.pid)
            self._server = server
            self._publish_all()
            with self._behaving():
                before: tuple[int, int] | None = None
                turns = max(1, round(self.seconds / _TURN))
                for turn in range(turns):
                    self._phase = "quiet"
                    self._pass(self.seconds / turns / 5)
                    before = before or (process.num_fds(), process.num_threads())
                    with self._misbehaving(self.seed + turn):
                        self._phase = "abused"
                        self._pass(self.seconds / turns * 4 / 5)
                    self._phase = "after"
                    if turn + 1 < turns:
                        self._pass(_CALM)
                assert before is not None
                self._judge_after(process, *before)
            if server.running:
                self._judge_sources()
            else:
                self.wrong.append("the server ended")
            if server.running and (status := server.stop()):
                self.wrong.append(f"the server left with {status}")
            if "failed unexpectedly" in server.log():
                self.wrong.append("a call failed unexpectedly")
            self.log = server.log()

    def slower(self) -> dict[str, tuple[float, float]]:
        """Of each call the 99th percentile of its times, in seconds: quiet, and abused."""
        quiet, abused = self.waits["quiet"], self.waits["abused"]
        return {call: (_p99(quiet[call]), _p99(abused[call])) for call in sorted(quiet) if abused[call]}

    # Those who behave.

    @contextmanager
    def _behaving(self) -> Iterator[None]:
        acts = (self._beat, self._ask, self._stock, self._ours)
        threads = [threading.Thread(target=self._guard, args=(act,), daemon=True) for act in acts]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)
                if thread.is_alive():
                    self.wrong.append(f"{thread.name} does not come to an end")

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self.wrong.append(f"{act.__name__.strip('_')} was told: {type(error).__name__}: {str(error)[:500]}")
            self._over.set()

    def _timed(self, call: str, act: Callable[[], Any]) -> Any:
        phase, begun = self._phase, time.perf_counter()
        answer = act()
        if phase == self._phase:
            self.waits[phase][call].append(time.perf_counter() - begun)
        return answer

    def _rpc(self) -> Rpc:
        return Rpc(self._server.address)

    def _publish_all(self) -> None:
        with self._rpc() as rpc:
            for number in range(WORKERS):
                request = _publication(number)
                self._source_id = rpc.publish(request, metadata=_BEARER).mx_source_id

    def _beat(self) -> None:
        """Keep all workers alive, and now and then publish one again."""
        with self._rpc() as rpc:
            number = 0
            while not self._over.wait(_PACE):
                number = (number + 1) % WORKERS
                update = p2p_pb2.UpdateStatusRequest(
                    mx_source_id=self._source_id, worker_id=f"w{number}", status=p2p_pb2.SOURCE_STATUS_READY
                )
                known = self._timed("heartbeat", lambda update=update: rpc.update(update, metadata=_BEARER))
                if not known.success:
                    raise AssertionError(known.message)
                if number % 20 == 0:
                    request = _publication(number)
                    self._timed("publish", lambda request=request: rpc.publish(request, metadata=_BEARER))

    def _ask(self) -> None:
        rng = random.Random(self.seed)
        with self._rpc() as rpc:
            everyone = ready(_publication(0).identity)
            while not self._over.wait(_PACE):
                listed = self._timed("list", lambda: rpc.list(everyone, metadata=_BEARER))
                if len(listed.instances) != WORKERS:
                    raise AssertionError(f"{len(listed.instances)} of {WORKERS} workers are listed")
                worker = f"w{rng.randrange(WORKERS)}"
                found = self._timed("get", lambda worker=worker: rpc.get(self._source_id, worker, metadata=_BEARER))
                if not found.found:
                    raise AssertionError(f"{worker} is not found")

    def _stock(self) -> None:
        """The stock package's client, which publishes, beats and lists."""
        auth, package = import_stock("auth"), import_stock("client")
        messages = import_stock("p2p_pb2")
        identity = messages.SourceIdentity(mx_version="0.7.0", model_name="org/stock", dtype="bfloat16")
        worker = messages.WorkerMetadata(nixl_metadata=b"agent", status=messages.SOURCE_STATUS_READY)
        with mock.patch.object(auth, "_SHARED_PROVIDER", auth.TokenProvider(str(self._token))):
            client = package.MxClient(server_url=self._server.address)
            source_id = client.publish_metadata(identity, worker, "stock")
            status = messages.SOURCE_STATUS_READY
            while not self._over.wait(5 * _PACE):
                assert self._timed("stock", lambda: client.update_status(source_id, "stock", 0, status))
                assert [ref.worker_id for ref in client.list_sources(identity, status).instances] == ["stock"]
            client.close()

    def _ours(self) -> None:
        """Our own, which publishes arrays, watches, finds itself and fetches its manifest."""
        asyncio.run(self._library())

    async def _library(self) -> None:
        settings = ClientSettings(token_path=str(self._token), heartbeat_interval=1.0)
        weights = {"a": np.arange(1000, dtype="float32")}
        async with (
            AsyncClient(self._server.address, settings=settings) as client,
            client.publish(weights, model="org/ours") as source,
        ):
            watching = asyncio.create_task(self._watch(client))
            while not self._over.is_set() and not watching.done():
                begun, phase = time.perf_counter(), self._phase
                (found,) = await client.find("org/ours")
                await client.manifest(found)
                if phase == self._phase:
                    self.waits[phase]["library"].append(time.perf_counter() - begun)
                await asyncio.sleep(10 * _PACE)
            assert source.manifest.total_size == 4000
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()

    async def _watch(self, client: AsyncClient) -> None:
        async for change in client.watch("org/ours"):
            assert change.complete or change.present, "a source that lives was told to be gone"

    # Those who do not.

    @contextmanager
    def _misbehaving(self, seed: int) -> Iterator[None]:
        command = [
            sys.executable,
            "-m",
            "tests.faults.abuse",
            self._server.address,
            str(seed),
            TOKENS["bob"],
            *self.kinds,
        ]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd,
            ExitStack() as stack,
        ):
            stack.callback(crowd.kill)
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == "ready\n"
            crowd.stdin.write("go\n")
            crowd.stdin.flush()
            yield
            crowd.stdin.close()
            said = crowd.stdout.read()
            self.abuses.update(json.loads(said) if said else {})
            if crowd.wait(60):
                self.wrong.append("those who misbehave came to grief themselves")

    # Judging.

    def _pass(self, seconds: float) -> None:
        """Let time pass, in which the server's memory is looked at."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._over.wait(0.2) and self._server.running:
            held = self._server.rss()
            self.peak = max(self.peak, held)
            if held > MEMORY:
                self.wrong.append(f"the server holds {held / MIB:.0f} MiB")
                self._over.set()

    def _judge_after(self, process: psutil.Process, descriptors: int, threads: int) -> None:
        if not self._server.running:
            return
        try:
            eventually(
                lambda: process.num_fds() <= descriptors + _ROOM and process.num_threads() <= threads + _ROOM,
                within=60.0,
                what="connections and threads to be let go",
            )
        except AssertionError as error:
            now = f"{process.num_fds()} descriptors and {process.num_threads()} threads"
            self.wrong.append(f"{error}: {descriptors} and {threads} before, {now} now")

    def _judge_sources(self) -> None:
        with self._rpc() as rpc:
            listed = rpc.list(ready(_publication(0).identity), metadata=_BEARER).instances
            if {ref.worker_id for ref in listed} != {f"w{number}" for number in range(WORKERS)}:
                self.wrong.append(f"afterwards {len(listed)} of {WORKERS} workers are listed")
            now = max(ref.updated_at for ref in listed) if listed else 0
            old = [ref.worker_id for ref in listed if now - ref.updated_at > _HEARTBEAT * 1000]
            if old:
                self.wrong.append(f"heartbeats were lost: {old}")
            for ref in listed:
                found = rpc.get(ref.mx_source_id, ref.worker_id, metadata=_BEARER)
                if not found.found or dict(found.worker.topology) != _TOPOLOGY:
                    self.wrong.append(f"{ref.worker_id} is not as it was published")


_BEARER: Final = (("authorization", f"Bearer {TOKENS['admin']}"),)


def _publication(number: int) -> p2p_pb2.PublishMetadataRequest:
    request = publication(_MODEL, f"w{number}", tensors=20)
    request.worker.topology.update(_TOPOLOGY)
    return request


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)] if times else 0.0
