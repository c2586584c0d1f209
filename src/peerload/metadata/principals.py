"""Who calls, and what they may do.

A *principal* is what a server's authentication makes of a call's token or certificate. It owns the records that it
publishes. Where nothing is asked of callers, all of them are `ANYONE`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

__all__ = ["ANYONE", "EVERY_MODEL", "Principal", "Role", "covered"]

EVERY_MODEL: Final = ("*",)
"""The patterns that all names of models fit."""


class Role(enum.IntEnum):
    """What a principal may do; each may also do what those before it may."""

    READ = 1
    """Ask: list, watch, fetch manifests, report transfers."""
    PUBLISH = 2
    """Publish, and update and withdraw what it published."""
    ADMIN = 3
    """Update and withdraw whatever anybody published."""


@dataclass(frozen=True, slots=True)
class Principal:
    """One caller as the server knows it. `name` is unique among principals, whatever it was recognised by."""

    name: str
    role: Role
    models: tuple[str, ...] = EVERY_MODEL
    """Patterns (as in `fnmatch`, case counts) of the names of models that it may read and publish."""
    unbounded: bool = field(init=False, repr=False, compare=False)
    """Whether it may change everything, so that nothing need be looked up."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "unbounded", self.role is Role.ADMIN and self.sees_all)

    @property
    def sees_all(self) -> bool:
        """Whether every model is in its scope."""
        return "*" in self.models

    def covers(self, model: str) -> bool:
        """Whether a model is in its scope."""
        return covered(self.models, model)

    def may_change(self, owner: str, model: str) -> bool:
        """Whether it may replace, update and withdraw a source of this model that belongs to `owner` (empty: to nobody)."""
        if owner == self.name:
            return True
        return (not owner or self.role is Role.ADMIN) and self.covers(model)

    def may_hold(self, owner: str) -> bool:
        """Whether what `owner` claimed (empty: nobody in particular) is its own."""
        return self.role is Role.ADMIN or owner in ("", self.name)


ANYONE: Final = Principal("", Role.ADMIN)
"""Everybody, where nobody is asked who they are. Its records belong to nobody."""


def covered(patterns: tuple[str, ...], model: str) -> bool:
    """Whether the name of a model fits one of the patterns."""
    return patterns == EVERY_MODEL or _covered(patterns, model)


@lru_cache(maxsize=4_096)
def _covered(patterns: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)
