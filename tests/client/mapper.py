"""A process for tests that holds weights in shared memory, its own or pulled, until stdin ends.

Run by path with one argument, a JSON object: `server`, `model`, `bytes` (publish so many), or none of these last (pull, and publish on).
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from peerload import AsyncClient, shared_memory


def resident() -> int:
    """This process's share of the shared memory that it has mapped, in bytes."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Shmem:"):
            return int(line.split()[1]) * 1024
    raise LookupError("the kernel does not tell of shared memory apart")


async def main(told: dict[str, Any]) -> None:
    async with AsyncClient(told["server"]) as client:
        if "bytes" in told:
            memory = shared_memory(told["bytes"])
            array = np.frombuffer(memory, "u4")
            array[:] = np.arange(array.size, dtype="u4")
            source = await client.publish({"w": array}, model=told["model"])
        else:
            weights = await client.pull(told["model"], framework="np", publish=True)
            array = weights["w"]
            assert weights.source is not None
            source = weights.source
        print(json.dumps({"addresses": source.addresses, "sum": int(array.sum(dtype="u8"))}), flush=True)
        for line in iter(sys.stdin.readline, ""):
            if line.strip() == "write":
                array[: array.size // 2] += 1
            print(resident(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
