"""Views of a few memories, made for whoever asks: of tens of thousands of regions or destinations one each would take more time and
memory than moving what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self, overload

__all__ = ["Pieces", "release", "sizes_of"]


class Pieces(Sequence[memoryview]):
    """Where each of many views lies. Number i is `sizes[i]` bytes of the memory with the number, and from the offset, that `places[i]`
    says; None where it has no bytes. The memories are plain bytes."""

    __slots__ = ("memories", "places", "sizes")

    def __init__(
        self, memories: Sequence[memoryview], places: Sequence[tuple[int, int] | None], sizes: Sequence[int]
    ) -> None:
        self.memories = memories
        self.places = places
        self.sizes = sizes

    def over(self, memories: Sequence[memoryview]) -> Self:
        """The same, with other views of the memories."""
        return type(self)(memories, self.places, self.sizes)

    def place(self, index: int) -> tuple[memoryview, int]:
        """In which memory one lies, and where it begins there."""
        place = self.places[index]
        return (memoryview(bytearray()), 0) if place is None else (self.memories[place[0]], place[1])

    def run(self, first: int, end: int) -> Iterator[memoryview]:
        """Those from number `first` up to `end`, each made when its turn has come."""
        memories = self.memories
        for place, size in zip(self.places[first:end], self.sizes[first:end], strict=True):
            if place is None:
                yield memoryview(bytearray())
            else:
                number, at = place
                yield memories[number][at : at + size]

    def __iter__(self) -> Iterator[memoryview]:
        return self.run(0, len(self))

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> list[memoryview]: ...
    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview]:
        if isinstance(index, slice):
            # All at once, without a step of a generator for each. What has no bytes can be written to as well: who receives into
            # all of them must be given nothing else.
            memories, none = self.memories, memoryview(bytearray())
            each = zip(self.places[index], self.sizes[index], strict=True)
            return [none if at is None else memories[at[0]][at[1] : at[1] + size] for at, size in each]
        memory, at = self.place(index)
        return memory[at : at + self.sizes[index]]


def sizes_of(views: Sequence[memoryview]) -> Sequence[int]:
    """The bytes of each."""
    return views.sizes if isinstance(views, Pieces) else [view.nbytes for view in views]


def release(views: Sequence[memoryview]) -> None:
    """Let go of the memory; of pieces no view made from them may be left."""
    for view in views.memories if isinstance(views, Pieces) else views:
        view.release()
