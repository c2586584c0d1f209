"""What an examination found: the one form in which `peerload doctor` and every part that it asks report."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Finding", "Level", "worst"]


class Level(enum.StrEnum):
    """How much a finding matters, from least to most."""

    OK = "ok"
    WARNING = "warning"
    """It works, and somebody should know what it costs."""
    PROBLEM = "problem"
    """It does not work, or will not for long."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    `what` says what was found and why it matters; `advice` what to do about it, empty where nothing is to be done. Both
    are for people, hold no secrets, and may change from release to release; programs go by the level.
    """

    level: Level
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}" if self.advice else self.what


def worst(findings: Iterable[Finding]) -> Level:
    """The level that matters most; `OK` for nothing."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
