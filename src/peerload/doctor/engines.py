"""The examination of an engine: real bytes, moved from another process to this one, checked, and timed."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import xxhash

from peerload.clock import Clock
from peerload.doctor.peer import SIZES
from peerload.engines.base import Descriptor, Importer, JobState, MappingReader, Range, Reader
from peerload.errors import MissingExtra, PeerloadError, TransferFailed
from peerload.finding import Finding, Level, worst
from peerload.plugins import engine_names, open_engine

__all__ = ["EngineReport", "examinable", "examine_engine"]

_ROUNDS: Final = 3
_SECONDS: Final = 20.0
"""For a source to start, and for one read."""
_OWN_PROCESS: Final = frozenset({"memory"})
"""Engines that reach nobody else's."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What was found about an engine."""

    name: str
    used: bool
    """Whether clients with these settings serve and read by it; only then is anything about it a problem."""
    works: bool
    bytes_per_second: float
    """Of the best of three reads, digests included; 0 where it does not work."""
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The level that matters most."""
        return worst(self.findings)


def examinable() -> list[str]:
    """The engines that are installed and can be examined, by name."""
    return [name for name in engine_names() if name not in _OWN_PROCESS]


def examine_engine(name: str, *, used: bool, clock: Clock, stop: threading.Event) -> EngineReport:
    """Start a source by that engine and read from it. Blocks, for seconds; ends soon after `stop` is set."""
    trouble = Level.PROBLEM if used else Level.WARNING
    try:
        engine = open_engine(name)
        with _source(name, stop) as (descriptor, digests):
            importer = engine.importer()
            try:
                best, findings = _reads(importer, descriptor, digests, clock, stop)
            finally:
                importer.close()
    except MissingExtra as error:
        advice = str(error).rpartition("not installed: ")[2]
        level = Level.PROBLEM if used else Level.OK
        return EngineReport(name, used, False, 0.0, (Finding(level, "it is not installed", advice),))
    except PeerloadError as error:
        advice = "mend that, or leave the engine out of PEERLOAD_ENGINES" if used else ""
        return EngineReport(name, used, False, 0.0, (Finding(trouble, f"it moves nothing here: {error}", advice),))
    return EngineReport(name, used, True, best, tuple(findings))


@contextlib.contextmanager
def _source(name: str, stop: threading.Event) -> Iterator[tuple[Descriptor, list[str]]]:
    """A source in another process: how to reach it, and the digests of what it serves."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "peerload.doctor.peer", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is this process's to handle.
    )
    try:
        answer = _answer(process, stop)
        if "missing" in answer:
            raise MissingExtra(*_parted(answer["missing"]))
        if "error" in answer:
            raise TransferFailed(answer["error"])
        data = base64.b64decode(answer["data"])
        yield Descriptor(answer["engine"], answer["address"], data), answer["digests"]
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _answer(process: subprocess.Popen[bytes], stop: threading.Event) -> dict[str, Any]:
    assert process.stdout is not None
    lines: list[bytes] = []
    out = process.stdout
    reader = threading.Thread(target=lambda: lines.append(out.readline()), daemon=True)
    reader.start()
    for _ in range(int(_SECONDS * 10)):
        reader.join(0.1)
        if not reader.is_alive() or stop.is_set():
            break
    if reader.is_alive():
        process.kill()
        reader.join()
        raise TransferFailed("stopped" if stop.is_set() else f"the source did not start within {_SECONDS:g} s")
    if not lines[0]:
        raise TransferFailed(f"the source ended with status {process.wait()}")
    answer: dict[str, Any] = json.loads(lines[0])
    return answer


def _parted(text: str) -> tuple[str, str]:
    """A `MissingExtra` as it was made, from its text."""
    feature, _, rest = text.partition(" needs packages")
    return feature, rest.partition("[")[2].partition("]")[0]


def _reads(
    importer: Importer, descriptor: Descriptor, digests: Sequence[str], clock: Clock, stop: threading.Event
) -> tuple[float, list[Finding]]:
    reader = importer.open(descriptor)
    try:
        total = sum(SIZES)
        memory = importer.allocate(total)
        views = [memory[start : start + size] for start, size in zip(accumulate(SIZES, initial=0), SIZES, strict=False)]
        seconds = []
        for _ in range(_ROUNDS):
            memory[:] = bytes(total)
            seconds.append(_timed(clock, lambda: _read(reader, views, stop)))
            if [xxhash.xxh3_128_hexdigest(view) for view in views] != digests:
                raise TransferFailed("it called a read done, and other bytes arrived")
        best = total / min(seconds)
        found = [Finding(Level.OK, f"{total >> 20} MiB between two processes at {_rate(best)} (best of {_ROUNDS})")]
        if isinstance(reader, MappingReader):
            found.append(_mapping(reader, digests, clock))
        return best, found
    finally:
        reader.close()


def _read(reader: Reader, views: Sequence[memoryview], stop: threading.Event) -> None:
    ranges = [Range(index, 0, size) for index, size in enumerate(SIZES)]
    job = reader.read(ranges, views, deadline=_SECONDS)
    try:
        while (progress := job.wait(0.1)).state is JobState.RUNNING:
            if stop.is_set():
                raise TransferFailed("stopped")
    finally:
        job.abandon()
    if progress.state is JobState.FAILED:
        raise TransferFailed(progress.reason)


def _mapping(reader: MappingReader, digests: Sequence[str], clock: Clock) -> Finding:
    mapped: list[memoryview] = []
    seconds = _timed(clock, lambda: mapped.extend(reader.map(deadline=_SECONDS) or ()))
    if [xxhash.xxh3_128_hexdigest(view) for view in mapped] != digests:
        raise TransferFailed("what it mapped are other bytes")
    return Finding(Level.OK, f"the same mapped in {seconds * 1_000:.1f} ms, with nothing copied")


def _timed(clock: Clock, work: Callable[[], object]) -> float:
    begun = clock.monotonic()
    work()
    return max(1e-9, clock.monotonic() - begun)


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.1f} GB/s"
