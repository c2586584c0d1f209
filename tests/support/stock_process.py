"""A worker that runs the stock package, as a process of its own: its NIXL agent, WorkerService and reader classes, unmodified.

Run by path with one argument, a JSON object; `role` says what it is. Answers are lines of JSON on the descriptor `answers`, since
NIXL prints to standard output. A source serves until stdin ends. NIXL's agents do not survive a normal exit, so it leaves by `os._exit`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch

from tests.support.stock import import_stock

ELEMENT = {"torch.bfloat16": torch.bfloat16, "torch.float32": torch.float32, "torch.uint8": torch.uint8}


TOLD: dict[str, Any] = {}


def say(**words: Any) -> None:
    os.write(TOLD["answers"], json.dumps(words).encode() + b"\n")


def content(seed: int, size: int) -> bytes:
    """The bytes that a seed stands for."""
    return random.Random(seed).randbytes(size)


def memory(tensor: Any) -> Any:
    """The bytes of a tensor, writable; torch's own has no other way for bfloat16 than by address."""
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")


def tensors_of(told: dict[str, Any], *, filled: bool) -> dict[str, Any]:
    found = {}
    for name, (seed, size, dtype) in told["tensors"].items():
        kind = ELEMENT[dtype]
        tensor = torch.empty(
            size // (2 if dtype == "torch.bfloat16" else 4 if dtype == "torch.float32" else 1), dtype=kind
        )
        if size:
            memory(tensor)[:] = content(seed, size) if filled else bytes(size)
        found[name] = tensor
    return found


def digests(tensors: dict[str, Any]) -> dict[str, str]:
    return {
        name: hashlib.sha256(bytes(memory(tensor)) if tensor.numel() else b"").hexdigest()
        for name, tensor in tensors.items()
    }


class HostBackend:
    """The stock package's accelerator boundary, for memory on the host: a source of ours on such says `cpu`."""

    name = "cpu"
    torch_device_type = "cpu"
    nixl_mem_type = "DRAM"

    def __getattr__(self, asked: str) -> Callable[..., Any]:
        if asked.startswith("supports_"):
            return lambda *_: asked == "supports_rdma_p2p"
        return lambda *_: None


def manager(role: str, port: int | None) -> Any:
    made = import_stock("nixl_transfer").NixlTransferManager(
        agent_name=f"mx-{role}-{os.getpid()}-{random.SystemRandom().randrange(2**32):08x}",
        device_id=0,
        listen_port=port,
        accelerator_backend=HostBackend(),
    )
    made.initialize()
    return made


def identity(told: dict[str, Any]) -> Any:
    return import_stock("p2p_pb2").SourceIdentity(**told["identity"])


def client(told: dict[str, Any]) -> Any:
    return import_stock("client").MxClient(server_url=told["server"])


def until_told() -> None:
    sys.stdin.read()


def source(told: dict[str, Any]) -> None:
    """Register and publish as an engine does after loading; `through_server` is MX_P2P_METADATA=0."""
    os.environ["MX_P2P_METADATA"] = "0" if told.get("through_server") else "1"
    tensors = tensors_of(told, filled=True)
    nixl = manager("source", told["port"])
    nixl.register_tensors(tensors)
    publish = import_stock("metadata.publish")
    mx_client = client(told)
    publish.publish_metadata_and_ready(
        mx_client,
        nixl,
        tensors,
        worker_rank=told.get("rank", 0),
        device_id=0,
        identity=identity(told),
        worker_id=told["worker_id"],
        accelerator=told.get("accelerator", "cpu"),
    )
    say(agent=nixl.agent_name)
    for line in sys.stdin:
        if line.strip() == "overwrite":
            for tensor in tensors.values():
                memory(tensor)[:] = bytes(tensor.numel() * tensor.element_size())
            say(done=True)


class Adapter:
    """As much of an engine's adapter as its RDMA strategy asks for."""

    def __init__(self, tensors: dict[str, Any], exact: bool) -> None:
        self._tensors = tensors
        self._exact = exact

    def discover_tensors(self, result: Any) -> dict[str, Any]:
        return self._tensors

    def requires_exact_tensor_catalog(self) -> bool:
        return self._exact

    def _same(self, result: Any) -> Any:
        return result

    prepare_rdma_target = before_rdma_receive = after_rdma_receive = reinit_for_retry = _same


def reader(told: dict[str, Any]) -> None:
    """Load by the stock package's own RDMA strategy."""
    tensors = tensors_of(told, filled=False)
    contexts = import_stock("load_strategy.context")
    strategies = import_stock("load_strategy.rdma_strategy")
    strategy = strategies.RdmaStrategy()
    strategy.requires_tensor_read_lease = bool(told.get("lease"))
    mx_client = client(told)
    if told.get("lease"):
        mx_client.worker_rpc_retry_policy = lambda: (0, 0.0)
    context = contexts.LoadContext(
        model_config=SimpleNamespace(),
        load_config=None,
        target_device=None,
        global_rank=0,
        worker_rank=told.get("rank", 0),
        local_rank=0,
        device_id=0,
        identity=identity(told),
        mx_client=mx_client,
        worker_id="stock-reader",
        adapter=Adapter(tensors, told.get("exact", True)),
        accelerator_backend=HostBackend(),
        nixl_manager=manager("target", told["port"]),
    )
    strategy.load(contexts.LoadResult(value=object(), model=object()), context)
    say(digests=digests(tensors))


def agent(told: dict[str, Any]) -> None:
    """An agent with a listener, and some memory; told another's name and where it listens, it fetches its metadata."""
    tensors = tensors_of({"tensors": {"w": (1, 4096, "torch.uint8")}}, filled=True)
    nixl = manager("agent", told["port"])
    blob = nixl.register_tensors(tensors)
    say(agent=nixl.agent_name, metadata=blob.hex())
    for line in sys.stdin:
        name, port = json.loads(line)
        try:
            nixl.fetch_remote_and_wait(name, "127.0.0.1", port, timeout_seconds=10.0)
            say(loaded=True)
        except TimeoutError:
            say(loaded=False)


def transfer_of(told: dict[str, Any]) -> Any:
    transfers = import_stock("metadata.artifact_transfer")
    roots = tuple(
        transfers.ArtifactCacheRoot(name=name, source_root=Path(path), target_root=Path(path))
        for name, path in told["roots"].items()
    )
    return transfers.TarredP2PArtifactTransfer(
        name="cache",
        mx_source_type=told["identity"]["mx_source_type"],
        roots=roots,
        bundle_root=Path(told["bundle"]),
        chunk_size=told.get("chunk_size"),
    )


def artifact_source(told: dict[str, Any]) -> None:
    transfers = import_stock("metadata.artifact_transfer")
    nixl = manager("artifact", told["port"])
    grpc_server = import_stock("metadata.worker_server").WorkerGrpcServer([], None, worker_id=told["worker_id"])
    grpc_server.start()
    transfer = transfer_of(told)
    bundle = transfer.prepare_source()
    nixl.refresh_agent_metadata()
    transfers.publish_artifact_source(
        client(told),
        transfer,
        bundle,
        identity(told),
        nixl,
        told["worker_id"],
        worker_grpc_server=grpc_server,
        host="127.0.0.1",
        accelerator=told.get("accelerator", "cuda"),
    )
    say(artifact_id=bundle.artifact_id, total=sum(file.size for file in bundle.manifest.files))
    until_told()


def artifact_reader(told: dict[str, Any]) -> None:
    transfer = transfer_of(told)
    nixl = manager("artifact", told["port"])
    header = transfer.discover_and_transfer(client(told), identity(told), nixl, node_rank=told.get("node_rank"))
    transfer.install(header)
    say(artifact_id=header.artifact_id)


ROLES = {each.__name__: each for each in (agent, source, reader, artifact_source, artifact_reader)}


def main() -> None:
    told = json.loads(sys.argv[1])
    TOLD.update(told)
    os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
    os.environ.setdefault("UCX_NET_DEVICES", "lo")
    if "server" in told:
        os.environ["MX_SERVER_ADDRESS"] = told["server"]
    os.environ["MX_WORKER_HOST"] = "127.0.0.1"
    os.environ["MX_WORKER_GRPC_PORT"] = "0"
    os.environ["MX_HEARTBEAT_INTERVAL_SECS"] = "1"
    status = 0
    try:
        ROLES[told["role"]](told)
    except BaseException as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {error}")
        status = 1
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
