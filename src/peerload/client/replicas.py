"""Which workers belong together: the ranks of one replica, and whether it has all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peerload.client.sources import SourceInfo
from peerload.metadata.records import Status

__all__ = ["Replica", "replicas"]


@dataclass(frozen=True, slots=True)
class Replica:
    """Workers that hold one source's weights together, a rank each (and of old ones perhaps another)."""

    name: str
    """As its workers call it; empty where they do not say to which they belong: then these are all such workers of the source."""
    workers: tuple[SourceInfo, ...]
    total: int | None
    """How many ranks a whole replica has; None: not known."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those of which somebody is READY, in order."""
        return tuple(sorted({worker.worker_rank for worker in self.workers if worker.status is Status.READY}))

    @property
    def missing(self) -> tuple[int, ...]:
        """The ranks that nobody is READY for, in order: all that are, of as many as there should be or are known."""
        known = {worker.worker_rank for worker in self.workers} if self.total is None else set(range(self.total))
        return tuple(sorted(known - set(self.ranks)))

    def __str__(self) -> str:
        count = len(self.ranks)
        of = "" if self.total is None else f"/{self.total}"
        return f"{count}{of} rank{'' if (self.total or count) == 1 else 's'}"


def replicas(workers: Iterable[SourceInfo]) -> list[Replica]:
    """The replicas that the workers of one source make up, in the order in which their first workers come.

    Workers that name their replica are one with those that name the same. Of the others nobody knows which belong together; they
    are taken as one, unless each of them is a whole replica.
    """
    workers = list(workers)
    # Where there are several ranks none of them is whole, whatever an older worker's identity says.
    parts = any(worker.worker_rank for worker in workers if not worker.replica)
    groups: dict[tuple[str, int], list[SourceInfo]] = {}
    for index, worker in enumerate(workers):
        alone = not worker.replica and worker.world_size == 1 and not parts
        groups.setdefault((worker.replica, index if alone else -1), []).append(worker)
    return [Replica(name, tuple(members), _total(members)) for (name, _), members in groups.items()]


def _total(workers: list[SourceInfo]) -> int | None:
    """How many ranks there should be, if all say the same and none is beyond that."""
    sizes = {worker.world_size for worker in workers}
    size = sizes.pop()
    return size if size and not sizes and all(worker.worker_rank < size for worker in workers) else None
