"""A process that publishes or reads through an engine and does as it is told: the other side in engine tests.

    python -m peerload.testing.engine_worker ENGINE SETTINGS

SETTINGS is a JSON object for `open_engine`. Orders come as lines of JSON on standard input, {"do": NAME, ...}; each is
answered by one line on standard output, {"ok": ...} or {"error": kind, "message": ..., "retryable": ...}. At the end of
its input, or told to "leave", the process returns from main without closing anything: what an engine leaves behind is its
own to tidy up. `peerload.testing.engine_process.EngineProcess` is the handle for it.
"""

from __future__ import annotations

import base64
import json
import mmap
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from peerload.engines.base import (
    Descriptor,
    Exporter,
    Importer,
    Job,
    JobState,
    MappingReader,
    Publication,
    Range,
    Reader,
    Region,
)
from peerload.engines.shared import allocate_arena
from peerload.errors import InvalidArgument, PeerloadError, TransferFailed
from peerload.plugins import open_engine

__all__ = ["Worker", "content", "describe", "main", "undescribe"]


def content(seed: int, sizes: Sequence[int]) -> list[bytes]:
    """Regions of those sizes; the same seed gives the same bytes in every process."""
    source = random.Random(seed)
    return [source.randbytes(size) for size in sizes]


def describe(descriptor: Descriptor) -> list[str]:
    """A descriptor as JSON can hold it."""
    return [descriptor.engine, descriptor.address, base64.b64encode(descriptor.data).decode("ascii")]


def undescribe(parts: Sequence[str]) -> Descriptor:
    """The descriptor that `describe` told of."""
    engine, address, data = parts
    return Descriptor(engine, address, base64.b64decode(data))


class Worker:
    """The orders, one method each, and what they made. Publications and jobs are named by their number."""

    def __init__(self, engine: str, settings: dict[str, Any]) -> None:
        self._engine = open_engine(engine, **settings)
        self._exporter: Exporter | None = None
        self._importer: Importer | None = None
        self._published: list[tuple[Publication, bytearray | mmap.mmap | memoryview]] = []
        self._reader: Reader | None = None
        self._open_to: list[str] = []
        self._jobs: list[tuple[Job, list[memoryview]]] = []
        self._mapped: Sequence[memoryview] = ()

    def publish(
        self, seed: int, sizes: list[int], path: str | None = None, host: str = "127.0.0.1", shared: bool = False
    ) -> dict[str, Any]:
        """Publish `content(seed, sizes)`, from memory (`shared` or not) or, given a path, from a read-only mapping of that
        file."""
        if self._exporter is None:
            self._exporter = self._engine.exporter(host)
        whole = b"".join(content(seed, sizes))
        memory: bytearray | mmap.mmap | memoryview = bytearray(whole)
        if shared:
            memory = allocate_arena(len(whole) or 1, f"peerload test {len(self._published)}")
            memory[:] = whole or b"\0"
        if path is not None:
            Path(path).write_bytes(whole)
            with Path(path).open("rb") as file:
                memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        at, views = 0, []
        with memoryview(memory) as view:
            for size in sizes:
                views.append(view[at : at + size])
                at += size
            publication = self._exporter.publish([Region(each) for each in views])
            for each in views:
                each.release()
        self._published.append((publication, memory))
        return {"descriptor": describe(publication.descriptor)}

    def overwrite(self, publication: int, seed: int) -> None:
        """Put other bytes into published memory, as no source may."""
        memory = self._published[publication][1]
        memory[:] = content(seed, [len(memory)])[0]

    def retire(self, publication: int, grace: float = 0.0) -> None:
        """Retire."""
        if self._exporter is not None:
            self._exporter.retire(self._published[publication][0], grace=grace)

    def free(self, publication: int) -> None:
        """Unmap or resize the memory of a retired publication: fails if anything still holds on to it."""
        published, memory = self._published[publication]
        if isinstance(memory, memoryview):
            del memory
            self._published[publication] = published, bytearray()
            if f"peerload test {publication} " in Path("/proc/self/maps").read_text():
                raise BufferError("the memory is still mapped")
        elif isinstance(memory, mmap.mmap):
            memory.close()
        else:
            memory.clear()

    def load(self) -> float:
        """The exporter's load."""
        return self._exporter.load() if self._exporter else 0.0

    def usage(self) -> dict[str, int]:
        """What this process holds: descriptors, threads, resident bytes."""
        status = Path("/proc/self/statm").read_text().split()
        return {
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "threads": threading.active_count(),
            "resident": int(status[1]) * mmap.PAGESIZE,
        }

    def read(self, descriptor: list[str], ranges: list[list[int]], deadline: float) -> int:
        """Start to read (region, offset, length) each, into memory of the engine's; the number of the job."""
        if self._importer is None:
            self._importer = self._engine.importer()
        if self._reader is None or descriptor != self._open_to:
            if self._reader is not None:
                self._reader.close()
            self._reader = self._importer.open(undescribe(descriptor))
            self._open_to = descriptor
        memory = [self._importer.allocate(length) for _, _, length in ranges]
        job = self._reader.read([Range(*each) for each in ranges], memory, deadline=deadline)
        self._jobs.append((job, memory))
        return len(self._jobs) - 1

    def map(self, descriptor: list[str], deadline: float) -> list[str]:
        """Map all regions, and keep them; the digests of what is there."""
        if self._importer is None:
            self._importer = self._engine.importer()
        reader = self._importer.open(undescribe(descriptor))
        if not isinstance(reader, MappingReader):
            raise InvalidArgument("engine", "does not map")
        self._mapped = reader.map(deadline=deadline) or ()
        return [xxhash.xxh3_128_hexdigest(view) for view in self._mapped]

    def begun(self, job: int) -> int:
        """Wait until some of it has arrived; how many bytes."""
        while not (progress := self._jobs[job][0].poll()).bytes_done and progress.state is JobState.RUNNING:
            self._jobs[job][0].wait(0.02)
        return progress.bytes_done

    def ended(self, job: int) -> dict[str, Any]:
        """Wait for its end; how it ended, and digests: those told by the engine, those of the memory as it is."""
        running, memory = self._jobs[job]
        while (progress := running.poll()).state is JobState.RUNNING:
            running.wait(1.0)
        told = [[index, digest.hex() if digest else None] for index, digest in running.completed()]
        found = [xxhash.xxh3_128_hexdigest(view) for view in memory]
        return {"state": progress.state.value, "reason": progress.reason, "told": told, "found": found}

    def try_read(self, descriptor: list[str], ranges: list[list[int]], deadline: float) -> dict[str, Any]:
        """`read`, from a source that may be gone: the `job`, or why it was `refused`."""
        try:
            return {"job": self.read(descriptor, ranges, deadline)}
        except TransferFailed as error:
            return {"refused": str(error)}

    def try_map(self, descriptor: list[str], deadline: float) -> dict[str, Any]:
        """`map`, from a source that may be gone: as `ended` tells of a job."""
        try:
            return {"state": "done", "reason": "", "found": self.map(descriptor, deadline)}
        except TransferFailed as error:
            return {"state": "failed", "reason": str(error), "found": []}

    def abandon(self, job: int) -> None:
        """Abandon it, and put a mark all over its destinations."""
        running, memory = self._jobs[job]
        running.abandon()
        for view in memory:
            view[:] = b"\xa5" * len(view)

    def untouched(self, job: int) -> bool:
        """Whether the marks are all there still."""
        return all(view == b"\xa5" * len(view) for view in self._jobs[job][1])

    def forget(self, job: int) -> None:
        """Let go of its destinations."""
        self._jobs[job] = self._jobs[job][0], []

    def close(self) -> None:
        """Close both sides, twice."""
        for side in (self._importer, self._exporter) * 2:
            if side is not None:
                side.close()


def main() -> None:
    """Do as told until the input ends."""
    worker = Worker(sys.argv[1], json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    # Whatever a library prints is no answer.
    os.dup2(2, 1)
    with answers:
        for line in sys.stdin:
            order = json.loads(line)
            name = order.pop("do")
            if name == "leave":
                return
            do: Callable[..., Any] = getattr(worker, name)
            answer: dict[str, Any]
            try:
                answer = {"ok": do(**order)}
            except (PeerloadError, BufferError) as error:
                retryable = error.retryable if isinstance(error, TransferFailed) else None
                answer = {"error": type(error).__name__, "message": str(error), "retryable": retryable}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
