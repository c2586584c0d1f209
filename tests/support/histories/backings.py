"""What the servers of a trial keep their records in, and which of its processes may be harmed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.histories.bounds import KUBERNETES, REDIS, Bounds
from tests.support.kube import ControlPlane
from tests.support.redis import redis_process

__all__ = ["BACKINGS", "Backing", "Victim"]


class Victim(Protocol):
    """A process of the store's."""

    @property
    def name(self) -> str: ...

    def start(self) -> object:
        """Returns once it answers."""

    def kill(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Backing:
    """A store that runs."""

    url: str
    victims: Sequence[Victim]
    """One at a time is harmed."""
    bounds: Bounds


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[Backing]:
    with redis_process(folder, "--appendonly", "yes", "--appendfsync", "always") as redis:
        yield Backing(redis.url, [redis], REDIS)


@contextlib.contextmanager
def _kubernetes(folder: Path) -> Iterator[Backing]:
    with ControlPlane(folder).running() as plane:
        yield Backing(plane.fresh_namespace().store_url(), [plane.server, *plane.etcd], KUBERNETES)


BACKINGS: dict[str, Callable[[Path], AbstractContextManager[Backing]]] = {"redis": _redis, "kubernetes": _kubernetes}
"""Each in a folder of its own, while the block runs."""
