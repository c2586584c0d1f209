"""How fast weights are there that source and target on one host have in common, beside bare mmap in the same run.

    python bench/mapped.py [--rounds 5] [--mib 1024] [--json]

Three shapes of the same size, as in engines.py. Bare is what cannot be avoided: one mmap of the memfd, and the digest of each
tensor where it lies, on the client's threads. The engine's figures begin with its connecting; the pulls' are those of
`AsyncClient.pull`, from asking the server to the arrays that it gives back, with everything verified. Each figure is the median of the
rounds, which alternate; every round begins with a mapping that was never touched.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from multiprocessing.connection import Connection

import numpy as np

from bench.rows.engines import content, shapes
from peerload import AsyncClient, ClientSettings, shared_memory
from peerload.client.digests import digest_all
from peerload.engines.base import Descriptor, MappingReader, Region
from peerload.engines.shared import shared_place
from peerload.plugins import open_engine
from peerload.server.app import Server
from peerload.server.settings import Settings


def cut(memory: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """The memory in pieces of those sizes, one after the other."""
    return [memory[start : start + size] for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False)]


def serve(pipe: Connection, total: int) -> None:
    """The source process: the shapes of one memory by the engine, and as models by a client."""
    asyncio.run(_serve(pipe, total))


async def _serve(pipe: Connection, total: int) -> None:
    memory = shared_memory(total)
    memory[:] = content(total)
    place = shared_place(memory)
    assert place is not None
    exporter = open_engine("memfd").exporter("127.0.0.1")
    descriptors = {
        name: exporter.publish([Region(view) for view in cut(memory, sizes)]).descriptor
        for name, sizes in shapes(total).items()
    }
    async with Server(Settings(listen="127.0.0.1:0", store="memory:", metrics="off", drain_delay=0.0)) as server:
        async with AsyncClient(server.address) as client:
            for name, sizes in shapes(total).items():
                arrays = {str(index): np.frombuffer(view, "u1") for index, view in enumerate(cut(memory, sizes))}
                await client.publish(arrays, model=name)
            pipe.send((os.getpid(), place.fd, descriptors, server.address))
            await asyncio.to_thread(pipe.recv)


def bare(pid: int, fd: int, sizes: Sequence[int]) -> float:
    """Seconds to map and digest."""
    opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY)
    start = time.perf_counter()
    mapping = mmap.mmap(opened, sum(sizes), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    digest_all(cut(memoryview(mapping), sizes))
    seconds = time.perf_counter() - start
    os.close(opened)
    return seconds


def mapped(descriptor: Descriptor) -> float:
    """Seconds to connect, map and digest by the engine."""
    importer = open_engine("memfd").importer()
    start = time.perf_counter()
    reader = importer.open(descriptor)
    assert isinstance(reader, MappingReader)
    views = reader.map(deadline=60)
    assert views is not None
    digest_all(views)
    seconds = time.perf_counter() - start
    importer.close()
    return seconds


async def pulled(address: str, name: str, how: dict[str, bool]) -> float:
    """Seconds for a whole pull."""
    async with AsyncClient(address, settings=ClientSettings(engines=("memfd",))) as client:
        start = time.perf_counter()
        weights = await client.pull(name, framework="np", **how)  # type: ignore[call-overload]
        seconds = time.perf_counter() - start
        assert len(weights) == weights.report.verified.items
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    total = options.mib << 20
    here, there = multiprocessing.Pipe()
    source = multiprocessing.get_context("spawn").Process(target=serve, args=(there, total))
    source.start()
    figures: dict[str, dict[str, list[float]]] = {}
    try:
        pid, fd, descriptors, address = here.recv()
        for number in range(options.rounds + 1):
            for name, sizes in shapes(total).items():
                taken = {
                    "bare mmap and digest": bare(pid, fd, sizes),
                    "memfd, mapped and digested": mapped(descriptors[name]),
                    "pull": asyncio.run(pulled(address, name, {})),
                    "pull, copied": asyncio.run(pulled(address, name, {"mapped": False})),
                }
                if number:  # The first round warmed everything up.
                    for what, each in taken.items():
                        figures.setdefault(name, {}).setdefault(what, []).append(each)
        here.send("end")
    finally:
        source.join(10)
        if source.is_alive():
            source.kill()
            source.join()
    result = {name: {what: statistics.median(each) for what, each in rows.items()} for name, rows in figures.items()}
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    for name, rows in result.items():
        for what, seconds in rows.items():
            of_bare = rows["bare mmap and digest"] / seconds
            print(
                f"{name:>7} tensors, {what:28} {seconds * 1e3:8.1f} ms {total / seconds / 1e9:6.1f} GB/s {of_bare:5.0%} of bare"
            )


if __name__ == "__main__":
    main()
