"""A recorded trial: every call with its times and answer, every watch, and what was done to the processes.

All times are `time.monotonic()` of the process that recorded them, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tests.support.histories.bounds import Bounds

__all__ = ["INITIALIZING", "READY", "STALE", "Fault", "History", "Look", "Piece", "State", "Told", "Watch", "Write"]

INITIALIZING = 1
READY = 2
STALE = 3


class State(NamedTuple):
    """What is shown of a worker: which of its publications, and its status. None in its place: it is not there."""

    step: int
    """Every publication has a number of its own, over all workers."""
    status: int


@dataclass(frozen=True, slots=True)
class Write:
    """A publish, a withdrawal, or a status (a heartbeat is one that repeats the last)."""

    what: Literal["publish", "withdraw", "mark"]
    worker_id: str
    server: int
    begun: float
    ended: float
    answer: bool | None
    """None: it is not known what came of it. A mark's False: there is no such worker."""
    step: int = 0
    """Of a publish."""
    status: int = READY
    """Of a publish and a mark."""
    patience: float = 1.0
    """For how long its caller would have waited, seconds."""


@dataclass(frozen=True, slots=True)
class Look:
    """A list, or a question after one worker."""

    server: int
    begun: float
    ended: float
    shown: Mapping[str, State] | None
    """None: no answer."""
    ready: bool = False
    """Whether only READY workers were asked for."""
    only: str | None = None
    """The one worker that was asked for."""
    patience: float = 1.0


class Told(NamedTuple):
    """One message of a watch."""

    at: float
    complete: bool
    present: Mapping[str, State]
    gone: tuple[str, ...] = ()


@dataclass(slots=True)
class Piece:
    """A watch from its first message to its end."""

    told: list[Told]
    ended: float


@dataclass(slots=True)
class Watch:
    """A watch with those that went on from its resume token: only the first message of the first piece is surely
    complete."""

    server: int
    ready: bool
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to processes, from before it was done until all was up again."""

    what: str
    begun: float
    ended: float
    store: bool = False
    """Whether what the servers keep their records in was concerned; then every server is."""
    servers: frozenset[int] = frozenset()
    killed: bool = False
    down: tuple[float, float] | None = None
    """The time within in which none of them can have done anything."""


@dataclass(slots=True)
class History:
    """One trial."""

    servers: int
    bounds: Bounds
    """What the servers promise."""
    writes: list[Write] = field(default_factory=list)
    """Of workers that have one client each, which waits for every answer."""
    rivals: list[Write] = field(default_factory=list)
    """Publications under one key by several clients at once."""
    looks: list[Look] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
