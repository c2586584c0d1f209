"""What a row measures: figures, each beside what bounds it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

__all__ = ["Figure", "median", "percentiles"]

PERCENTS: Final = (50, 90, 99, 99.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number. `value` is the median of the rounds."""

    row: str
    case: str
    unit: str
    value: float
    store: str = ""
    front: str = ""
    less: bool = False
    """Whether less is better: a time, a size. Else it is a rate."""
    bound: float | None = None
    """What bounds it here, measured in the same run, in the same unit."""
    bounded_by: str = ""
    goal: float | None = None
    """The fraction of the bound to reach; without a bound, the value itself."""
    rounds: tuple[float, ...] = ()
    percentiles: dict[str, float] = field(default_factory=dict)
    """Milliseconds, by percent."""
    more: dict[str, float] = field(default_factory=dict)
    """What helps to read it, by name with its unit."""
    curve: str = ""
    at: float | None = None
    """Where on a curve of that name it lies."""
    along: str = "records"
    """What `at` counts."""
    line: str = ""
    """Which of the curve's lines; by default its case's."""

    @property
    def fraction(self) -> float | None:
        """How much of the bound is reached; 1: all."""
        if not self.bound or not self.value:
            return None
        return self.bound / self.value if self.less else self.value / self.bound

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None: there is none."""
        if self.goal is None:
            return None
        fraction = self.fraction
        if fraction is not None:
            return fraction >= self.goal
        return self.value <= self.goal if self.less else self.value >= self.goal

    @property
    def spread(self) -> float:
        """How far the rounds lie apart, as a part of the median: what a difference must exceed to be one."""
        return (max(self.rounds) - min(self.rounds)) / self.value if self.rounds and self.value else 0.0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """What `told` told."""
        values = {name: told[name] for name in cls.__slots__}
        return cls(**{**values, "rounds": tuple(values["rounds"])})

    def told(self) -> dict[str, Any]:
        """Fit for JSON."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "fraction": self.fraction, "met": self.met, "spread": self.spread}


def median(values: Sequence[float]) -> float:
    """Of the rounds."""
    return float(statistics.median(values))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of times in seconds, in milliseconds."""
    if not len(seconds):
        return {}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    told = {f"{percent:g}": ordered[min(last, int(len(ordered) * percent / 100))] * 1000 for percent in PERCENTS}
    return {**told, "100": ordered[-1] * 1000}
