"""The target of a pull into memory that the caller owns: a `state_dict`, a dictionary of arrays.

Everything that can be known before a byte moves is checked then: names, dtypes, shapes, and what shares memory. What
lies in the caller's memory as it lies at the source is read straight into place; the rest (transposed or sliced tensors,
those on an accelerator) comes through a small buffer, and is copied once it is verified.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

from peerload.checkpoint import Progress
from peerload.client.buffers import Memory
from peerload.client.layout import tensors_of
from peerload.client.manifest import Item, Manifest, SourceManifest
from peerload.client.scatter import check_scatter, scatter
from peerload.client.source import Offer
from peerload.client.targets import Allocate, Mapped, SourceUnusable, check_digests, offered
from peerload.client.transfer import Slot
from peerload.errors import InvalidArgument, PullFailed, Touched
from peerload.metadata.records import Form

__all__ = ["IntoTarget"]

_SHOWN: Final = 5
"""Names that an error spells out; it counts the rest."""
_BATCH_BYTES: Final = 64 << 20
"""Bytes that pass through memory of ours at a time, or one tensor that is larger."""
_NOTHING: Final = memoryview(bytearray())


class IntoTarget:
    """Fills `memory`, by name; all of it and with nothing left over, unless not `strict`.

    With `publish` it is to be published on afterwards. Raises `InvalidArgument` where tensors share some of their memory.
    """

    def __init__(self, memory: Mapping[str, Memory], *, strict: bool = True, publish: bool = False) -> None:
        _check_overlaps(memory)
        self._memory = memory
        self._strict = strict
        self._publish = publish
        self._allocate: Allocate = lambda size: memoryview(bytearray(size))
        self._tensors: dict[str, Item] = {}
        self._begun: set[str] = set()
        self.slots: list[Slot] = []
        self.missing: tuple[str, ...] = ()
        """Names for which the source has nothing."""
        self.unexpected: tuple[str, ...] = ()
        """Names at the source for which there is no memory."""

    @property
    def maps(self) -> bool:
        """No: the memory is the caller's."""
        return False

    @property
    def shares(self) -> bool:
        """No, for the same reason."""
        return False

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress, mapped: Mapped | None = None) -> None:
        there = {tensor.name: tensor for tensor in tensors_of(manifest)}
        if manifest.bare:
            there = {name: self._shaped(tensor) for name, tensor in there.items()}
        problems = self._problems(there)
        if problems:
            if manifest.form is Form.CHECKPOINT:
                # Every source of a checkpoint has the same tensors.
                raise PullFailed(f"the weights do not fit the memory that was given: {problems}")
            raise SourceUnusable(f"does not fit the memory that was given: {problems}")
        tensors = {name: there[name] for name in self._memory if name in there}
        if self.slots and tensors.keys() != self._tensors.keys():
            raise SourceUnusable("has other names than the source that the pull began with")
        if self._publish:
            if manifest.form is Form.CHECKPOINT:
                raise InvalidArgument("publish", "a checkpoint is published as files; use pull or pull_folder for that")
            check_digests(tensors.values())
        before = {name: slot for slot in self.slots for name in slot.names}
        self.slots = [self._slot(names, tensors, before) for names in self._shared(tensors)]
        self._allocate = allocate
        self._tensors = tensors
        self.missing = tuple(name for name in self._memory if name not in there)
        self.unexpected = tuple(name for name in there if name not in self._memory)

    def batches(self, stop: threading.Event) -> Iterator[list[Slot]]:
        """First what goes straight into place, then the rest."""
        missing = [slot for slot in self.slots if not slot.verified]
        straight = [slot for slot in missing if slot.land is None]
        if straight:
            self._begun.update(name for slot in straight if slot.size for name in slot.names)
            yield straight
        batch: list[Slot] = []
        for slot in missing:
            if slot.land is not None:
                if batch and sum(each.size for each in batch) + slot.size > _BATCH_BYTES:
                    yield self._provided(batch)
                    batch = []
                batch.append(slot)
        if batch:
            yield self._provided(batch)

    def touched(self) -> Touched:
        """What the memory holds, now that the pull has failed."""
        verified = {name for slot in self.slots if slot.verified for name in slot.names}
        return Touched(
            verified=tuple(name for name in self._memory if name in verified),
            undefined=tuple(name for name in self._memory if name in self._begun and name not in verified),
            untouched=tuple(name for name in self._memory if name not in self._begun and name not in verified),
        )

    def offer(self, found: SourceManifest) -> Offer:
        """What was filled, to be published on under the same identity."""
        items, regions = offered(self._tensors.values(), self.slots)
        manifest = Manifest(Form.RUNTIME, items, ())
        return Offer(found.wire_identity, found.source.worker_rank, manifest, regions, owner=self._memory)

    def _shaped(self, tensor: Item) -> Item:
        """A tensor whose source tells no shape, in the one that it has here: size and dtype are all that can be compared."""
        memory = self._memory.get(tensor.name)
        if memory is None or (memory.dtype, memory.nbytes) != (tensor.dtype, tensor.size):
            return tensor
        return tensor._replace(shape=memory.shape)

    def _provided(self, batch: list[Slot]) -> list[Slot]:
        for slot in batch:
            slot.destination = self._allocate(slot.size) if slot.size else _NOTHING
        return batch

    def _shared(self, tensors: Mapping[str, Item]) -> list[list[str]]:
        """The names by the memory that they have here."""
        groups: dict[object, list[str]] = {}
        for name in tensors:
            memory = self._memory[name]
            groups.setdefault(memory.key if memory.nbytes else name, []).append(name)
        return list(groups.values())

    def _slot(self, names: Sequence[str], tensors: Mapping[str, Item], before: Mapping[str, Slot]) -> Slot:
        memory, tensor = self._memory[names[0]], tensors[names[0]]
        digest = next((tensors[name].digest for name in names if tensors[name].digest), b"")
        slot = Slot(tuple(names), tensor.range, digest, _NOTHING)
        if memory.view is not None and memory.stride == tensor.stride:
            slot.destination = memory.view if memory.nbytes else _NOTHING
        elif self._publish:
            raise InvalidArgument(
                f"tensors[{names[0]!r}]", "does not lie as the source has it, so it cannot be published on"
            )
        else:
            check_scatter(names[0], memory)
            slot.land = partial(self._land, slot, memory, tensor.stride)
        old = before.get(names[0])
        if old is not None and old.checked and all(self._tensors[name].agrees(tensors[name]) for name in names):
            slot.origin, slot.verified = old.origin, True
        return slot

    def _land(self, slot: Slot, memory: Memory, stride: tuple[int, ...], arrived: memoryview) -> None:
        self._begun.update(slot.names)
        if slot.size:
            scatter(memory, arrived, stride)
        slot.destination = _NOTHING

    def _problems(self, there: Mapping[str, Item]) -> str:
        """What does not fit, in words; "" where everything does."""
        found = []
        common = [name for name in self._memory if name in there]
        missing = [name for name in self._memory if name not in there]
        unexpected = [name for name in there if name not in self._memory]
        if self._strict or self._publish or not common:
            found += _listed("not at the source", [f"{name[:200]!r}" for name in missing])
            found += _listed("without memory here", [f"{name[:200]!r}" for name in unexpected])
        found += _listed(
            "different", [text for name in common if (text := _difference(self._memory[name], there[name]))]
        )
        found += _listed(
            "sharing memory here, and not known to be equal at the source",
            [" and ".join(f"{name[:200]!r}" for name in names) for names in self._torn(common, there)],
        )
        return "; ".join(found)

    def _torn(self, common: Sequence[str], there: Mapping[str, Item]) -> list[list[str]]:
        groups = self._shared({name: there[name] for name in common})
        return [names for names in groups if len(names) > 1 and not self._equal(names, there)]

    def _equal(self, names: Sequence[str], there: Mapping[str, Item]) -> bool:
        """Whether the source has for all of these names what one memory can hold for all of them here."""
        digests = {there[name].digest for name in names}
        same = len({there[name].range for name in names}) == 1 or (len(digests) == 1 and b"" not in digests)
        layouts = {(self._memory[name].stride, there[name].stride) for name in names}
        # Each as it lies at the source, or all of them alike: a tensor and its transpose are the same bytes too.
        return same and (len(layouts) == 1 or all(here == at_source for here, at_source in layouts))


def _listed(what: str, shown: Sequence[str]) -> list[str]:
    if not shown:
        return []
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return [f"{len(shown)} {what}: {', '.join(shown[:_SHOWN])}{more}"]


def _difference(memory: Memory, tensor: Item) -> str:
    have, want = (memory.dtype, memory.shape, memory.nbytes), (tensor.dtype, tensor.shape, tensor.size)
    if have == want:
        return ""
    return (
        f"{tensor.name[:200]!r} is {tensor.dtype} {tensor.shape} of {tensor.size} bytes at the source, "
        f"{memory.dtype} {memory.shape} of {memory.nbytes} here"
    )


def _check_overlaps(memory: Mapping[str, Memory]) -> None:
    """What is the same memory is filled once; what is partly the same would be filled with two things."""
    extents = sorted((each.address, each.nbytes, name) for name, each in memory.items() if each.address is not None)
    text = "shares some of its memory with {!r}, and not all"
    for (start, nbytes, name), (next_start, next_nbytes, other) in pairwise(extents):
        if next_start < start + nbytes and (start, nbytes) != (next_start, next_nbytes):
            raise InvalidArgument(f"tensors[{other!r}]", text.format(name[:200]))
    for name, each in memory.items():
        # With holes: its first element is enough to know. Two slices of one tensor are left to the caller.
        if each.view is None and isinstance(first := each.key[0], int):
            before = bisect_right(extents, first, key=lambda extent: extent[0]) - 1
            if before >= 0 and first < extents[before][0] + extents[before][1]:
                raise InvalidArgument(f"tensors[{name!r}]", text.format(extents[before][2][:200]))
