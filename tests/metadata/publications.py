"""Things to publish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from peerload.metadata.publications.publication import Publication
from peerload.metadata.records import Status
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id


def identity(model: str = "org/model", **parameters: str) -> p2p_pb2.SourceIdentity:
    return p2p_pb2.SourceIdentity(mx_version="0.5.0", model_name=model, dtype="bfloat16", extra_parameters=parameters)


SOURCE = source_id(identity())


def worker(
    rank: int = 0, status: int = Status.READY, tensors: int = 0, topology: Mapping[str, str] | None = None
) -> p2p_pb2.WorkerMetadata:
    message = p2p_pb2.WorkerMetadata(
        worker_rank=rank,
        status=cast(p2p_pb2.SourceStatus, int(status)),
        accelerator="cuda",
        topology=topology or {},
        metadata_endpoint="10.0.0.1:5555",
    )
    for index in range(tensors):
        message.tensor_source.tensors.add(
            name=f"layers.{index}.weight", addr=4096 * index, size=4096, dtype="torch.bfloat16"
        )
    return message


def publication(
    worker_id: str = "w1",
    rank: int = 0,
    status: int = Status.READY,
    *,
    model: str = "org/model",
    tensors: int = 0,
    topology: Mapping[str, str] | None = None,
    manifest: sources_pb2.Manifest | None = None,
    **parameters: str,
) -> Publication:
    return Publication.of(
        identity(model, **parameters), worker(rank, status, tensors, topology), worker_id, manifest=manifest
    )
