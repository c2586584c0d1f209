"""Which models' names somebody may have meant."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["similar"]

_HUB_FOLDER: Final = re.compile(r"(?:^|/)models--([^/]+?)--([^/]+)")
_MOST: Final = 4
"""Names that are given back."""
_MOST_TYPOS: Final = 3
_LONG: Final = 256
"""Longer names are not searched for typing errors."""
_MOST_COMPARED: Final = 2_000
"""Names that are searched for them: what strangers publish must not cost minutes."""
_SHORT_PER_TYPO: Final = 6
"""Characters of a name for each typing error in it: `org/a` and `org/b` are two models."""


def similar(asked: str, names: Iterable[str]) -> list[str]:
    """The names most like one that was asked for, the likest first: those that differ by case, then those whose last
    component is the same (`/mnt/a/llama` and `/models/llama`; a folder of the hub's cache counts as the model in it), then
    those with a typing error or two. Names that have nothing in common with it are not among them."""
    wanted = _Name(asked)
    near = ((distance, name) for name in names if (distance := wanted.distance(name)) is not None)
    return [name for _, name in heapq.nsmallest(_MOST, near)]


class _Name:
    """A name that others are compared with."""

    def __init__(self, name: str) -> None:
        self._exact = name
        self._folded = name.lower()
        self._meant = _meant(self._folded)
        self._last = self._meant.rpartition("/")[2]
        self._left = _MOST_COMPARED
        self._typos = min(_MOST_TYPOS, len(self._meant) // _SHORT_PER_TYPO) if len(self._meant) <= _LONG else 0

    def distance(self, name: str) -> int | None:
        """How far a name is from this one; None: too far."""
        if name == self._exact:
            return 0
        folded = name.lower()
        if folded == self._folded:
            return 1
        meant = _meant(folded)
        if meant == self._meant:
            return 2
        if self._last and meant.rpartition("/")[2] == self._last:
            return 3
        if self._left == 0 or abs(len(meant) - len(self._meant)) > self._typos:
            return None
        self._left -= 1
        typos = _typos(self._meant, meant, self._typos)
        return None if typos is None else 3 + typos


def _meant(folded: str) -> str:
    """The model that a path stands for."""
    cached = _HUB_FOLDER.search(folded)
    return f"{cached[1]}/{cached[2]}" if cached else folded.rstrip("/")


def _typos(one: str, other: str, most: int) -> int | None:
    """How many characters must be added, removed or exchanged to make one name the other; None: more than `most`.

    Levenshtein's distance, reckoned only where it can be that small (Ukkonen, 1985)."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    same = sum(1 for _ in pairs)
    one, other = one[same:], other[same:]
    before = list(range(len(other) + 1))
    for row, char in enumerate(one, 1):
        first, last = max(1, row - most), min(len(other), row + most)
        now = [most + 1] * (len(other) + 1)
        now[0] = row
        for column in range(first, last + 1):
            now[column] = min(before[column] + 1, now[column - 1] + 1, before[column - 1] + (char != other[column - 1]))
        if min(now[max(0, first - 1) : last + 1]) > most:
            return None
        before = now
    return before[-1] if before[-1] <= most else None
