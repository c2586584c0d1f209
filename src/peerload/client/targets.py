"""Where pulled bytes go: memory laid out like a runtime source, files in memory, or files in a folder.

A target makes a *plan* from a source's manifest: a slot for every run of bytes, with what is known to be right already
marked as verified. When a source fails in the middle, the next source's manifest makes the next plan, and what is
kept from before is only what agrees with it in name, dtype, shape, size and digest: two sources' weights never mix.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from peerload.checkpoint import Checkpoint, Progress, Staging
from peerload.checkpoint.dtypes import torch_name
from peerload.client.buffers import Memory
from peerload.client.host import available_memory
from peerload.client.layout import Offered, places, tensor_names
from peerload.client.manifest import Item, Manifest
from peerload.client.tensor import Tensor
from peerload.client.transfer import Slot
from peerload.engines.base import Range
from peerload.errors import PeerloadError

__all__ = [
    "Allocate",
    "AtOnce",
    "CheckpointMemory",
    "FolderTarget",
    "RuntimeMemory",
    "SourceUnusable",
    "Target",
    "check_memory",
    "one_digest",
]

Allocate: TypeAlias = Callable[[int], memoryview]
"""Gives zero-filled writable memory that an engine can read into."""

_ALIGNMENT: Final = 64
"""Tensors begin at multiples of this: what vector instructions and accelerators' copies like."""


class SourceUnusable(PeerloadError):
    """This source's manifest does not fit what is wanted; another source's may."""


class Target(Protocol):
    """What a pull fills. One thread at a time."""

    slots: list[Slot]
    """Of the last plan, all of them."""

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress) -> None:
        """Set `slots` for reading from that source. Blocks; `progress` is told of checking what is in place already.

        Raises `SourceUnusable`; whatever else it raises would be raised for every source, and ends the pull.
        """
        ...

    def batches(self, stop: threading.Event) -> Iterable[Sequence[Slot]]:
        """What the last plan has to read, as `transfer` asks for it."""
        ...


class AtOnce:
    """A target that has room for everything: what is missing is read in one batch."""

    slots: list[Slot]

    def batches(self, stop: threading.Event) -> Iterable[Sequence[Slot]]:
        """All that is missing."""
        missing = [slot for slot in self.slots if not slot.verified]
        return [missing] if missing else []


class RuntimeMemory(AtOnce):
    """Memory for runtime form: the tensors, packed; tied ones once. With `into`, the caller's own memory, each by name."""

    def __init__(self, into: Mapping[str, Memory] | None = None, *, need_digests: bool = False) -> None:
        self.slots: list[Slot] = []
        self._into = into
        self._need_digests = need_digests
        self._items: dict[str, Item] = {}

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress) -> None:
        if self._need_digests and (bare := next((item for item in manifest.items if _bare(item)), None)):
            raise SourceUnusable(f"gives no digest of {bare.name[:200]!r}, so what arrives could not be published on")
        before = {name: slot for slot in self.slots for name in slot.names}
        fresh: list[Slot] = []
        slots = [self._slot(items, before, fresh) for items in self._groups(manifest)]
        self._allocate(fresh, allocate)
        self.slots = slots
        self._items = {item.name: item for item in manifest.items}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the last plan, by name, in the manifest's order."""
        memory = {name: slot.destination for slot in self.slots for name in slot.names}
        return {name: Tensor(name, item.dtype, item.shape, memory[name]) for name, item in self._items.items()}

    def offered(self) -> tuple[tuple[Item, ...], list[memoryview]]:
        """The items and regions to publish on: each slot a region."""
        region = {name: index for index, slot in enumerate(self.slots) for name in slot.names}
        items = tuple(
            Item(item.name, item.size, item.dtype, item.shape, item.digest, region[item.name], 0)
            for item in self._items.values()
        )
        return items, [slot.destination for slot in self.slots]

    def _groups(self, manifest: Manifest) -> list[list[Item]]:
        """The items by the bytes that they are; each alone where the caller brought memory."""
        if self._into is not None:
            self._check_into(manifest, self._into)
            return [[item] for item in manifest.items]
        groups: dict[tuple[int, int, int], list[Item]] = {}
        for item in manifest.items:
            groups.setdefault((item.region, item.offset, item.size), []).append(item)
        for items in groups.values():
            one_digest(items)
        return list(groups.values())

    def _check_into(self, manifest: Manifest, into: Mapping[str, Memory]) -> None:
        names = {item.name for item in manifest.items}
        for name in into:
            if name not in names:
                raise SourceUnusable(f"has no tensor {name[:200]!r}, which is to be filled")
        for item in manifest.items:
            memory = into.get(item.name)
            if memory is None:
                raise SourceUnusable(f"has a tensor {item.name[:200]!r}, for which no memory was given")
            have, want = (memory.dtype, memory.shape, memory.view.nbytes), (item.dtype, item.shape, item.size)
            if have != want:
                raise SourceUnusable(
                    f"has {item.name[:200]!r} as {item.dtype} {item.shape} of {item.size} bytes, the memory given is "
                    f"{memory.dtype} {memory.shape} of {memory.view.nbytes}"
                )

    def _slot(self, items: list[Item], before: Mapping[str, Slot], fresh: list[Slot]) -> Slot:
        first = items[0]
        slot = Slot(
            tuple(item.name for item in items),
            Range(first.region, first.offset, first.size),
            one_digest(items),
            memoryview(bytearray()),
        )
        for item in items:
            old = before.get(item.name)
            if old is not None and old.checked and old.digest == slot.digest and _agree(self._items[item.name], item):
                slot.destination, slot.origin, slot.verified = old.destination, old.origin, True
                return slot
        if not slot.size:
            return slot
        if self._into is not None:
            slot.destination = self._into[first.name].view
            return slot
        old = before.get(first.name)
        if old is not None and old.names == slot.names and old.size == slot.size:
            # The same names: no other slot of this plan can have kept that memory.
            slot.destination = old.destination
        else:
            fresh.append(slot)
        return slot

    def _allocate(self, fresh: list[Slot], allocate: Allocate) -> None:
        total = sum(_aligned(slot.size) for slot in fresh)
        check_memory(total)
        if not total:
            return
        arena, at = allocate(total), 0
        for slot in fresh:
            slot.destination = arena[at : at + slot.size]
            at += _aligned(slot.size)


class _CheckpointSlots(AtOnce, ABC):
    """Slots of a checkpoint's parts. Every source of a pull has the same content, so the plan is made once, and then only
    told where the next source has the bytes."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.checkpoint: Checkpoint | None = None
        self._parts: dict[tuple[int, int], Slot] = {}

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress) -> None:
        checkpoint = manifest.checkpoint
        if checkpoint is None:
            raise SourceUnusable("is not in checkpoint form")
        where = places(manifest)
        if self.checkpoint is None:
            self._parts = self._make(checkpoint, allocate, progress)
            self.slots = list(self._parts.values())
            self.checkpoint = checkpoint
        elif checkpoint != self.checkpoint:
            raise SourceUnusable("has another content than the source that the pull began with")
        for key, slot in self._parts.items():
            slot.range = where[key]

    @abstractmethod
    def _make(self, checkpoint: Checkpoint, allocate: Allocate, progress: Progress) -> dict[tuple[int, int], Slot]:
        """A slot for each part, by file and number."""


class CheckpointMemory(_CheckpointSlots):
    """Memory for checkpoint form: every file whole."""

    def __init__(self) -> None:
        super().__init__()
        self._files: list[memoryview] = []

    def _make(self, checkpoint: Checkpoint, allocate: Allocate, progress: Progress) -> dict[tuple[int, int], Slot]:
        check_memory(checkpoint.total_size)
        self._files = []
        for file in checkpoint.files:
            view = allocate(file.size) if file.size else memoryview(bytearray())
            view[: len(file.header)] = file.header
            self._files.append(view)
        return _part_slots(checkpoint, lambda file, start, end: self._files[file][start:end])

    def files(self) -> dict[str, memoryview]:
        """Every file's bytes, by path."""
        return {file.path: view for file, view in zip(self._complete().files, self._files, strict=True)}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; by `PATH:NAME` where files disagree on what the name is."""
        tensors: dict[str, Tensor] = {}
        checkpoint = self._complete()
        for (file, number), name in tensor_names(checkpoint).items():
            part = checkpoint.files[file].parts[number]
            memory = self._files[file][part.offset : part.end]
            tensors[name] = Tensor(name, torch_name(part.dtype), part.shape, memory)
        return tensors

    def _complete(self) -> Checkpoint:
        if self.checkpoint is None:
            raise RuntimeError("there was no plan")
        return self.checkpoint


class FolderTarget(_CheckpointSlots):
    """A folder, by way of its staging: files get their names in `commit`, after everything was verified."""

    def __init__(self, local_dir: Path, *, allow_code: bool) -> None:
        super().__init__()
        self.local_dir = local_dir
        self._allow_code = allow_code
        self.staging: Staging | None = None

    def _make(self, checkpoint: Checkpoint, allocate: Allocate, progress: Progress) -> dict[tuple[int, int], Slot]:
        staging = self.staging = Staging(self.local_dir, checkpoint, allow_code=self._allow_code)
        right = staging.reusable(progress)
        views = {index: staging.view(index) for index in staging.wanted}
        slots = _part_slots(checkpoint, lambda file, start, end: views[file][start:end], frozenset(staging.wanted))
        for key in right:
            slots[key].verified = True
        return slots

    def commit(self) -> Staging:
        """Name the files. Every slot must be verified."""
        if self.staging is None or not all(slot.verified for slot in self.slots):
            raise RuntimeError("only what was verified is committed")
        self.staging.commit()
        return self.staging

    def close(self) -> None:
        """Let go of the folder; what is unfinished stays for the next pull."""
        # The views first: they hold the files' mappings.
        self.slots, self._parts = [], {}
        if self.staging is not None:
            self.staging.close()


def _part_slots(
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


def _agree(old: Item, new: Item) -> bool:
    return (old.dtype, old.shape, old.size, old.digest) == (new.dtype, new.shape, new.size, new.digest)


def _bare(item: Item) -> bool:
    return item.size > 0 and not item.digest


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def one_digest(same: Sequence[Item | Offered]) -> bytes:
    """The digest of tensors that are the same bytes; b"" where none is given. Raises `SourceUnusable` if there are two."""
    digests = {each.digest for each in same if each.digest}
    if len(digests) > 1:
        raise SourceUnusable(f"gives two digests for the same bytes of {same[0].name[:200]!r}")
    return next(iter(digests), b"")


def check_memory(needed: int) -> None:
    """Raise `SourceUnusable` for what this machine has no memory for."""
    available = available_memory()
    if needed > available:
        raise SourceUnusable(f"would take {needed:,} bytes of memory, and {available:,} are available")
