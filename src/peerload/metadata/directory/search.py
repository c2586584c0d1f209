"""Answers to queries out of the index."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from functools import partial

from peerload.metadata.directory.held import Held, is_suspect, oldest
from peerload.metadata.directory.index import Index
from peerload.metadata.query import Query

__all__ = ["find"]


def find(index: Index, query: Query) -> list[tuple[Held, ...]]:
    """The answers to a query, in the order that `Directory.find` tells."""
    limit = query.limit
    if limit is None:
        return _all(index, query)
    if query.instances and (query.source_id is not None or query.model_name is not None):
        groups = index.groups(query)
        if not any(group.has_few(query.worker_rank, limit) for group in groups):
            admit = partial(_instance, query)
            found = [ranks for group in groups for ranks in group.newest(limit, admit)]
            return found if len(groups) == 1 else heapq.nlargest(limit, found, key=_standing)
    return heapq.nlargest(limit, _all(index, query), key=_standing)


def _all(index: Index, query: Query) -> list[tuple[Held, ...]]:
    source_id, status, rank = query.source_id, query.status, query.worker_rank
    plain = query == Query(source_id=source_id, status=status, worker_rank=rank, limit=query.limit, instances=True)
    found: list[tuple[Held, ...]] = []
    for group in index.groups(query):
        members = group.ordered() if rank is None or group.several else group.of_rank(rank)
        if plain and not group.several:
            # What every starting worker asks of a large fleet.
            found += members if status is None else [ranks for ranks in members if ranks[0].shown is status]
        else:
            found.extend(_passing(query, members))
    return found


def _passing(query: Query, members: Iterable[tuple[Held, ...]]) -> Iterator[tuple[Held, ...]]:
    for ranks in members:
        if query.instances:
            if (instance := _instance(query, ranks)) is not None:
                yield instance
        else:
            for held in ranks:
                if _admits(query, held, (held,)):
                    yield (held,)


def _instance(query: Query, ranks: tuple[Held, ...]) -> tuple[Held, ...] | None:
    """An instance, the rank that is asked for first; None where it does not pass."""
    if len(ranks) == 1:
        return ranks if _admits(query, ranks[0], ranks) else None
    chosen = next((held for held in ranks if _is_rank(held, query.worker_rank)), None)
    if chosen is None or not _admits(query, chosen, ranks):
        return None
    return (chosen, *(held for held in ranks if held is not chosen))


def _standing(ranks: tuple[Held, ...]) -> tuple[bool, int]:
    """The greater, the sooner it is handed out."""
    return not is_suspect(ranks), oldest(ranks)


def _is_rank(held: Held, rank: int | None) -> bool:
    return rank is None or held.record.key.worker_rank == rank


def _admits(query: Query, chosen: Held, ranks: tuple[Held, ...]) -> bool:
    """Whether an instance passes all filters. The commonest refusal comes first."""
    status = query.status
    if status is not None:
        for held in ranks:
            if held.shown is not status:
                return False
    if query.min_updated_at is not None and min(held.heard for held in ranks) < query.min_updated_at:
        return False
    return query.concerns(chosen.record)
