"""A pull, verified, beside what the engine alone takes for the same bytes; and the memory that it takes beside the weights."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import mmap
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from bench.figures import Figure, median
from bench.processes import spawned
from bench.rows.engines import content, cut, pieces, shapes
from bench.setting import Setting
from peerload import AsyncClient, ClientSettings, shared_memory
from peerload.client.digests import digest_all
from peerload.engines.base import Descriptor, JobState, Range, Region
from peerload.engines.shared import shared_place
from peerload.plugins import open_engine
from peerload.server.app import Server
from peerload.server.settings import Settings

__all__ = ["measure"]

_GOAL = 0.9
_MOST_PERCENT = 5.0
_ENGINES = {"tcp": "bare read", "memfd": "bare mmap and digest"}
_SMALL_BYTES = 4_096
_PAGE = 4_096
_WARM_TRIES = 3
_MANY = 20_000


@dataclass(frozen=True, slots=True)
class _Source:
    """What the source process tells."""

    pid: int
    fd: int
    """Of its memfd."""
    descriptors: dict[str, Descriptor]
    """By shape, for the engine alone."""
    address: str
    """Of the server, where each shape is a model's weights."""


class _Took(NamedTuple):
    """Seconds, and seconds of this process's processor time."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Self:
        return cls(time.perf_counter(), time.process_time())

    def until_now(self) -> _Took:
        """What has passed since."""
        return _Took(time.perf_counter() - self.wall, time.process_time() - self.cpu)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the target process tells of one shape: what bare reads and pulls took by turns, and bytes held at most beside the
    weights."""

    bares: list[_Took]
    pulls: list[_Took]
    beside: list[int]


def _shapes(total: int) -> dict[str, list[int]]:
    """Tensor sizes by what they are called here."""
    found = shapes(total)
    return {
        "4 large tensors": found["4"],
        f"{_MANY:,} tensors of 4 KiB": [_SMALL_BYTES] * min(_MANY, total // _SMALL_BYTES),
        "291 tensors as in a model": found["291"],
    }


def _serve(pipe: Connection, engine: str, total: int) -> None:
    asyncio.run(_served(pipe, engine, total))


async def _served(pipe: Connection, engine: str, total: int) -> None:
    """The source: the shapes of one memory by the engine alone, and as models by a client."""
    memory = shared_memory(total)
    memory[:] = content(total)
    place = shared_place(memory)
    assert place is not None
    exporter = open_engine(engine).exporter("127.0.0.1")
    cuts = {name: cut(memory, sizes) for name, sizes in _shapes(total).items()}
    descriptors = {name: exporter.publish([Region(view) for view in views]).descriptor for name, views in cuts.items()}
    settings = Settings(listen="127.0.0.1:0", store="memory:", metrics="off", drain_delay=0.0, log_level="warning")
    async with Server(settings) as server:
        async with AsyncClient(server.address, settings=ClientSettings(engines=(engine,))) as client:
            for name, views in cuts.items():
                await client.publish({str(at): np.frombuffer(view, "u1") for at, view in enumerate(views)}, model=name)
            pipe.send(_Source(os.getpid(), place.fd, descriptors, server.address))
            await asyncio.to_thread(pipe.recv)
    exporter.close()


def _settle() -> None:
    """Give back all memory that is of no use any more. A pull leaves cycles behind, and with them what it read into: whoever is measured
    next would find less free memory, and free that while he is measured."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _warm(engine: str, total: int) -> None:
    """Take memory of the kind that is read into, and give it back: whoever is measured next finds it as free as the one before.
    (Huge pages have to be put together first, which may take longer than the read.)"""
    _settle()
    importer = open_engine(engine).importer()
    for _ in range(_WARM_TRIES):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        importer.allocate(total)[::_PAGE] = bytes(-(-total // _PAGE))
        # Each page by itself: not all were put together yet.
        if resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < total // _PAGE // 16:
            break
    importer.close()


def _bare_read(source: _Source, engine: str, name: str, sizes: Sequence[int]) -> _Took:
    """To read by the engine alone, into memory that is new as a pull's is."""
    importer = open_engine(engine).importer()
    begun = _Took.now()
    memory = importer.allocate(sum(sizes))
    reader = importer.open(source.descriptors[name])
    job = reader.read([Range(at, 0, size) for at, size in enumerate(sizes)], pieces(memory, sizes), deadline=120)
    while (progress := job.poll()).state is JobState.RUNNING:
        job.wait(1)
        job.completed()
    took = begun.until_now()
    reader.close()
    importer.close()
    if progress.state is not JobState.DONE:
        raise RuntimeError(f"the bare read failed: {progress}")
    return took


def _bare_map(source: _Source, sizes: Sequence[int]) -> _Took:
    """To map and to digest, which cannot be avoided where nothing is copied."""
    opened = os.open(f"/proc/{source.pid}/fd/{source.fd}", os.O_RDONLY)
    begun = _Took.now()
    mapping = mmap.mmap(opened, sum(sizes), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    digest_all(cut(memoryview(mapping), sizes))
    took = begun.until_now()
    os.close(opened)
    return took


async def _pulled(source: _Source, engine: str, name: str) -> _Took:
    """From asking the server to the verified arrays."""
    async with AsyncClient(source.address, settings=ClientSettings(engines=(engine,))) as client:
        begun = _Took.now()
        weights = await client.pull(name, framework="np")
        took = begun.until_now()
        if len(weights) != weights.report.verified.items:
            raise RuntimeError("not everything was verified")
    return took


def _memory(kind: str) -> int:
    """`VmRSS`, what this process holds, or `VmHWM`, the most that it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def _pull(pipe: Connection, source: _Source, engine: str, total: int, rounds: int) -> None:
    """The target."""
    told: dict[str, _Told] = {}
    for name, sizes in _shapes(total).items():
        this = told[name] = _Told([], [], [])
        for number in range(rounds + 1):
            if engine == "memfd":
                bare = _bare_map(source, sizes)
            else:
                _warm(engine, sum(sizes))
                bare = _bare_read(source, engine, name, sizes)
                _warm(engine, sum(sizes))
            _settle()
            Path("/proc/self/clear_refs").write_text("5")  # The most is counted from now.
            before = _memory("VmRSS")
            pull = asyncio.run(_pulled(source, engine, name))
            if number:  # The first round warmed everything up.
                this.bares.append(bare)
                this.pulls.append(pull)
                this.beside.append(_memory("VmHWM") - before - sum(sizes))
    pipe.send(told)


def measure(setting: Setting) -> Iterator[Figure]:
    """Of a few large, many small and a model's tensors, over tcp and mapped."""
    total = setting.mib << 20
    for engine, bounded_by in _ENGINES.items():
        with spawned(_serve, engine, total) as serving:
            source = serving.pipe.recv()
            with spawned(_pull, source, engine, total, setting.rounds) as pulling:
                told: dict[str, _Told] = pulling.pipe.recv()
            serving.pipe.send(None)
        for name, sizes in _shapes(total).items():
            this = told[name]
            rates = tuple(sum(sizes) / took.wall / 1e9 for took in this.pulls)
            yield Figure(
                row="pull",
                case=f"{engine}, {name}",
                unit="GB/s",
                value=median(rates),
                bound=sum(sizes) / median([took.wall for took in this.bares]) / 1e9,
                bounded_by=bounded_by,
                goal=_GOAL,
                rounds=rates,
                more={
                    "CPU ms": median([took.cpu for took in this.pulls]) * 1000,
                    "bare": median([took.cpu for took in this.bares]) * 1000,
                },
            )
            yield Figure(
                row="pull",
                case=f"{engine}, {name}: memory beside the weights",
                unit="%",
                less=True,
                value=max(0.0, median(this.beside) / sum(sizes) * 100),
                goal=_MOST_PERCENT,
            )
