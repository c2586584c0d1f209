"""Reading the weights of a worker that runs the stock package.

Its record tells one of two ways. Either the manifest went through the server: the tensors, and the metadata of the NIXL agent that
they are registered with. Or the worker is asked itself: for the tensors at its WorkerService, for the agent at its listener.

There are no digests and no shapes. What can be known is that names, dtypes and sizes are what was expected, that every byte was
read, and that the memory was still what the worker offered when the last one had been: the lease that it gave is released in
order, or, where it gives none, it says the same as before. A read that cannot be confirmed so is a failed one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from peerload.checkpoint.dtypes import from_torch, itemsize_bits
from peerload.client.manifest import Item, Manifest, SourceManifest
from peerload.client.sources import SourceInfo
from peerload.client.stock.agents import MAX_AGENT_BYTES, fetch_agent, host_of
from peerload.client.stock.calls import NoSuchCall, WorkerCalls
from peerload.client.targets import SourceUnusable
from peerload.engines.agents import AgentImporter, PeerMemory
from peerload.errors import InvalidArgument, LimitExceeded, NotFound, TransferFailed, Unavailable
from peerload.metadata.limits import MAX_NAME_BYTES, MAX_TENSORS
from peerload.metadata.records import Form
from peerload.wire import outline_pb2, p2p_pb2

__all__ = ["Fetch", "stock_manifest"]

Fetch = Callable[[], Awaitable[outline_pb2.GetManifestResponse]]
"""Asks the server what the worker published."""

_CALL_S: Final = 10.0
"""For one answer of the worker, and for its listener's."""
_RELEASE_S: Final = 2.0
_HOST: Final = "cpu"
"""The accelerator of those that serve host memory."""
_MAX_BYTES: Final = 2**63 - 1
_MAX_DEVICE: Final = 4096


@dataclass(frozen=True, slots=True)
class _Offer:
    """Where a worker says that its tensors are."""

    tensors: Sequence[p2p_pb2.TensorDescriptor]
    accelerator: str
    agent: str
    host: str
    metadata: bytes = field(repr=False)


@contextlib.asynccontextmanager
async def stock_manifest(
    source: SourceInfo, fetch: Fetch, importer: Callable[[], Awaitable[AgentImporter]]
) -> AsyncIterator[SourceManifest]:
    """What a stock worker offers, for one read; leaving it confirms the read, or ends it if it failed.

    Raises `SourceUnusable` for a worker that cannot be read here, `NotFound` where it is gone, `TransferFailed` where it does
    not answer, or the read cannot be confirmed, `Unavailable`.
    """
    response = await fetch()
    worker = response.worker
    if worker.WhichOneof("source_payload") == "artifact_source":
        raise SourceUnusable("has an artifact, and no weights")
    if worker.worker_grpc_endpoint:
        way = _asked(source, worker)
    elif worker.WhichOneof("backend_metadata") == "nixl_metadata":
        way = _through_server(worker, fetch)
    elif worker.WhichOneof("backend_metadata") == "transfer_engine_session_id":
        raise SourceUnusable("serves by Mooncake's TransferEngine, by which stock workers are not read here")
    else:
        raise SourceUnusable("says neither where its WorkerService is nor which NIXL agent to read from")
    async with way as offer:
        try:
            items, memory = _items(offer)
        except InvalidArgument as error:
            raise SourceUnusable(f"its list of tensors is not valid: {error}") from error
        engine = await importer()
        endpoint = engine.describe(offer.agent, offer.metadata, memory, host=offer.host)
        manifest = Manifest(Form.RUNTIME, items, (endpoint,), bare=True)
        yield SourceManifest(source, response.identity, manifest)


@contextlib.asynccontextmanager
async def _asked(source: SourceInfo, worker: p2p_pb2.WorkerMetadata) -> AsyncIterator[_Offer]:
    """By way of the worker's own services."""
    async with WorkerCalls(worker.worker_grpc_endpoint, source.source_id, timeout=_CALL_S) as calls:
        lease = ""
        try:
            prepared = await calls.prepare(source.worker_id)
            lease, manifest = prepared.lease_id, prepared.manifest
        except NoSuchCall:
            manifest = await calls.manifest(source.worker_id)
        try:
            endpoint = manifest.metadata_endpoint or worker.metadata_endpoint
            if not endpoint:
                raise SourceUnusable("says nowhere where its NIXL agent listens")
            metadata = await fetch_agent(endpoint, timeout=_CALL_S)
            yield _Offer(
                manifest.tensors,
                manifest.accelerator or worker.accelerator,
                manifest.agent_name or worker.agent_name,
                host_of(endpoint),
                metadata,
            )
        except BaseException:
            if lease:
                # It would run out by itself; until then the worker could not be paused.
                with contextlib.suppress(TransferFailed, TimeoutError):
                    async with asyncio.timeout(_RELEASE_S):
                        await calls.release(source.worker_id, lease)
            raise
        if lease:
            await calls.release(source.worker_id, lease)
        elif await calls.manifest(source.worker_id) != manifest:
            raise TransferFailed("the worker offers other memory now than when the read began")


@contextlib.asynccontextmanager
async def _through_server(worker: p2p_pb2.WorkerMetadata, fetch: Fetch) -> AsyncIterator[_Offer]:
    """By what the server was told."""
    tensors = worker.tensor_source.tensors or worker.tensors
    if len(worker.nixl_metadata) > MAX_AGENT_BYTES:
        raise SourceUnusable(f"its agent's metadata has {len(worker.nixl_metadata):,} bytes")
    yield _Offer(
        tensors, worker.accelerator, worker.agent_name, host_of(worker.metadata_endpoint), worker.nixl_metadata
    )
    try:
        now = (await fetch()).worker
    except (NotFound, Unavailable) as error:
        raise TransferFailed(f"whether the worker still offers what was read cannot be confirmed: {error}") from error
    if now.status != p2p_pb2.SOURCE_STATUS_READY or _offered(now) != _offered(worker):
        raise TransferFailed("the worker offers other memory now than when the read began")


def _offered(worker: p2p_pb2.WorkerMetadata) -> tuple[bytes, list[p2p_pb2.TensorDescriptor]]:
    return worker.nixl_metadata, list(worker.tensor_source.tensors or worker.tensors)


def _items(offer: _Offer) -> tuple[tuple[Item, ...], list[PeerMemory]]:
    """The tensors, and the memory that they are: what is the same address is the same region. Raises `InvalidArgument`."""
    if not offer.tensors:
        raise InvalidArgument("tensors", "there is none")
    if len(offer.tensors) > MAX_TENSORS:
        raise LimitExceeded("tensors", f"{len(offer.tensors)}; the limit is {MAX_TENSORS}", limit=MAX_TENSORS)
    on_host = offer.accelerator == _HOST
    regions: dict[PeerMemory, int] = {}
    items: list[Item] = []
    names: set[str] = set()
    for index, tensor in enumerate(offer.tensors):
        field = f"tensors[{index}]"
        if not tensor.name or tensor.name in names:
            raise InvalidArgument(f"{field}.name", "is empty, or there twice")
        if len(tensor.name.encode()) > MAX_NAME_BYTES:
            raise LimitExceeded(f"{field}.name", f"longer than {MAX_NAME_BYTES} bytes", limit=MAX_NAME_BYTES)
        names.add(tensor.name)
        if tensor.size > _MAX_BYTES or tensor.addr > _MAX_BYTES * 2 - tensor.size:
            raise InvalidArgument(f"{field}.size", f"{tensor.size} bytes from there are beyond any memory")
        if tensor.device_id > _MAX_DEVICE:
            raise InvalidArgument(f"{field}.device_id", f"{tensor.device_id} is no number of an accelerator")
        memory = PeerMemory(tensor.addr, tensor.size, None if on_host else tensor.device_id)
        items.append(
            Item(
                tensor.name,
                tensor.size,
                tensor.dtype,
                (_elements(field, tensor),),
                b"",
                regions.setdefault(memory, len(regions)),
                0,
                device=memory.device,
            )
        )
    if sum(memory.nbytes for memory in regions) > _MAX_BYTES:
        raise InvalidArgument("tensors", "their sizes do not add up to a number of 63 bits")
    return tuple(items), list(regions)


def _elements(field: str, tensor: p2p_pb2.TensorDescriptor) -> int:
    try:
        bits = itemsize_bits(from_torch(tensor.dtype))
    except InvalidArgument:
        return int(tensor.size)  # an engine's own dtype: as many as there are bytes, for want of a better number
    if tensor.dtype == "torch.float4_e2m1fn_x2":
        bits = 8  # torch counts pairs
    if tensor.size * 8 % bits:
        raise InvalidArgument(f"{field}.size", f"{tensor.size} bytes is no number of {tensor.dtype}")
    return int(tensor.size * 8 // bits)
