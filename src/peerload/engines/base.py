"""The engine contract: publish memory at the source, read it at the target.

An engine moves *ranges* of bytes. What they mean (tensors, files, digests that count) is decided above it. The two
sides:

- **Source**: `Exporter.publish(regions)` makes regions of memory readable by peers and returns a `Publication`, whose
  `descriptor` is what a target needs to find and address them; it travels in the manifest. `Exporter.retire` ends it.
  Published memory is neither freed, unmapped nor overwritten before `retire` has returned, or the serving process is
  dead: until then peers may be reading it.
- **Target**: `Importer.open(descriptor)` gives a `Reader` of one peer; `Reader.read` starts a `Job` that fills memory
  which the caller took from `Importer.allocate`, or any other that the importer `takes`. (An engine whose library cannot
  promise that an abandoned read writes no more runs its reader in a child process, which can write only into memory that
  was allocated to be shared.) `Job.abandon` returns only when nothing can write into the
  destination any more, however the peer behaves.
- **Mapping**: the reader of an engine that can give the source's memory itself is a `MappingReader`. What it maps stays what it
  is: the engine sees to it that nobody, the source included, can change or take back those bytes. So `Exporter.retire` does not
  wait for mappings, and the source's memory is nevertheless its own again afterwards: what it writes there from then on is its
  own, and no longer shared. The price is paid by those who write, in memory: what is mapped lives as long as anybody maps it.

Engines are thread-safe and block; the async client calls them from worker threads. All deadlines are ours: a library's
own timeouts are never relied on. An engine starts daemon threads or children only, closes its sides when the interpreter
exits, and survives a fork (the child has no engine, and keeps none of the parent's connections open). Every failure is `TransferFailed`, with `retryable` saying whether the same source may
yet succeed; a peer's misbehaviour (garbage, silence, a closed connection) is never anything else.

`peerload.testing.engine_suite` is this contract as tests, between two real processes; every engine passes it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, runtime_checkable

from peerload.errors import Fault

__all__ = [
    "DIGEST_BYTES",
    "Descriptor",
    "DeviceMemory",
    "Engine",
    "Exporter",
    "Importer",
    "Job",
    "JobState",
    "MappingReader",
    "Progress",
    "Publication",
    "Range",
    "Reader",
    "Region",
]

DIGEST_BYTES: Final = 16
"""Bytes of an xxh3-128 digest (xxHash's canonical, big-endian form)."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes in an accelerator's memory: `nbytes` from `address`, an address of the CUDA device with index `device`.

    `owner` is the array or tensor that they belong to, and keeps them.
    """

    address: int
    nbytes: int
    device: int
    owner: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class Region:
    """Memory that a source offers: contiguous bytes, writable or not, 0 of them allowed.

    The engine keeps no copy, and may make views of `buffer` until the publication is retired; a caller who wants to unmap
    or resize the memory then releases his own views too.

    An engine whose `reads_device_memory` is false raises `InvalidArgument` for a `buffer` on a device.
    """

    buffer: memoryview | DeviceMemory

    @property
    def device(self) -> int | None:
        """The index of the accelerator that the memory is on; None for host memory."""
        return self.buffer.device if isinstance(self.buffer, DeviceMemory) else None

    @property
    def nbytes(self) -> int:
        """The region's size in bytes."""
        return self.buffer.nbytes


@dataclass(frozen=True, slots=True)
class Descriptor:
    """How a target reaches one publication.

    `address` is for people and for telling endpoints apart (tcp: "host:port"); `data` is the engine's own, opaque
    to everyone else. Whoever holds `data` may read the publication: it is a capability, and never logged.
    """

    engine: str
    address: str
    data: bytes

    def __repr__(self) -> str:
        return f"Descriptor(engine={self.engine!r}, address={self.address!r})"


@dataclass(frozen=True, slots=True)
class Publication:
    """Regions that peers can read, from `publish` until `retire`. Regions are addressed by their index."""

    descriptor: Descriptor
    sizes: tuple[int, ...]


class Range(NamedTuple):
    """`length` bytes of the peer's region number `region`, from `offset`."""

    region: int
    offset: int
    length: int


class JobState(enum.Enum):
    """RUNNING until the job is DONE (every range is in place) or FAILED (some may be, see `Job.completed`).

    A job that has ended, either way, writes no more and has let go of its destinations.
    """

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job stands: bytes in place so far (parts of ranges count), and why it failed if it did.

    `reason` is one printable line for people; `retryable` tells whether the same source may yet succeed,
    `busy` that it is alive and refused only because it serves as many readers as it takes: asking again later helps.
    `fault` is what the failure says about the source.
    """

    state: JobState
    bytes_done: int
    reason: str = ""
    retryable: bool = True
    busy: bool = False
    fault: Fault = Fault.OTHER


class Job(Protocol):
    """One read on its way."""

    def poll(self) -> Progress:
        """Where it stands, at once."""
        ...

    def wait(self, timeout: float) -> Progress:
        """Block until the job has ended, more ranges have completed since the last wait, or `timeout` seconds have passed.

        For one waiter at a time. Small ranges may be told of several at once, a few hundredths of a second late.
        """
        ...

    def completed(self) -> list[tuple[int, bytes | None]]:
        """The ranges that have arrived whole since the last call: their index in the read, and the xxh3-128 digest of
        what arrived if the engine computed it on the way (else None, and the caller computes it where it needs one).

        May be called while the job runs and after it has ended; each index is told once.
        """
        ...

    def abandon(self) -> None:
        """End the job. When this returns nothing can write into the destinations any more. Allowed in any state, and
        twice; bounded in time (a few seconds) whatever the peer does."""
        ...


class Reader(Protocol):
    """A target's way to one publication of one peer."""

    def read(
        self, ranges: Sequence[Range], destinations: Sequence[memoryview | DeviceMemory], *, deadline: float
    ) -> Job:
        """Start to read `ranges` into `destinations`, one writable contiguous view of `length` bytes each. Tens of thousands of them
        may be `peerload.engines.pieces.Pieces`, which make a view only for whoever asks for one.

        Engines whose `reads_device_memory` is true take device memory too, all of a read's destinations or none. A job into
        device memory whose time ran out or that was abandoned may go on writing, since what writes is a library in this very
        process: then the memory is *poisoned*. It is kept from being freed and refused as a destination until that is over,
        for the process's life if need be.

        `deadline` is in seconds from now for the whole job; a job also fails when nothing has arrived for the engine's
        progress timeout. Ranges of zero bytes complete by themselves. Raises `InvalidArgument` for ranges that
        the descriptor says cannot exist and for destinations of another size.
        """
        ...

    def close(self) -> None:
        """Abandon what runs and let go of the peer. Closing twice is allowed."""
        ...


@runtime_checkable
class MappingReader(Reader, Protocol):
    """The reader of an engine that can do without moving bytes."""

    def map(self, *, deadline: float) -> Sequence[memoryview] | None:
        """Every region of the publication, in order, where it is: pages that this process, the source and everybody else who
        maps them have in common. None where they could change or vanish, and have to be read.

        They may be written to: a page that is becomes this process's own, and nobody else sees it. Until then the bytes are
        those that were published, whatever becomes of the source, of the publication and of this reader; with the last view
        the mapping goes. Nothing was verified. `deadline` is in seconds from now. Raises `TransferFailed`.
        """
        ...


class Exporter(Protocol):
    """The source side of an engine in one process."""

    def publish(self, regions: Sequence[Region]) -> Publication:
        """Make regions readable by peers, until retired.

        Raises `InvalidArgument` for memory that it cannot serve, which another engine may be able to. Memory that is to be
        mapped by others an engine makes immutable here.
        """
        ...

    def copies(self, regions: Sequence[Region]) -> int:
        """Bytes that publishing these would copy, of an engine whose `registers_memory` is true: of all that is not in shared
        memory. Peers then read the copy."""
        ...

    def retire(self, publication: Publication, *, grace: float = 0.0) -> None:
        """End a publication: new reads are refused at once, reads on their way may finish for up to `grace` seconds,
        then they are cut off. When this returns the memory is the caller's alone again, and the engine holds no view of it.
        Retiring twice is allowed; of two calls at a time both return at the end, and the shorter grace counts."""
        ...

    def load(self) -> float:
        """How busy this side is serving, from 0 (idle) to 1 (as many readers as it takes; more are refused for now)."""
        ...

    def close(self) -> None:
        """Retire everything and stop serving. Closing twice is allowed."""
        ...


class Importer(Protocol):
    """The target side of an engine in one process."""

    def takes(self, memory: memoryview) -> bool:
        """Whether a read may go to this writable memory, as it may to what `allocate` returned."""
        ...

    def allocate(self, nbytes: int) -> memoryview:
        """Writable memory that reads can go to, zero-filled, page-aligned; freed with its last reference."""
        ...

    def open(self, descriptor: Descriptor) -> Reader:
        """A reader of that publication. Connects at the first read or here; raises `TransferFailed`, for a damaged
        descriptor too (it is a peer's), and `InvalidArgument` for one of another engine.

        Where this process cannot reach the peer by this engine for reasons that say nothing about the peer (it is on another
        host, a device is missing, the library failed), that is `Fault.OURS` here and of a job: another engine may do.
        """
        ...

    def close(self) -> None:
        """Close every reader. Closing twice is allowed."""
        ...


class Engine(Protocol):
    """An engine: its name (as in descriptors and settings) and its two sides, each started when first needed."""

    @property
    def name(self) -> str: ...

    @property
    def registers_memory(self) -> bool:
        """Whether publishing may copy memory, so that its size (`Exporter.copies`) must be announced and checked beforehand."""
        ...

    @property
    def reads_device_memory(self) -> bool:
        """Whether regions may be on an accelerator."""
        ...

    def exporter(self, host: str) -> Exporter:
        """Start the source side; `host` is the name or address under which peers reach this process.

        Raises `InvalidArgument` for a host that is none, `Unavailable` where what it needs (a port) is taken.
        """
        ...

    def importer(self) -> Importer:
        """Start the target side."""
        ...
