"""Where pulled bytes go: memory laid out like a runtime source, files in memory, or files in a folder.

A target makes a *plan* from a source's manifest: a slot for every run of bytes, with what is known to be right already
marked as verified. When a source fails in the middle, the next source's manifest makes the next plan, and what is
kept from before is only what agrees with it in name, dtype, shape, size and digest: two sources' weights never mix.
"""

from __future__ import annotations

import mmap
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from peerload.checkpoint import Checkpoint, Progress
from peerload.checkpoint.dtypes import torch_name
from peerload.client.giving import Placed
from peerload.client.host import available_memory
from peerload.client.items import Item, Items
from peerload.client.layout import are_tied, places, tensor_names, tensors_of, tied
from peerload.client.manifest import Manifest
from peerload.client.transfer import Slot
from peerload.engines.base import Range
from peerload.errors import PeerloadError

__all__ = [
    "Allocate",
    "AtOnce",
    "CheckpointMemory",
    "CheckpointSlots",
    "Mapped",
    "RuntimeMemory",
    "SourceUnusable",
    "Target",
    "check_digests",
    "check_memory",
    "offered",
    "one_digest",
    "part_slots",
]

Allocate: TypeAlias = Callable[[int], memoryview]
"""Gives zero-filled writable memory that an engine can read into."""

Mapped: TypeAlias = Callable[[tuple[int, int, int]], tuple[memoryview, int]]
"""Gives the source's own memory, where it can be mapped, and where in it a range (region, offset, length) begins. Raises
`SourceUnusable` for a range that is not there."""

_NOTHING: Final = memoryview(bytearray())
_ALIGNMENT: Final = 64
"""Tensors begin at multiples of this: what vector instructions and accelerators' copies like."""


class SourceUnusable(PeerloadError):
    """This source's manifest does not fit what is wanted; another source's may."""


class Target(Protocol):
    """What a pull fills. One thread at a time."""

    slots: list[Slot]
    """Of the last plan, all of them."""

    @property
    def maps(self) -> bool:
        """Whether it can do with the source's own memory."""
        ...

    @property
    def shares(self) -> bool:
        """Whether what is read into memory that is allocated for it is to be served to others."""
        ...

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress, mapped: Mapped | None = None) -> None:
        """Set `slots` for reading from that source, or for finding everything in place where it is `mapped`. Blocks;
        `progress` is told of checking what is in place already.

        Raises `SourceUnusable`; whatever else it raises would be raised for every source, and ends the pull.
        """
        ...

    def batches(self, stop: threading.Event) -> Iterable[Sequence[Slot]]:
        """What the last plan has to read, as `transfer` asks for it."""
        ...


class AtOnce:
    """A target that has room for everything: what is missing is read in one batch."""

    slots: list[Slot]

    @property
    def maps(self) -> bool:
        """Whether it can do with the source's own memory."""
        return True

    @property
    def shares(self) -> bool:
        """Whether what is read is to be served to others."""
        return False

    def batches(self, stop: threading.Event) -> Iterable[Sequence[Slot]]:
        """All that is missing."""
        missing = [slot for slot in self.slots if not slot.verified]
        return [missing] if missing else []


class RuntimeMemory(AtOnce):
    """Memory for runtime form: the tensors, packed; tied ones once."""

    def __init__(self, *, need_digests: bool = False) -> None:
        self.slots: list[Slot] = []
        self._need_digests = need_digests
        self._tensors = Items()

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress, mapped: Mapped | None = None) -> None:
        tensors = tensors_of(manifest)
        if self._need_digests:
            check_digests(tensors)
        fresh: list[Slot] = []
        if self.slots or are_tied(tensors):
            slots = {name: slot for slot in self.slots for name in slot.names}
            before = {tensor.name: (tensor, slots[tensor.name]) for tensor in self._tensors}
            planned = [self._slot(same, before, fresh, mapped) for same in tied(tensors)]
        else:
            planned = _first(tensors, mapped)
            if mapped is None:
                fresh = [slot for slot in planned if slot.size]
        self._allocate(fresh, allocate)
        self.slots = planned
        self._tensors = tensors

    def tensors(self) -> Iterator[Placed]:
        """The tensors of the last plan, in the manifest's order."""
        # None is tied: each slot is its tensor's.
        slots: Iterable[Slot] = self.slots
        if len(self.slots) < len(self._tensors):
            named = {name: slot for slot in self.slots for name in slot.names}
            slots = map(named.__getitem__, self._tensors.names)
        for name, kind, slot in zip(self._tensors.names, self._tensors.kinds, slots, strict=True):
            yield name, kind, slot.memory, slot.at

    def offered(self) -> tuple[tuple[Item, ...], list[memoryview]]:
        """The items and regions to publish on: each slot a region."""
        return offered(self._tensors, self.slots)

    def _slot(
        self, same: Sequence[Item], before: Mapping[str, tuple[Item, Slot]], fresh: list[Slot], mapped: Mapped | None
    ) -> Slot:
        first = same[0]
        names = (first.name,) if len(same) == 1 else tuple(each.name for each in same)
        slot = Slot(names, (first.region, first.offset, first.size), one_digest(same), _NOTHING)
        for each in same:
            was = before.get(each.name)
            if was is not None and was[1].checked and was[0].agrees(each):
                old = was[1]
                slot.memory, slot.at, slot.origin, slot.verified = old.memory, old.at, old.origin, True
                return slot
        if not slot.size:
            return slot
        if mapped is not None:
            (slot.memory, slot.at), slot.mapped = mapped((slot.region, slot.offset, slot.size)), True
            return slot
        was = before.get(slot.names[0])
        if was is not None and was[1].names == slot.names and was[1].size == slot.size:
            # The same names: no other slot of this plan can have kept that memory.
            slot.memory, slot.at = was[1].memory, was[1].at
        else:
            fresh.append(slot)
        return slot

    def _allocate(self, fresh: list[Slot], allocate: Allocate) -> None:
        total = sum(_aligned(slot.size) for slot in fresh)
        if not total:
            return
        check_memory(total)
        arena, at = allocate(total), 0
        for slot in fresh:
            slot.memory, slot.at = arena, at
            at += _aligned(slot.size)


class CheckpointSlots(AtOnce, ABC):
    """Slots of a checkpoint's parts. Every source of a pull has the same content, so the plan is made once, and then only
    told where the next source has the bytes."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.checkpoint: Checkpoint | None = None
        self._parts: dict[tuple[int, int], Slot] = {}

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress, mapped: Mapped | None = None) -> None:
        checkpoint = manifest.checkpoint
        if checkpoint is None:
            raise SourceUnusable("is not in checkpoint form")
        where = places(manifest)
        if self.checkpoint is None:
            self._parts = self._make(checkpoint, allocate, progress, _mapped_files(checkpoint, where, mapped))
            self.slots = list(self._parts.values())
            self.checkpoint = checkpoint
        elif checkpoint != self.checkpoint:
            raise SourceUnusable("has another content than the source that the pull began with")
        else:
            # What is still missing is read into the place that it has: of what was mapped, that makes pages of our own.
            for slot in self.slots:
                slot.mapped = False
        for key, slot in self._parts.items():
            slot.region, slot.offset, slot.size = where[key]

    def _complete(self) -> Checkpoint:
        if self.checkpoint is None:
            raise RuntimeError("there was no plan")
        return self.checkpoint

    @abstractmethod
    def _make(
        self, checkpoint: Checkpoint, allocate: Allocate, progress: Progress, mapped: Mapping[int, memoryview]
    ) -> dict[tuple[int, int], Slot]:
        """A slot for each part, by file and number. `mapped` are the files, by number, that the source has in memory of its own
        that can be used."""


class CheckpointMemory(CheckpointSlots):
    """Memory for checkpoint form: every file whole."""

    def __init__(self) -> None:
        super().__init__()
        self._files: list[memoryview] = []

    def _make(
        self, checkpoint: Checkpoint, allocate: Allocate, progress: Progress, mapped: Mapping[int, memoryview]
    ) -> dict[tuple[int, int], Slot]:
        total = sum(_paged(file.size) for index, file in enumerate(checkpoint.files) if index not in mapped)
        arena, at = _NOTHING, 0
        if total:
            check_memory(total)
            arena = allocate(total)
        self._files = []
        for index, file in enumerate(checkpoint.files):
            view = mapped.get(index)
            if view is None:
                view = arena[at : at + file.size]
                at += _paged(file.size)
            # Only where it has to be written: what is written to is shared with nobody any more.
            if view[: len(file.header)] != file.header:
                view[: len(file.header)] = file.header
            self._files.append(view)
        slots = part_slots(checkpoint, lambda file, start, end: self._files[file][start:end])
        for (file_index, _), slot in slots.items():
            slot.mapped = file_index in mapped
        return slots

    def files(self) -> dict[str, memoryview]:
        """Every file's bytes, by path."""
        return {file.path: view for file, view in zip(self._complete().files, self._files, strict=True)}

    def tensors(self) -> Iterator[Placed]:
        """Every tensor under its name; under `PATH:NAME` where files disagree on what the name is."""
        checkpoint = self._complete()
        for (file, number), name in tensor_names(checkpoint).items():
            part = checkpoint.files[file].parts[number]
            yield name, (part.size, torch_name(part.dtype), part.shape, ()), self._files[file], part.offset


def _first(tensors: Items, mapped: Mapped | None) -> list[Slot]:
    """The slots of a first plan whose tensors are each alone: of tens of thousands there is nothing to compare."""
    columns = (tensors.names, tensors.regions, tensors.offsets, tensors.sizes, tensors.digests)
    found = []
    for name, region, offset, size, digest in zip(*columns, strict=True):
        slot = Slot(name, (region, offset, size), digest, _NOTHING)
        if mapped is not None and size:
            (slot.memory, slot.at), slot.mapped = mapped((region, offset, size)), True
        found.append(slot)
    return found


def part_slots(
    checkpoint: Checkpoint,
    destination: Callable[[int, int, int], memoryview],
    wanted: frozenset[int] | None = None,
) -> dict[tuple[int, int], Slot]:
    return {
        (index, number): Slot(
            (part.name,), Range(index, part.offset, part.size), part.digest, destination(index, part.offset, part.end)
        )
        for index, file in enumerate(checkpoint.files)
        if wanted is None or index in wanted
        for number, part in enumerate(file.parts)
    }


def _mapped_files(
    checkpoint: Checkpoint, where: Mapping[tuple[int, int], Range], mapped: Mapped | None
) -> dict[int, memoryview]:
    """The files that the source has in one piece each, by number."""
    if mapped is None:
        return {}
    regions: dict[int, set[int]] = {}
    for (file, _), place in where.items():
        regions.setdefault(file, set()).add(place.region)
    found = {}
    for file, (region, *others) in regions.items():
        if not others:
            size = checkpoint.files[file].size
            memory, at = mapped(Range(region, 0, size))
            found[file] = memory[at : at + size]
    return found


def _paged(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def offered(tensors: Iterable[Item], slots: Sequence[Slot]) -> tuple[tuple[Item, ...], list[memoryview]]:
    """The items and regions to publish on what was pulled: each slot a region."""
    region = {name: index for index, slot in enumerate(slots) for name in slot.names}
    items = tuple(
        Item(each.name, each.size, each.dtype, each.shape, each.digest, region[each.name], 0, stride=each.stride)
        for each in tensors
    )
    return items, [slot.destination for slot in slots]


def check_digests(tensors: Iterable[Item]) -> None:
    """Raise `SourceUnusable` unless everything has a digest, as what is published on must have."""
    bare = next((each for each in tensors if each.size and not each.digest), None)
    if bare is not None:
        raise SourceUnusable(f"gives no digest of {bare.name[:200]!r}, so what arrives could not be published on")


def one_digest(same: Sequence[Item]) -> bytes:
    """The digest of tensors that are the same bytes; b"" where none is given. Raises `SourceUnusable` if there are two."""
    if len(same) == 1:
        return same[0].digest
    digests = {each.digest for each in same if each.digest}
    if len(digests) > 1:
        raise SourceUnusable(f"gives two digests for the same bytes of {same[0].name[:200]!r}")
    return next(iter(digests), b"")


def check_memory(needed: int) -> None:
    """Raise `SourceUnusable` for what this machine has no memory for."""
    available = available_memory()
    if needed > available:
        raise SourceUnusable(f"would take {needed:,} bytes of memory, and {available:,} are available")
