"""Regions that share their memory with many others: where each lies, and a view of it only for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

__all__ = ["Regions"]


class Regions(Sequence[memoryview]):
    """Tens of thousands of regions in a few memories. Region number i is `sizes[i]` bytes of the memory with the number, and from the
    offset, that `places[i]` says; None where it has no bytes."""

    def __init__(
        self, memories: Sequence[memoryview], places: Sequence[tuple[int, int] | None], sizes: Sequence[int]
    ) -> None:
        self._memories = memories
        self._places = places
        self.sizes = sizes

    def place(self, region: int) -> tuple[memoryview, int]:
        """The memory that a region is in, and where it begins there."""
        place = self._places[region]
        return (memoryview(bytearray()), 0) if place is None else (self._memories[place[0]], place[1])

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> list[memoryview]: ...
    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        memory, at = self.place(index)
        return memory[at : at + self.sizes[index]]
