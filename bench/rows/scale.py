"""A large fleet on the embedded store: time, memory and disk of 10,000 workers with 1,500 tensors each."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import psutil

from bench.figures import Figure
from bench.messages import P2P, RANKS, Fleet
from bench.setting import Setting
from peerload.wire import grpc_health_pb2, p2p_pb2

__all__ = ["Figures", "fleet", "measure"]

_IN_FLIGHT: Final = 32
_CONNECTIONS: Final = 4
_GETS: Final = 3_000
_LISTS: Final = 7
_START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Figures:
    """What was measured. Rates are calls a second, sizes bytes, times seconds."""

    workers: int
    tensors: int
    request_bytes: int
    publish_seconds: float
    publish_rate: float
    heartbeat_rate: float
    list_seconds: float
    list_bytes: int
    listed: int
    get_rate: float
    get_again_rate: float
    server_bytes_idle: int
    server_bytes: int
    server_bytes_a_worker: float
    file_bytes: int
    file_bytes_a_worker: float
    restart_seconds: float


class Server:
    """`peerload serve` on a file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._log = (folder / "server.log").open("ab")

    def start(self) -> float:
        """Seconds from the start of the process until it says that it serves."""
        began = time.monotonic()
        store = f"sqlite:{self._folder / 'peerload.sqlite'}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peerload", "serve", "--listen", self.address, "--store", store, "--metrics", "off"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        with grpc.insecure_channel(self.address) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            while time.monotonic() < began + _START_SECONDS and self._process.poll() is None:
                try:
                    answer = check(b"", timeout=5, wait_for_ready=True)
                except grpc.RpcError:
                    continue
                if grpc_health_pb2.HealthCheckResponse.FromString(answer).status == 1:
                    return time.monotonic() - began
        raise RuntimeError(f"the server did not start; see {self._log.name}")

    def memory(self) -> int:
        """Bytes resident."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def files(self) -> int:
        """Bytes of the store on disk, its log included."""
        return sum(path.stat().st_size for path in self._folder.glob("peerload.sqlite*"))

    def stop(self) -> None:
        """End it in an orderly way; raises if it does not."""
        self._process.send_signal(signal.SIGTERM)
        if code := self._process.wait(60):
            raise RuntimeError(f"the server ended with {code}; see {self._log.name}")

    def close(self) -> None:
        """End it in any way."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(60)
        self._log.close()


@contextmanager
def _server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()


async def _all(numbers: range | list[int], call: Callable[[int], Awaitable[None]]) -> float:
    """Make one call for each number, some at a time; seconds taken."""
    remaining = iter(numbers)

    async def caller() -> None:
        for number in remaining:
            await call(number)

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(_IN_FLIGHT)))
    return time.monotonic() - began


async def fleet(workers: int, tensors: int, folder: Path, *, twice: bool = False) -> Figures:
    """Publish, beat, list and fetch a whole fleet against a fresh server.

    With `twice` each tensor list is sent in both of its places, as stock engines do for the sake of older servers.
    """
    made = Fleet(tensors, twice=twice)
    with _server(folder) as server:
        server.start()
        idle = server.memory()
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(server.address, options=options) for _ in range(_CONNECTIONS)]

        def method(name: str, number: int) -> Callable[[bytes], Awaitable[bytes]]:
            made: Callable[[bytes], Awaitable[bytes]] = channels[number % _CONNECTIONS].unary_unary(P2P + name)
            return made

        source_id = ""

        async def publish(number: int) -> None:
            nonlocal source_id
            data = await method("PublishMetadata", number)(made.request(number))
            answer = p2p_pb2.PublishMetadataResponse.FromString(data)
            if not answer.success:
                raise RuntimeError(answer.message)
            source_id = answer.mx_source_id

        async def beat(number: int) -> None:
            request = p2p_pb2.UpdateStatusRequest(
                mx_source_id=source_id,
                worker_id=made.worker_id(number),
                worker_rank=number % RANKS,
                status=p2p_pb2.SOURCE_STATUS_READY,
                source_load=0.5,
            )
            data = await method("UpdateStatus", number)(request.SerializeToString())
            if not p2p_pb2.UpdateStatusResponse.FromString(data).success:
                raise RuntimeError("a heartbeat was refused")

        async def get(number: int) -> None:
            request = p2p_pb2.GetMetadataRequest(mx_source_id=source_id, worker_id=made.worker_id(number))
            data = await method("GetMetadata", number)(request.SerializeToString())
            if len(data) < 20 * tensors:
                raise RuntimeError("a worker came back without its tensors")

        async def ready() -> tuple[float, bytes]:
            request = p2p_pb2.ListSourcesRequest(status_filter=p2p_pb2.SOURCE_STATUS_READY)
            began = time.monotonic()
            data = await method("ListSources", 0)(request.SerializeToString())
            return time.monotonic() - began, data

        try:
            published = await _all(range(workers), publish)
            beaten = await _all(range(workers), beat)
            lists = [await ready() for _ in range(_LISTS)]
            chance = random.Random(1)
            apart = [chance.randrange(workers) for _ in range(min(_GETS, workers))]
            fetched = await _all(apart, get)
            again = await _all([number % RANKS for number in apart], get)
        finally:
            for channel in channels:
                await channel.close()
        memory = server.memory()
        server.stop()
        files = server.files()
        restarted = server.start()
        server.stop()
    return Figures(
        workers=workers,
        tensors=tensors,
        request_bytes=len(made.request(workers - 1)),
        publish_seconds=published,
        publish_rate=workers / published,
        heartbeat_rate=workers / beaten,
        list_seconds=statistics.median(seconds for seconds, _ in lists),
        list_bytes=len(lists[-1][1]),
        listed=len(p2p_pb2.ListSourcesResponse.FromString(lists[-1][1]).instances),
        get_rate=len(apart) / fetched,
        get_again_rate=len(apart) / again,
        server_bytes_idle=idle,
        server_bytes=memory,
        server_bytes_a_worker=(memory - idle) / workers,
        file_bytes=files,
        file_bytes_a_worker=files / workers,
        restart_seconds=restarted,
    )


def measure(setting: Setting) -> Iterator[Figure]:
    """As a figure for each of what is measured."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        told = asyncio.run(fleet(10_000, 1_500, Path(folder)))
    for each in fields(told):
        unit = "/s" if each.name.endswith("rate") else "s" if each.name.endswith("seconds") else ""
        yield Figure(
            row="scale",
            case=each.name.replace("_", " "),
            store="sqlite",
            front="grpc",
            unit=unit or ("bytes" if "bytes" in each.name else ""),
            value=float(getattr(told, each.name)),
            less=unit != "/s",
        )
