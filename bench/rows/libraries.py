"""What supervised children cost: the engines nixl and mooncake beside a bare read with their libraries, in the same run.

The shapes are those of the row `engines`. A bare read is one process that reads another's memory with the library alone: no digest, no
limits, nobody who would survive its crash; all its requests made ready inside the time taken, as ours are. It is done alone, and while
another process digests as many bytes: that is the same work as ours, whose digests are computed by another process than its copies, and what
bounds it. What the digests take from the library, the memory's bandwidth and a core, shows in the difference of the two. All read from memfds
into memfds that were touched before; what arrived is compared once, outside the time. The rounds alternate, and whoever has nothing to do
sleeps. The CPU seconds are of all the processes that take part.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil
import xxhash

from bench.figures import Figure
from bench.processes import spawned
from bench.rows.engines import content, cut, pieces, shapes
from bench.setting import Setting
from peerload.engines.base import JobState, Range, Region
from peerload.engines.nixl.settings import NixlSettings
from peerload.engines.shared import address_of, allocate_shared
from peerload.plugins import open_engine

HOST = "127.0.0.1"
LIBRARIES = ("nixl", "mooncake")
GOAL = 0.9


class BareNixl:
    """One agent."""

    def __init__(self, memory: memoryview) -> None:
        os.environ.update(NixlSettings().environment(HOST))
        import numpy as np

        from peerload.engines.nixl.library import library

        nixl_agent, nixl_agent_config = library().nixl_agent, library().nixl_agent_config

        self._np = np
        self._agent = nixl_agent(f"bare-{os.getpid()}", nixl_agent_config(enable_prog_thread=False, backends=["UCX"]))
        self._agent.register_memory(self._rows([(address_of(memory), memory.nbytes)]), "DRAM")
        self._peer = ""

    def told(self) -> Any:
        return self._agent.get_agent_metadata()

    def serve(self) -> None:
        self._agent.get_new_notifs()
        time.sleep(0.0005)

    def meet(self, told: Any) -> None:
        self._peer = self._agent.add_remote_agent(told)

    def read(self, theirs: list[tuple[int, int]], ours: list[tuple[int, int]]) -> None:
        local = self._agent.get_xfer_descs(self._rows(ours), "DRAM")
        remote = self._agent.get_xfer_descs(self._rows(theirs), "DRAM")
        handle = self._agent.initialize_xfer("READ", local, remote, self._peer)
        state = self._agent.transfer(handle)
        while state == "PROC":
            time.sleep(0.0002)
            state = self._agent.check_xfer_state(handle)
        if state != "DONE":
            raise RuntimeError(f"the bare read ended in state {state}")
        handle.release()

    def _rows(self, spans: list[tuple[int, int]]) -> Any:
        table = self._np.zeros((len(spans), 3), dtype=self._np.uint64)
        table[:, :2] = spans
        return table


class BareMooncake:
    """One engine."""

    def __init__(self, memory: memoryview) -> None:
        os.environ["MC_LOG_LEVEL"] = "ERROR"
        from mooncake.engine import TransferEngine

        self._engine = TransferEngine()
        self._check(self._engine.initialize(HOST, "P2PHANDSHAKE", "tcp", ""))
        self._check(self._engine.register_memory(address_of(memory), memory.nbytes))
        self._peer = ""

    def told(self) -> Any:
        return f"{HOST}:{self._engine.get_rpc_port()}"

    def serve(self) -> None:
        time.sleep(0.05)

    def meet(self, told: Any) -> None:
        self._peer = told

    def read(self, theirs: list[tuple[int, int]], ours: list[tuple[int, int]]) -> None:
        sources, places, lengths = [at for at, _ in theirs], [at for at, _ in ours], [size for _, size in ours]
        for at in range(0, len(lengths), 1024):
            some = slice(at, at + 1024)
            self._check(self._engine.batch_transfer_sync_read(self._peer, places[some], sources[some], lengths[some]))

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"Mooncake says {status}")


BARE: dict[str, Callable[[memoryview], BareNixl | BareMooncake]] = {"nixl": BareNixl, "mooncake": BareMooncake}


def filled(total: int) -> memoryview:
    """Shared memory with the content."""
    memory = allocate_shared(total)
    memory[:] = content(total)
    return memory


def bare_source(pipe: Connection, engine: str, total: int) -> None:
    """Serves when told to, until told not to."""
    memory = filled(total)
    bare = BARE[engine](memory)
    pipe.send((bare.told(), address_of(memory)))
    while pipe.recv() is not None:
        while not pipe.poll(0):
            bare.serve()
        pipe.recv()
    os._exit(0)


def bare_target(pipe: Connection, engine: str, total: int) -> None:
    """Reads a shape when told to; answers with the seconds."""
    memory = allocate_shared(total)
    memory[:] = bytes(total)
    bare = BARE[engine](memory)
    told, theirs = pipe.recv()
    bare.meet(told)
    ours = address_of(memory)
    while (sizes := pipe.recv()) is not None:
        spans, at = [], 0
        for size in sizes:
            spans.append((at, size))
            at += size
        begin = time.perf_counter()
        bare.read([(theirs + at, size) for at, size in spans], [(ours + at, size) for at, size in spans])
        seconds = time.perf_counter() - begin
        pipe.send((seconds, memory[:at] == content(total)[:at] if pipe.recv() else True))
    os._exit(0)


def our_source(pipe: Connection, engine: str, total: int) -> None:
    """Publishes every shape."""
    memory = filled(total)
    exporter = open_engine(engine).exporter(HOST)
    regions = {name: [Region(view) for view in cut(memory, sizes)] for name, sizes in shapes(total).items()}
    pipe.send({name: exporter.publish(each).descriptor for name, each in regions.items()})
    pipe.recv()
    exporter.close()


def cpu_seconds(*pids: int) -> float:
    """Of those processes and all below them."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            total += times.user + times.system
    return total


@dataclass(frozen=True, slots=True)
class Round:
    """The same bytes moved in three ways: seconds, and seconds of processor time."""

    size: int
    bare: tuple[float, float]
    beside: tuple[float, float]
    """The bare read beside a digest."""
    ours: tuple[float, float]


def _measured(engine: str, total: int, rounds: int) -> dict[str, list[Round]]:
    """Figures by shape."""
    with (
        spawned(bare_source, engine, total) as source,
        spawned(bare_target, engine, total) as target,
        spawned(our_source, engine, total) as ours,
        contextlib.closing(open_engine(engine).importer()) as importer,
    ):
        target.pipe.send(source.pipe.recv())
        descriptors = ours.pipe.recv()
        memory = importer.allocate(total)
        memory[:] = bytes(total)

        def bare(sizes: list[int], *, digesting: bool, look: bool) -> tuple[float, float]:
            views = cut(memory, sizes)
            source.pipe.send("serve")
            before = cpu_seconds(source.pid, target.pid, os.getpid())
            begin = time.perf_counter()
            target.pipe.send(sizes)
            target.pipe.send(look)
            if digesting:
                for view in views:
                    xxhash.xxh3_128_digest(view)
            digested = time.perf_counter() - begin
            seconds, right = target.pipe.recv()
            cpu = cpu_seconds(source.pid, target.pid, os.getpid()) - before
            source.pipe.send("rest")
            if not right:
                raise RuntimeError("what the library read is not what was there")
            return max(seconds, digested) if digesting else seconds, cpu

        figures: dict[str, list[Round]] = {}
        for number in range(rounds + 1):
            for name, sizes in shapes(total).items():
                alone = bare(sizes, digesting=False, look=not number)
                beside = bare(sizes, digesting=True, look=False)
                ranges, views = [Range(index, 0, size) for index, size in enumerate(sizes)], pieces(memory, sizes)
                reader = importer.open(descriptors[name])
                before = cpu_seconds(ours.pid, os.getpid())
                begin = time.perf_counter()
                job = reader.read(ranges, views, deadline=600)
                while (progress := job.wait(10)).state is JobState.RUNNING:
                    job.completed()
                seconds = time.perf_counter() - begin
                cpu = cpu_seconds(ours.pid, os.getpid()) - before
                if progress.state is not JobState.DONE:
                    raise RuntimeError(f"shape {name}: {progress.reason}")
                if not number and memory[: sum(sizes)] != content(total)[: sum(sizes)]:
                    raise RuntimeError(f"shape {name}: what arrived is not what was published")
                figures.setdefault(name, []).append(Round(sum(sizes), alone, beside, (seconds, cpu)))
                # Readers stay open: a pull reads all of its batches with one.
        for each in (target, source, ours):
            each.pipe.send(None)
    return {name: every[1:] for name, every in figures.items()}


def measure(setting: Setting) -> Iterator[Figure]:
    """Of both."""
    for engine in LIBRARIES:
        for name, every in _measured(engine, setting.mib << 20, setting.rounds).items():
            size = every[0].size / 1e9
            bare, bare_cpu = (statistics.median(each) for each in zip(*(each.bare for each in every), strict=True))
            beside, beside_cpu = (
                statistics.median(each) for each in zip(*(each.beside for each in every), strict=True)
            )
            seconds, cpu = (statistics.median(each) for each in zip(*(each.ours for each in every), strict=True))
            yield Figure(
                row="libraries",
                case=f"{engine}, {name} tensors",
                unit="GB/s",
                value=size / seconds,
                bound=size / beside,
                bounded_by="the library's bare read beside a digest",
                goal=GOAL,
                rounds=tuple(size / each.ours[0] for each in every),
                more={
                    "without the digest": size / bare,
                    "of that": bare / seconds,
                    "CPU s": cpu,
                    "bound": beside_cpu,
                    "without": bare_cpu,
                },
            )
