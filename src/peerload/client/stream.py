"""Weights one after the other: each tensor is given as soon as it and those before it are verified.

A stream's target hands out what is in place, in order, and keeps its distance: no more than a window is read ahead of
who takes it. What was given cannot be taken back, so the next source must agree with all of it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from peerload.checkpoint import Progress
from peerload.client.giving import As
from peerload.client.layout import tensors_of, tied
from peerload.client.manifest import Item, Manifest, SourceManifest
from peerload.client.memory import MemoryTarget
from peerload.client.source import Offer
from peerload.client.targets import Allocate, Mapped, SourceUnusable, check_memory, one_digest
from peerload.client.tensor import Tensor
from peerload.client.transfer import Slot
from peerload.errors import InvalidArgument

__all__ = ["WINDOW_BYTES", "KeptStream", "StreamTarget", "WindowStream"]

WINDOW_BYTES: Final = 256 << 20
"""Bytes that a stream reads ahead of its consumer, unless it is told otherwise."""

_BATCHES: Final = 4
"""Batches in a window: while one is on its way, the others wait for the consumer."""
_SMALL: Final = 64 << 10
"""Tensors below this share an allocation with their neighbours: mappings are few, and pages not small."""
_SHARED: Final = 256 << 10
"""How large such an allocation gets: what one small tensor may keep alive."""
_ALIGNMENT: Final = 64
_TICK_S: Final = 0.1
_NOTHING: Final = memoryview(bytearray())


@dataclass(slots=True, eq=False)
class _Step:
    """What is given at a time: a slot, and the tensors that are those bytes."""

    tensors: tuple[Item, ...]
    slot: Slot


class StreamTarget(ABC):
    """A target whose tensors are taken in order. A pull fills it from its threads; `take` is for any one thread."""

    def __init__(self, framework: As, files: Callable[[str], bool] | None = None) -> None:
        self.slots: list[Slot] = []
        self._framework = framework
        self._files = files
        self._changed = threading.Condition()
        self._given: dict[str, Item] = {}
        self._steps: deque[_Step] = deque()
        self._ready: deque[Tensor] = deque()

    @property
    def maps(self) -> bool:
        """Whether the source's own memory will do."""
        return True

    @property
    def shares(self) -> bool:
        """Whether what is read is to be served to others."""
        return False

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress, mapped: Mapped | None = None) -> None:
        tensors = tensors_of(manifest, self._files)
        if not tensors and manifest.checkpoint is not None:
            asked = "that was asked for" if self._files else "in the safetensors format"
            raise SourceUnusable(f"has files, but none {asked}: there are no tensors to give")
        self._framework.check(tensors)
        with self._changed:
            self._check_given({tensor.name: tensor for tensor in tensors})
            groups = ([each for each in group if each.name not in self._given] for group in tied(tensors))
            self._lay(manifest, [group for group in groups if group], allocate, progress, mapped)

    @abstractmethod
    def batches(self, stop: threading.Event) -> Iterable[Sequence[Slot]]:
        """What the last plan has to read."""

    def take(self) -> Tensor | None:
        """The next tensor if it is verified, else None. Tensors that share memory come one after the other."""
        with self._changed:
            if not self._ready and self._steps and self._steps[0].slot.verified:
                step = self._steps.popleft()
                memory = self._leave(step.slot)
                self._changed.notify_all()
                for each in step.tensors:
                    self._given[each.name] = each
                    self._ready.append(Tensor(each.name, each.dtype, each.shape, memory, each.stride))
            return self._ready.popleft() if self._ready else None

    @abstractmethod
    def _lay(
        self,
        manifest: Manifest,
        groups: Sequence[Sequence[Item]],
        allocate: Allocate,
        progress: Progress,
        mapped: Mapped | None,
    ) -> None:
        """Set `slots` and the steps to what is still to be given, in order; with the lock held."""

    @abstractmethod
    def _leave(self, slot: Slot) -> memoryview:
        """The memory of a slot that is given away now; with the lock held."""

    def _check_given(self, offered: dict[str, Item]) -> None:
        for name, given in self._given.items():
            found = offered.get(name)
            if found is None or not given.agrees(found):
                raise SourceUnusable(f"is not known to have the same {name[:200]!r} as was given already")


class WindowStream(StreamTarget):
    """Keeps nothing: the memory of a tensor is the consumer's once it was given.

    `window` bytes are read ahead at most, or one tensor that is larger.
    """

    def __init__(self, framework: As, window: int = WINDOW_BYTES, files: Callable[[str], bool] | None = None) -> None:
        if window < 1:
            raise InvalidArgument("window", f"{window} bytes; it must be at least 1")
        super().__init__(framework, files)
        self._window = window
        self._allocate: Allocate = lambda size: memoryview(bytearray(size))
        self._mapped: Mapped | None = None
        self._past: list[Slot] = []
        self._ahead = 0
        """Bytes of memory that was allocated and not yet given."""

    def batches(self, stop: threading.Event) -> Iterator[list[Slot]]:
        """In order, as there is room."""
        with self._changed:
            missing = deque(step.slot for step in self._steps if not step.slot.verified)
        while missing:
            with self._changed:
                while not stop.is_set() and not self._room(missing[0]):
                    self._changed.wait(_TICK_S)
                if stop.is_set():
                    return
                batch: list[Slot] = []
                size = 0
                while missing and (
                    not batch or (size + missing[0].size <= self._window // _BATCHES and self._room(missing[0]))
                ):
                    slot = missing.popleft()
                    batch.append(slot)
                    size += slot.size
                    self._ahead += slot.size
            self._provide(batch)
            yield batch

    def _room(self, slot: Slot) -> bool:
        # What the consumer waits for is always read, or neither would ever go on.
        return self._ahead + slot.size <= self._window or slot is self._steps[0].slot

    def _provide(self, batch: Sequence[Slot]) -> None:
        if self._mapped is not None:
            for slot in batch:
                if slot.size:
                    (slot.memory, slot.at), slot.mapped = self._mapped(slot.range), True
            return
        small = [slot for slot in batch if 0 < slot.size < _SMALL]
        for slot in batch:
            if slot.size >= _SMALL:
                slot.destination = self._allocate(slot.size)
        while small:
            shared: list[Slot] = []
            total = 0
            while small and (not shared or total + _aligned(small[0].size) <= _SHARED):
                shared.append(small[0])
                total += _aligned(small.pop(0).size)
            arena, at = self._allocate(total), 0
            for slot in shared:
                slot.memory, slot.at = arena, at
                at += _aligned(slot.size)

    def _lay(
        self,
        manifest: Manifest,
        groups: Sequence[Sequence[Item]],
        allocate: Allocate,
        progress: Progress,
        mapped: Mapped | None,
    ) -> None:
        self._allocate, self._mapped = allocate, mapped
        before = {step.tensors[0].name: step for step in self._steps if step.slot.verified}
        steps: deque[_Step] = deque()
        self._ahead = 0
        for group in groups:
            old = before.get(group[0].name)
            if old is not None and _agree(old.tensors, group):
                self._ahead += old.slot.size
                steps.append(_Step(tuple(group), old.slot))
            else:
                names = tuple(each.name for each in group)
                steps.append(_Step(tuple(group), Slot(names, group[0].range, one_digest(group), _NOTHING)))
        sizes = [step.slot.size for step in steps]
        check_memory(min(sum(sizes), max(self._window, *sizes, 0)))
        self._steps = steps
        self.slots = [*self._past, *(step.slot for step in steps)]

    def _leave(self, slot: Slot) -> memoryview:
        memory, slot.destination = slot.destination, _NOTHING
        self._past.append(slot)
        self._ahead -= slot.size
        return memory


class KeptStream(StreamTarget):
    """Keeps everything, as a pull into memory does, because it is published on."""

    def __init__(self, framework: As) -> None:
        super().__init__(framework)
        self._whole = MemoryTarget(framework, need_digests=True)

    @property
    def shares(self) -> bool:
        """Yes."""
        return True

    def batches(self, stop: threading.Event) -> Iterable[Sequence[Slot]]:
        """All that is missing."""
        return self._whole.batches(stop)

    def offer(self, found: SourceManifest) -> Offer:
        """What was pulled, to be published on under the same identity."""
        return self._whole.offer(found)

    def _lay(
        self,
        manifest: Manifest,
        groups: Sequence[Sequence[Item]],
        allocate: Allocate,
        progress: Progress,
        mapped: Mapped | None,
    ) -> None:
        self._whole.plan(manifest, allocate, progress, mapped)
        self.slots = self._whole.slots
        at = {slot.range: slot for slot in self.slots}
        self._steps = deque(_Step(tuple(group), at[group[0].range]) for group in groups)

    def _leave(self, slot: Slot) -> memoryview:
        return slot.destination


def _agree(old: Sequence[Item], new: Sequence[Item]) -> bool:
    return len(old) == len(new) and all(one.agrees(other) for one, other in zip(old, new, strict=True))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
