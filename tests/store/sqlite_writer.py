"""A process that writes to a store and says, line by line, what was acknowledged. It is killed from outside.

Usage: python sqlite_writer.py PATH NAME
"""

from __future__ import annotations

import asyncio
import json
import sys

from peerload.clock import SystemClock
from peerload.store.base import Beat, Touch
from peerload.store.sqlite import SqliteStore


def blob_of(key: str, n: int) -> bytes:
    return f"{key}:{n};".encode() * (1 + n * 37 % 4_000)


async def main(path: str, name: str) -> None:
    store = SqliteStore(path, SystemClock())
    await store.open()
    print(json.dumps(["open"]), flush=True)

    async def write(writer: int) -> None:
        key = f"{name}/{writer}"
        n = 0
        while True:
            n += 1
            if n % 5 == 4:
                revision = await store.delete(key)
                print(json.dumps(["delete", key, n, revision]), flush=True)
                continue
            print(json.dumps(["begin", key, n]), flush=True)
            written = await store.put(key, {"n": n}, blob=blob_of(key, n))
            print(json.dumps(["put", key, n, written.revision]), flush=True)
            await store.touch([Touch(key, written.generation, Beat(n))])
            print(json.dumps(["touch", key, n, written.generation]), flush=True)

    await asyncio.gather(*(write(writer) for writer in range(4)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
