"""How many bytes have moved of late, by model: what was reported, in steps of two seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["STEP_S", "Throughput"]

STEP_S: Final = 2
_STEPS: Final = 300
"""Ten minutes."""
_MODELS: Final = 256
"""Told apart in one step; what moves of others then is not counted."""


class Throughput:
    """Bytes by step and model. Steps are numbered; a moment's is its seconds divided by `STEP_S`."""

    def __init__(self) -> None:
        self._ring: list[tuple[int, dict[str, int]]] = [(-1, {})] * _STEPS
        """The step of each number is at that number's remainder; in place of one that is too old."""

    def add(self, model: str, nbytes: int, start: float, end: float) -> None:
        """So many bytes moved evenly between two moments (seconds). What is older than is kept is left out."""
        last = int(end // STEP_S)
        first = min(last, int(start // STEP_S))
        share = round(nbytes / (last - first + 1))
        for number in range(max(first, last - _STEPS + 1), last + 1):
            there, step = self._ring[number % _STEPS]
            if there < number:
                step = {}
                self._ring[number % _STEPS] = number, step
            elif there > number:
                continue
            if model in step or len(step) < _MODELS:
                step[model] = step.get(model, 0) + share

    def since(self, number: int, covers: Callable[[str], bool]) -> list[tuple[int, int]]:
        """Number and bytes of the steps from that one on in which something moved, in order, of the models that `covers` lets
        through."""
        newest = max(there for there, _ in self._ring)
        return sorted(
            (there, sum(nbytes for model, nbytes in step.items() if covers(model)))
            for there, step in self._ring
            if there >= max(number, newest - _STEPS + 1, 0)
        )
