"""An identity in full, and questions about it."""

from __future__ import annotations

from typing import Any

from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.server.diagnosis.question import Question
from peerload.wire import p2p_pb2
from peerload.wire.identity import source_id

FULL: dict[str, Any] = {
    "mx_version": "0.7.0",
    "mx_source_type": p2p_pb2.MX_SOURCE_TYPE_WEIGHTS,
    "model_name": "org/Llama-3-8B",
    "backend_framework": p2p_pb2.BACKEND_FRAMEWORK_VLLM,
    "tensor_parallel_size": 8,
    "pipeline_parallel_size": 1,
    "expert_parallel_size": 0,
    "dtype": "bfloat16",
    "quantization": "fp8",
    "extra_parameters": {"kv_cache": "auto"},
    "revision": "main",
    "backend_framework_version": "0.11.0",
    "torch_version": "2.9.0",
    "cuda_version": "12.8",
    "triton_version": "3.4",
    "gpu_arch": "sm90",
    "compile_config_digest": "c0ffee",
}


def identity(**changes: Any) -> p2p_pb2.SourceIdentity:
    """Every field is set; some are changed."""
    return p2p_pb2.SourceIdentity(**{**FULL, **changes})


def worker(rank: int = 0, status: int = Status.READY) -> p2p_pb2.WorkerMetadata:
    return p2p_pb2.WorkerMetadata(worker_rank=rank, status=p2p_pb2.SourceStatus.Name(int(status)))


def asking(asked: p2p_pb2.SourceIdentity | None = None, **filters: Any) -> Question:
    """What a stock client's list asks: an identity, READY, one instance a worker."""
    if asked is not None:
        filters["source_id"] = source_id(asked)
    return Question(Query(**{"status": Status.READY, "instances": True, **filters}), asked)
