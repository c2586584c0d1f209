"""How fast engines move bytes between two processes on this machine, beside raw sockets in the same run.

Three shapes of the same size: 4 tensors, 20,000 tensors, and 291 of a real model's proportions. Raw sockets are 1 and 2
connections over which the source pushes the same bytes, 1 MiB a call, into memory that was touched before, with no
protocol and no digest; the better of the two counts. The engine's figures include its requests and digests; what arrived
is compared with the source once, outside the time taken. The rounds alternate. The CPU seconds of both processes together tell what
the figures would be on a machine that has nothing else to do: moving bytes over loopback is bound by them.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from multiprocessing.connection import Connection

import psutil
import xxhash

from bench.figures import Figure
from bench.processes import spawned
from bench.setting import Setting
from peerload.engines.base import Descriptor, Importer, JobState, Range, Region
from peerload.engines.pieces import Pieces
from peerload.plugins import open_engine

__all__ = ["content", "cut", "measure", "pieces", "shapes"]

ENGINES = ("tcp",)
"""Those that move bytes and need no other package."""
GOAL = 0.8
PIECE = 1024 * 1024


def shapes(total: int) -> dict[str, list[int]]:
    """Tensor sizes by the name of the shape, together `total` bytes each."""
    # 36 layers of large projections and tiny norms, an embedding: 1 + 36 * 8 + 2 tensors.
    layer = [40, 1, 1, 24, 24, 24, 12, 1]
    model = [600, *(layer * 36), 1, 1]
    unit = total // sum(model)
    real = [unit * part for part in model]
    real[0] += total - sum(real)
    return {"4": [total // 4] * 4, "20,000": [total // 20_000] * 20_000, "291": real}


def content(total: int) -> memoryview:
    """Bytes that differ from page to page."""
    block = b"".join(xxhash.xxh3_128_digest(i.to_bytes(8, "little")) for i in range(65_521))
    return memoryview((block * (total // len(block) + 1))[:total])


def cut(memory: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """The memory in pieces of those sizes, one after the other."""
    views, at = [], 0
    for size in sizes:
        views.append(memory[at : at + size])
        at += size
    return views


def pieces(memory: memoryview, sizes: Sequence[int]) -> Pieces:
    """The same as destinations, as a pull names them."""
    starts = list(accumulate(sizes, initial=0))
    return Pieces([memory], [(0, start) for start in starts[:-1]], sizes)


def serve(pipe: Connection, engine_name: str, total: int) -> None:
    """The source process."""
    memory = content(total)
    exporter = open_engine(engine_name).exporter("127.0.0.1")
    listening = socket.create_server(("127.0.0.1", 0))
    pipe.send(
        (
            {
                name: exporter.publish([Region(view) for view in cut(memory, sizes)]).descriptor
                for name, sizes in shapes(total).items()
            },
            listening.getsockname()[1],
        )
    )

    def push(sock: socket.socket, part: memoryview) -> None:
        with sock:
            for at in range(0, len(part), PIECE):
                sock.sendall(part[at : at + PIECE])
            sock.recv(1)

    while pipe.recv() == "push":
        count = pipe.recv()
        each = total // count
        threads = []
        for index in range(count):
            sock, _ = listening.accept()
            threads.append(threading.Thread(target=push, args=(sock, memory[index * each : (index + 1) * each])))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    exporter.close()


def raw(pipe: Connection, port: int, count: int, memory: memoryview) -> float:
    """GB/s of raw sockets."""
    pipe.send("push")
    pipe.send(count)
    each = len(memory) // count
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]

    def pull(sock: socket.socket, part: memoryview) -> None:
        done = 0
        while done < len(part):
            done += sock.recv_into(part[done : done + PIECE], 0, socket.MSG_WAITALL)

    threads = [
        threading.Thread(target=pull, args=(sock, memory[index * each : (index + 1) * each]))
        for index, sock in enumerate(socks)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    for sock in socks:
        sock.close()
    return each * count / seconds / 1e9


def cpu_seconds(*processes: psutil.Process) -> float:
    """What they have used so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def pull(importer: Importer, descriptor: Descriptor, ranges: Sequence[Range], destinations: Pieces) -> float:
    """GB/s of one read with a new reader, its connecting included."""
    reader = importer.open(descriptor)
    start = time.perf_counter()
    job = reader.read(ranges, destinations, deadline=120)
    digests = 0
    while (progress := job.poll()).state is JobState.RUNNING:
        job.wait(1)
        digests += len(job.completed())
    seconds = time.perf_counter() - start
    digests += len(job.completed())
    reader.close()
    if progress.state is not JobState.DONE or digests != len(ranges):
        raise RuntimeError(f"the read failed: {progress}")
    return sum(each.length for each in ranges) / seconds / 1e9


def _measured(engine_name: str, total: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """All figures, by what was measured."""
    with (
        spawned(serve, engine_name, total) as source,
        contextlib.closing(open_engine(engine_name).importer()) as importer,
    ):
        here = source.pipe
        descriptors, port = here.recv()
        memory = importer.allocate(total)
        expected = content(total)
        both = psutil.Process(), psutil.Process(source.pid)
        figures: dict[str, list[tuple[float, float]]] = {}

        def note(name: str, move: Callable[[], float]) -> None:
            before = cpu_seconds(*both)
            speed = move()
            figures.setdefault(name, []).append((speed, cpu_seconds(*both) - before))

        for number in range(rounds + 1):
            for count in (1, 2):
                note(f"raw, {count} connections", lambda count=count: raw(here, port, count, memory))  # type: ignore[misc]
            for name, sizes in shapes(total).items():
                ranges = [Range(index, 0, size) for index, size in enumerate(sizes)]
                if not number:
                    memory[:] = bytes(total)
                views = pieces(memory, sizes)
                note(
                    f"{engine_name}, {name} tensors",
                    lambda name=name, ranges=ranges, views=views: pull(importer, descriptors[name], ranges, views),  # type: ignore[misc]
                )
                if not number and memory[: sum(sizes)] != expected[: sum(sizes)]:
                    raise RuntimeError(f"shape {name}: what arrived is not what was published")
        here.send("end")
    # The first round warmed everything up.
    return {name: every[1:] for name, every in figures.items()}


def measure(setting: Setting) -> Iterator[Figure]:
    """As GB/s, and as processor time."""
    for engine in ENGINES:
        told = _measured(engine, setting.mib << 20, setting.rounds)
        medians = {name: [statistics.median(each) for each in zip(*every, strict=True)] for name, every in told.items()}
        raws = [median for name, median in medians.items() if name.startswith("raw")]
        fastest, leanest = max(speed for speed, _ in raws), min(cpu for _, cpu in raws)
        for name, (speed, cpu) in medians.items():
            ours = name.startswith(engine)
            yield Figure(
                row="engines",
                case=name if ours else f"{name} (beside {engine})",
                unit="GB/s",
                value=speed,
                bound=fastest if ours else None,
                bounded_by="raw sockets",
                goal=GOAL if ours else None,
                rounds=tuple(each for each, _ in told[name]),
                more={"CPU s": cpu, "of raw by CPU": leanest / cpu},
            )
