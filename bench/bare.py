"""A bare handler: a front that gives the same bytes to every call of a method, and does nothing else.

    python -m bench.bare FRONT FILE [STORE]

What is between it and a server is Peerload; what is below is the front, gRPC's framing and the kernel. FILE is pickled: by path, the answer.

With a store it does of each publication what nobody can do without who keeps it: one protobuf parse, one compression, one write, each
where the call is, one after the other. Measured so, and not each by itself, they share caches, the interpreter and the disk as a
server's do.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from pathlib import Path

import structlog

from peerload.clock import SystemClock
from peerload.plugins import open_store
from peerload.server.calls import Calls
from peerload.server.fronts.front import Front
from peerload.server.fronts.grpc import GrpcFront
from peerload.server.fronts.h2corn import H2cornFront
from peerload.server.rpc import Context, UnaryMethod
from peerload.store.base import Beat, Scalar, Store
from peerload.wire import p2p_pb2

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["main"]

_LEVEL = 1


def _answering(answer: bytes, large: bool) -> UnaryMethod:
    async def call(request: bytes, context: Context) -> bytes:
        return answer

    return UnaryMethod(call, large=large)


def _keeping(answer: bytes, store: Store) -> UnaryMethod:
    async def call(request: bytes, context: Context) -> bytes:
        message = p2p_pb2.PublishMetadataRequest.FromString(request)
        # About what the server keeps in a value.
        value: dict[str, Scalar] = {
            "model": message.identity.model_name,
            "status": "READY",
            "accelerator": message.worker.accelerator,
            "item_count": 0,
            "total_size": 0,
            "endpoints": f"{message.worker.worker_grpc_endpoint},{message.worker.metadata_endpoint}",
            "published_at": store.now(),
            **{f"topology.{level}": place for level, place in message.worker.topology.items()},
        }
        key = f"source/{message.worker.worker_rank}/{message.worker_id}"
        await store.put(key, value, blob=zstd.compress(request, _LEVEL), beat=Beat(store.now()))
        return answer

    return UnaryMethod(call, large=True)


async def _serve(front: str, answers: dict[str, bytes], url: str) -> None:
    store = open_store(url, SystemClock()) if url else None
    if store is not None:
        await store.open()

    def method(path: str, answer: bytes) -> UnaryMethod:
        large = path.endswith("PublishMetadata")
        return _keeping(answer, store) if store is not None and large else _answering(answer, large)

    methods = Calls().wrap({path: method(path, answer) for path, answer in answers.items()})
    serving: Front = GrpcFront(methods) if front == "grpc" else H2cornFront(methods)
    print(await serving.start("127.0.0.1:0"), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    # What a store has to say is not to be taken for the address.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    front, file, *store = sys.argv[1:]
    asyncio.run(_serve(front, pickle.loads(Path(file).read_bytes()), *store or [""]))


if __name__ == "__main__":
    main()
