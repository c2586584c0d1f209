"""Who calls, and what they may do.

A *principal* is what a server's authentication makes of a call's token or certificate. It owns the records that it
publishes. Where nothing is asked of callers, all of them are `ANYONE`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["ANYONE", "Principal", "Role"]


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
    models: tuple[str, ...] = ("*",)
    """Patterns (as in `fnmatch`, case counts) of the names of models that it may read and publish."""


ANYONE: Final = Principal("", Role.ADMIN)
"""Everybody, where nobody is asked who they are. Its records belong to nobody."""
