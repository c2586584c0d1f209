"""The records of the eight operations, for those who embed the backend in a program of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from peerload.errors import InvalidArgument
from peerload.metadata.records import SourceRecord, Status
from peerload.wire import p2p_pb2

__all__ = [
    "BackendMetadata",
    "ModelMetadataRecord",
    "Nixl",
    "NoBackend",
    "SourceInstanceInfo",
    "TensorRecord",
    "TransferEngine",
    "WorkerRecord",
    "from_flat",
    "to_flat",
]


@dataclass(frozen=True, slots=True)
class Nixl:
    """A NIXL agent's description: opaque bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TransferEngine:
    """A Mooncake TransferEngine session, "ip:port"."""

    session_id: str


@dataclass(frozen=True, slots=True)
class NoBackend:
    """The worker is reached in another way."""


BackendMetadata: TypeAlias = Nixl | TransferEngine | NoBackend


def from_flat(kind: str | None, nixl: bytes = b"", session_id: str = "") -> BackendMetadata:
    """The case that a flat record holds. Without a kind it is inferred: a session id is TransferEngine, else a blob is
    NIXL, else there is none. Raises `InvalidArgument` for a kind that is not known."""
    match kind:
        case "nixl":
            return Nixl(nixl)
        case "transfer_engine":
            return TransferEngine(session_id)
        case "none":
            return NoBackend()
        case None | "":
            if session_id:
                return TransferEngine(session_id)
            return Nixl(nixl) if nixl else NoBackend()
        case _:
            raise InvalidArgument("backend_metadata_kind", f"{kind!r} is none of nixl, transfer_engine, none")


def to_flat(backend: BackendMetadata) -> tuple[str, bytes, str]:
    """The kind, NIXL blob and session id under which a flat record keeps it."""
    match backend:
        case Nixl(data):
            return "nixl", data, ""
        case TransferEngine(session_id):
            return "transfer_engine", b"", session_id
        case NoBackend():
            return "none", b"", ""


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor in a worker's memory; `size` in bytes, `dtype` with torch's prefix."""

    name: str
    addr: int
    size: int
    device_id: int
    dtype: str


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One process of a replica and how to read from it."""

    worker_rank: int
    backend_metadata: BackendMetadata = NoBackend()
    tensors: tuple[TensorRecord, ...] = ()
    status: Status = Status.UNKNOWN
    updated_at: int = 0
    metadata_endpoint: str = ""
    agent_name: str = ""
    worker_grpc_endpoint: str = ""
    accelerator: str = ""
    topology: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_wire(cls, worker: p2p_pb2.WorkerMetadata) -> WorkerRecord:
        """The record of a message; tensors from the newer field where both are given."""
        backend: BackendMetadata = NoBackend()
        match worker.WhichOneof("backend_metadata"):
            case "nixl_metadata":
                backend = Nixl(worker.nixl_metadata)
            case "transfer_engine_session_id":
                backend = TransferEngine(worker.transfer_engine_session_id)
        return cls(
            worker_rank=worker.worker_rank,
            backend_metadata=backend,
            tensors=tuple(
                TensorRecord(tensor.name, tensor.addr, tensor.size, tensor.device_id, tensor.dtype)
                for tensor in worker.tensor_source.tensors or worker.tensors
            ),
            status=Status.of(worker.status),
            updated_at=worker.updated_at,
            metadata_endpoint=worker.metadata_endpoint,
            agent_name=worker.agent_name,
            worker_grpc_endpoint=worker.worker_grpc_endpoint,
            accelerator=worker.accelerator,
            topology=dict(worker.topology),
        )

    def to_wire(self) -> p2p_pb2.WorkerMetadata:
        """The message; the tensors go into both fields, so that older readers find them too."""
        tensors = [
            p2p_pb2.TensorDescriptor(
                name=tensor.name, addr=tensor.addr, size=tensor.size, device_id=tensor.device_id, dtype=tensor.dtype
            )
            for tensor in self.tensors
        ]
        worker = p2p_pb2.WorkerMetadata(
            worker_rank=self.worker_rank,
            tensors=tensors,
            status=cast(p2p_pb2.SourceStatus, int(self.status)),
            updated_at=self.updated_at,
            metadata_endpoint=self.metadata_endpoint,
            agent_name=self.agent_name,
            worker_grpc_endpoint=self.worker_grpc_endpoint,
            accelerator=self.accelerator,
            topology=dict(self.topology),
        )
        if tensors:
            worker.tensor_source.tensors.extend(tensors)
        match self.backend_metadata:
            case Nixl(data):
                worker.nixl_metadata = data
            case TransferEngine(session_id):
                worker.transfer_engine_session_id = session_id
            case NoBackend():
                pass
        return worker


@dataclass(frozen=True, slots=True)
class ModelMetadataRecord:
    """What is kept of one worker id of one source: a record a rank, lowest first."""

    source_id: str
    worker_id: str
    model_name: str
    workers: tuple[WorkerRecord, ...]
    published_at: int


@dataclass(frozen=True, slots=True)
class SourceInstanceInfo:
    """One worker in a list: enough to choose by, without its manifest."""

    source_id: str
    worker_id: str
    model_name: str
    worker_rank: int
    status: Status
    updated_at: int
    accelerator: str = ""
    topology: Mapping[str, str] = field(default_factory=dict)
    training_step: int | None = None
    layout_signature: str | None = None
    load: float | None = None

    @classmethod
    def from_record(cls, record: SourceRecord) -> SourceInstanceInfo:
        """The listed form of a record."""
        return cls(
            source_id=record.key.source_id,
            worker_id=record.key.worker_id,
            model_name=record.model_name,
            worker_rank=record.key.worker_rank,
            status=record.status,
            updated_at=record.updated_at,
            accelerator=record.accelerator,
            topology=dict(record.topology),
            training_step=record.training_step,
            layout_signature=record.layout_signature,
            load=record.load,
        )
