"""What readers of the stock package find of this process: one WorkerService, and a listener for the agent of each source."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final, Self

from peerload.client.manifest import Item
from peerload.client.stock.agents import AgentListener
from peerload.client.stock.leases import Leases
from peerload.client.stock.service import ArtifactSource, Hold, TensorSource, WorkerService
from peerload.clock import Clock
from peerload.engines.agents import AgentExporter, Exposed
from peerload.engines.base import Publication
from peerload.errors import InvalidArgument, TransferFailed, Unavailable
from peerload.metadata.records import SourceKey
from peerload.wire import p2p_pb2

__all__ = ["Bench", "Stand", "StockTensors"]

_log: Final = logging.getLogger("peerload.client")
_DEFAULT_TIMEOUT_S: Final = 900.0
_READER_LIMIT: Final = 4 * 1024 * 1024 - 4096
"""Bytes of an answer that stock readers take, which open WorkerService with gRPC's defaults; less room for a lease."""


def lease_seconds(env: Mapping[str, str] | None = None) -> float:
    """How long a lease on tensors lasts: twice a reader's patience (MX_TRANSFER_TIMEOUT), and a little."""
    text = (os.environ if env is None else env).get("MX_TRANSFER_TIMEOUT", "")
    try:
        timeout = float(text) if text else _DEFAULT_TIMEOUT_S
    except ValueError:
        timeout = _DEFAULT_TIMEOUT_S
    return 2 * max(120.0, timeout if 0 < timeout < float("inf") else _DEFAULT_TIMEOUT_S) + 30


class Stand:
    """Where one source is served: its place at the WorkerService, and its agent's listener."""

    def __init__(self, service: WorkerService, worker_endpoint: str, listener: AgentListener, ip: str) -> None:
        self._service = service
        self._listener = listener
        self._take_away: Callable[[], None] | None = None
        self.worker_endpoint = worker_endpoint
        """HOST:PORT of WorkerService."""
        self.metadata_endpoint = f"{ip}:{listener.port}"
        """IP:PORT of the listener: NIXL resolves no names."""

    def serve(self, source: TensorSource | ArtifactSource) -> None:
        """Answer for it from now on."""
        self._take_away = self._service.add(source)

    async def close(self) -> None:
        """Answer no more. Closing twice is allowed."""
        if self._take_away is not None:
            self._take_away()
        await self._listener.close()


class Bench:
    """Where the sources of one client are served to stock readers. Starts when the first is; belongs to one event loop.

    `host` is under what peers reach this process; it blocks.
    """

    def __init__(self, host: Callable[[], str], *, clock: Clock, executor: Executor) -> None:
        self._host = host
        self._executor = executor
        self._lock = asyncio.Lock()
        self.lease_seconds = lease_seconds()
        """How long a lease on tensors lasts."""
        self._service: WorkerService | None = None
        self.clock = clock

    async def stand(self, exposed: Hold, device: int = 0) -> Stand:
        """A place for one source, reached as `exposed` says, in the memory of that device. Raises `InvalidArgument` for a host
        that has no IPv4 address, `Unavailable` where nothing can be listened on."""
        loop = asyncio.get_running_loop()
        host = await loop.run_in_executor(self._executor, self._host)
        ip = await loop.run_in_executor(self._executor, _ipv4, host)
        bind = ip if ipaddress.ip_address(ip).is_loopback else ""
        async with self._lock:
            if self._service is None:
                service = WorkerService()
                await _listen(service.start, bind, "MX_WORKER_GRPC_PORT", device)
                self._service = service

        async def metadata() -> bytes:
            return (await exposed(self.lease_seconds)).metadata

        listener = AgentListener(metadata)
        await _listen(listener.start, bind, "MX_METADATA_PORT", device)
        shown = f"[{host}]" if ":" in host else host
        return Stand(self._service, f"{shown}:{self._service.port}", listener, ip)

    async def exposed(self, exporter: AgentExporter, publication: Publication, hold: float) -> Exposed:
        """`AgentExporter.exposed`, which may block."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(exporter.exposed, publication, hold=hold))

    async def close(self) -> None:
        """Stop serving; every stand is closed before. Closing twice is allowed."""
        if self._service is not None:
            await self._service.stop()


class StockTensors:
    """Published tensors as stock readers see them."""

    @classmethod
    async def open(
        cls, bench: Bench, exporter: AgentExporter, publication: Publication, key: SourceKey, items: Sequence[Item]
    ) -> Self:
        """Serve what was published. Raises `InvalidArgument` naming a tensor that stock readers could not read right, and
        what `Bench.stand` raises."""
        for item in items:
            if item.stride:
                raise InvalidArgument(
                    f"tensors[{item.name!r}]",
                    "is transposed, and readers of the stock package take every tensor in C order: give a copy of it",
                )
        devices = sorted({item.device for item in items if item.device is not None})
        made = cls(bench, exporter, publication, key, items, on_device=bool(devices))
        made._stand = await bench.stand(made.exposed, devices[0] if devices else 0)
        answer = partial(made._answer, bench.lease_seconds)
        made._stand.serve(TensorSource(key.source_id, key.worker_id, answer, made.leases))
        return made

    def __init__(
        self,
        bench: Bench,
        exporter: AgentExporter,
        publication: Publication,
        key: SourceKey,
        items: Sequence[Item],
        *,
        on_device: bool,
    ) -> None:
        self._bench = bench
        self._exporter = exporter
        self._publication = publication
        self._key = key
        self._items = items
        self._stand: Stand | None = None
        self._encoded: tuple[Exposed, bytes] | None = None
        self._told = ""
        self._asked = True
        """Whether readers ask this process, rather than have all from the server."""
        self.accelerator = "cuda" if on_device else "cpu"
        self.leases = Leases(bench.clock, bench.lease_seconds)

    async def exposed(self, hold: float) -> Exposed:
        """How its memory is reached now; see `Hold`."""
        return await self._bench.exposed(self._exporter, self._publication, hold)

    async def changed(self) -> bool:
        """Whether it is reached another way than `describe` told last, as far as it can be reached."""
        # Whoever has all from the server comes without a word.
        hold = 0.0 if self._asked else self._bench.lease_seconds
        try:
            return self._told != (await self.exposed(hold)).agent
        except TransferFailed:
            return False

    async def describe(self, worker: p2p_pb2.WorkerMetadata) -> None:
        """Say in a record how stock readers reach it.

        By WorkerService and the listener; where the list of tensors is longer than their readers take from there, the record
        carries all of it itself.
        """
        assert self._stand is not None
        self._asked = len(await self._answer(0.0)) <= _READER_LIMIT
        exposed = await self.exposed(0.0 if self._asked else self._bench.lease_seconds)
        self._told = exposed.agent
        worker.accelerator = self.accelerator
        worker.agent_name = exposed.agent
        if self._asked:
            worker.metadata_endpoint = self._stand.metadata_endpoint
            worker.worker_grpc_endpoint = self._stand.worker_endpoint
            return
        _log.info("%s has too many tensors for WorkerService: its record carries them", self._key.encode())
        tensors = self._tensors(exposed)
        worker.nixl_metadata = exposed.metadata
        worker.tensors.extend(tensors)
        worker.tensor_source.tensors.extend(tensors)

    async def drain(self, seconds: float) -> None:
        """Lease nothing more, and wait up to `seconds` for readers that hold leases."""
        await self.leases.drain(seconds)

    async def close(self) -> None:
        """Answer no more. Closing twice is allowed."""
        if self._stand is not None:
            await self._stand.close()

    async def _answer(self, hold: float) -> bytes:
        """What GetTensorManifest answers, encoded."""
        exposed = await self.exposed(hold)
        if self._encoded is None or self._encoded[0] != exposed:
            assert self._stand is not None
            message = p2p_pb2.GetTensorManifestResponse(
                tensors=self._tensors(exposed),
                mx_source_id=self._key.source_id,
                metadata_endpoint=self._stand.metadata_endpoint,
                agent_name=exposed.agent,
                worker_rank=self._key.worker_rank,
                accelerator=self.accelerator,
                worker_id=self._key.worker_id,
            )
            self._encoded = exposed, message.SerializeToString()
        return self._encoded[1]

    def _tensors(self, exposed: Exposed) -> list[p2p_pb2.TensorDescriptor]:
        return [
            p2p_pb2.TensorDescriptor(
                name=item.name,
                addr=exposed.addresses[item.region] + item.offset,
                size=item.size,
                device_id=item.device or 0,
                dtype=item.dtype,
            )
            for item in self._items
            if item.size  # NIXL registers nothing of no bytes, and a reader that is told of it fails.
        ]


async def _listen(start: Callable[[str, int], Awaitable[None]], bind: str, variable: str, device: int) -> None:
    """Listen where a deployment says, counted from the accelerator; where that is taken or nothing is said, anywhere."""
    text = os.environ.get(variable, "")
    port = int(text) + device if text.isascii() and text.isdecimal() else 0
    if 0 < port < 65536:
        try:
            await start(bind, port)
        except Unavailable as error:
            _log.warning("%s (%s): another port is taken", error, variable)
        else:
            return
    await start(bind, 0)


def _ipv4(host: str) -> str:
    """An IPv4 address of a host: NIXL's listeners and those that ask them know no other."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidArgument("host", f"{host!r} has no IPv4 address, which NIXL needs: {error}") from error
    return str(found[0][4][0])
