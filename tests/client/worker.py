"""A worker for tests, as a process of its own: publishes what it is told to, says so, and serves until stdin ends.

Run by path with one argument, a JSON object. `tensors` maps names to [seed, bytes]; `rate` caps what it sends a second.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from peerload import AsyncClient


def content(seed: int, size: int) -> bytes:
    """The bytes that a seed stands for."""
    return random.Random(seed).randbytes(size)


async def main(told: dict[str, Any]) -> None:
    tensors = {name: content(*spec) for name, spec in told["tensors"].items()}
    tcp = {"max_bytes_per_second": told["rate"]} if told.get("rate") else {}
    async with AsyncClient(told["server"], topology=told.get("topology"), engine_settings={"tcp": tcp}) as client:
        async with client.publish(tensors, model=told["model"], digests=told.get("digests", True)) as source:
            print(source.worker_id, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
