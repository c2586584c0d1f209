"""A bare handler: a front that gives the same bytes to every call of a method, and does nothing else.

    python -m bench.bare FRONT FILE

What is between it and a server is Peerload; what is below is the front, gRPC's framing and the kernel. FILE is pickled: by path, the answer.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from pathlib import Path

from peerload.server.calls import Calls
from peerload.server.front import Context, Front, UnaryMethod
from peerload.server.front_grpc import GrpcFront
from peerload.server.front_h2corn import H2cornFront

__all__ = ["main"]


def _answering(answer: bytes, large: bool) -> UnaryMethod:
    async def call(request: bytes, context: Context) -> bytes:
        return answer

    return UnaryMethod(call, large=large)


async def _serve(front: str, answers: dict[str, bytes]) -> None:
    methods = Calls().wrap(
        {path: _answering(answer, path.endswith("PublishMetadata")) for path, answer in answers.items()}
    )
    serving: Front = GrpcFront(methods) if front == "grpc" else H2cornFront(methods)
    print(await serving.start("127.0.0.1:0"), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    asyncio.run(_serve(sys.argv[1], pickle.loads(Path(sys.argv[2]).read_bytes())))


if __name__ == "__main__":
    main()
