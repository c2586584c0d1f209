"""What an engine tells its suite, and what the suite's tests share."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
import xxhash

from peerload.engines.base import Descriptor, Engine, Exporter, Importer, Job, JobState, Progress, Range, Region
from peerload.engines.shared import allocate_arena
from peerload.plugins import open_engine
from peerload.testing.engine_process import until

__all__ = ["MANY", "MARK", "MIB", "SLOW", "SuiteBase", "digest", "end", "midway", "whole"]

MIB = 1024 * 1024
SLOW = 4 * MIB
"""Bytes a second at which a read of `BIG` is still far from its end when its first bytes have been seen."""
BIG = [8 * MIB, 8 * MIB, 40 * MIB]
MANY = [(index * 7919) % 20_011 for index in range(3_000)]
"""Many small sizes, zero among them."""
MARK = 0xA5


def digest(data: bytes | bytearray | memoryview | mmap.mmap) -> bytes:
    """As engines compute it."""
    return xxhash.xxh3_128_digest(data)


def whole(sizes: Sequence[int]) -> list[Range]:
    """Ranges for all of each region."""
    return [Range(index, 0, size) for index, size in enumerate(sizes)]


def end(job: Job) -> Progress:
    """Wait for a job's end."""
    until(lambda: job.wait(0.5).state is not JobState.RUNNING, "the end of a job")
    return job.poll()


def midway(job: Job) -> None:
    """Wait until some bytes of a job have arrived."""
    until(lambda: job.wait(0.02).bytes_done > 0, "the first bytes of a job")
    assert job.poll().state is JobState.RUNNING, "the source was slowed down, and yet the read is over"


class SuiteBase:
    """Hooks that an engine's test class overrides."""

    engine: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    """For `open_engine`, in every test."""
    host: ClassVar[str] = "127.0.0.1"
    copies_memory: ClassVar[bool] = False
    """Whether `publish` copies memory that `allocate` did not give: what is written there later is then not read."""

    sealed: ClassVar[bool] = False
    """Whether the engine serves no memory but that which it can seal, and files; what is written to sealed memory afterwards is seen
    by no reader."""

    def slow(self, bytes_per_second: int) -> dict[str, Any]:
        """Settings under which a source sends no faster than that."""
        raise NotImplementedError

    def impatient(self, seconds: float) -> dict[str, Any]:
        """Settings under which a reader gives up after so many seconds without a byte."""
        raise NotImplementedError

    def open(self, **settings: Any) -> Engine:
        """The engine, with settings on top of its own."""
        return open_engine(self.engine, **{**self.settings, **settings})

    @pytest.fixture
    def tidy(self) -> Iterator[ExitStack]:
        """Closes what tests opened, last first."""
        with ExitStack() as stack:
            yield stack

    def exporter(self, tidy: ExitStack, **settings: Any) -> Exporter:
        """A source in this process."""
        exporter = self.open(**settings).exporter(self.host)
        tidy.callback(exporter.close)
        return exporter

    def importer(self, tidy: ExitStack, **settings: Any) -> Importer:
        """A target in this process."""
        importer = self.open(**settings).importer()
        tidy.callback(importer.close)
        return importer

    def regions(self, data: Sequence[bytes | bytearray | memoryview]) -> list[Region]:
        """Regions of that memory; for an engine that seals it, of a copy."""
        if not self.sealed:
            return [Region(memoryview(each)) for each in data]
        arena = allocate_arena(sum(len(each) for each in data) or 1)
        views = []
        at = 0
        for each in data:
            view = arena[at : at + len(each)]
            view[:] = each
            views.append(Region(view))
            at += len(each)
        return views

    def other_descriptors(self, good: Descriptor) -> list[bytes]:
        """Descriptor data of this engine that some peer might have made up. Beyond these the suite tries random bytes."""
        return []
