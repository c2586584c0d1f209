"""Requests as engines send them, encoded."""

from __future__ import annotations

import random
from typing import Final

from peerload.wire import p2p_pb2, splice

__all__ = ["P2P", "RANKS", "SOURCES", "Fleet", "get_request", "list_request", "update_request"]

P2P: Final = "/model_express.p2p.P2pService/"
SOURCES: Final = "/peerload.v1.SourceService/"
RANKS: Final = 64
_PARTS: Final = {
    "self_attn.qkv_proj": 29_360_128,
    "self_attn.o_proj": 8_388_608,
    "mlp.gate_up_proj": 58_720_256,
    "mlp.down_proj": 29_360_128,
    "input_layernorm": 4_096,
}
"""A layer's tensors and their bytes: as in a model, every layer has the same."""


class Fleet:
    """Publications of many workers, made by joining parts that are encoded once. Without tensors they are what stock clients
    publish by default: three short endpoints."""

    def __init__(self, tensors: int, *, model: str = "meta/large-model", twice: bool = False) -> None:
        self.tensors = tensors
        self._fields = (3, 20) if twice else (20,)
        self._message = p2p_pb2.SourceIdentity(
            mx_version="0.7.0",
            model_name=model,
            backend_framework=p2p_pb2.BACKEND_FRAMEWORK_VLLM,
            tensor_parallel_size=8,
            dtype="bfloat16",
        )
        self.identity: Final = self._message
        self._identity = self._message.SerializeToString()
        self._lists = [self._tensor_list(rank) for rank in range(RANKS)] if tensors else []

    def _tensor_list(self, rank: int) -> bytes:
        """One rank's tensors, at addresses of its own as an allocator would give them, as fields of WorkerMetadata."""
        chance = random.Random(rank)
        address = 0x7F00_0000_0000 + chance.randrange(1 << 36) * 512
        made = p2p_pb2.TensorSourceMetadata()
        parts = list(_PARTS.items())
        for number in range(self.tensors):
            layer, part = divmod(number, len(parts))
            name, size = parts[part]
            made.tensors.add(
                name=f"model.layers.{layer}.{name}.weight",
                addr=address,
                size=size,
                device_id=rank % 8,
                dtype="torch.bfloat16",
            )
            address += size + 512 * chance.randrange(8)
        # The older field holds the tensors themselves, the newer one a message of them.
        worker = p2p_pb2.WorkerMetadata(tensors=made.tensors if 3 in self._fields else (), tensor_source=made)
        return worker.SerializeToString()

    def request(self, number: int) -> bytes:
        """The encoded publication of worker `number`: as an engine sends it, READY at once."""
        rank = number % RANKS
        host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        worker = p2p_pb2.WorkerMetadata(
            worker_rank=rank,
            status=p2p_pb2.SOURCE_STATUS_READY,
            agent_name=f"mx-auto-worker{rank}-{number:08x}",
            accelerator="cuda",
        )
        if self.tensors:
            worker.nixl_metadata = random.Random(number).randbytes(256)
            worker.topology.update({"rack": f"r{number // 512}", "host": f"node{number // 8}"})
        else:
            worker.metadata_endpoint, worker.worker_grpc_endpoint = f"{host}:5555", f"{host}:6555"
        return b"".join(
            (
                splice.bytes_field(1, self._identity),
                splice.bytes_field(
                    2, worker.SerializeToString(), self._lists[rank % len(self._lists)] if self._lists else b""
                ),
                splice.bytes_field(3, self.worker_id(number).encode()),
            )
        )

    @staticmethod
    def worker_id(number: int) -> str:
        """Of worker `number`."""
        return f"{number:08x}"

    def update(self, source_id: str, number: int) -> bytes:
        """The encoded heartbeat of worker `number`."""
        return update_request(source_id, self.worker_id(number), number % RANKS)

    def get(self, source_id: str, number: int) -> bytes:
        """The encoded question for what worker `number` published."""
        return get_request(source_id, self.worker_id(number))


def update_request(source_id: str, worker_id: str, rank: int) -> bytes:
    """A mere refresh."""
    return p2p_pb2.UpdateStatusRequest(
        mx_source_id=source_id,
        worker_id=worker_id,
        worker_rank=rank,
        status=p2p_pb2.SOURCE_STATUS_READY,
        source_load=0.5,
    ).SerializeToString()


def get_request(source_id: str, worker_id: str) -> bytes:
    """What a worker published."""
    return p2p_pb2.GetMetadataRequest(mx_source_id=source_id, worker_id=worker_id).SerializeToString()


def list_request(
    identity: p2p_pb2.SourceIdentity | None, *, limit: int | None = None, rank: int | None = None
) -> bytes:
    """Who is READY: the question of every worker that starts."""
    request = p2p_pb2.ListSourcesRequest(identity=identity, status_filter=p2p_pb2.SOURCE_STATUS_READY)
    if limit is not None:
        request.limit = limit
    if rank is not None:
        request.worker_rank_filter = rank
    return request.SerializeToString()
