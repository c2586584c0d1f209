"""Source records as rows, sentences and JSON, and finding those that a person names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from peerload.cli.text import age, clean
from peerload.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from peerload.client import AsyncClient, Replica, SourceInfo, Status

__all__ = [
    "by_source",
    "find_named",
    "one_worker",
    "ranks_text",
    "record_json",
    "replica_style",
    "seen",
    "share_of_load",
    "short",
    "standing",
    "status_text",
    "statuses_text",
]

_SOURCE_ID: Final = re.compile(r"[0-9a-f]{16}")
_STYLES: Final = {"ready": "green", "stale": "red", "initializing": "yellow"}
_SHORT: Final = 8


async def find_named(client: AsyncClient, name: str) -> list[SourceInfo]:
    """The records of a model, or of a source id. Raises `NotFound` where the server knows none."""
    from peerload.client import Selector

    found = await client.find(Selector(model=name))
    if not found and _SOURCE_ID.fullmatch(name):
        found = await client.find(Selector(source_id=name))
    if not found:
        raise NotFound(f"the server at {client.address} knows no source {clean(name)!r}: `peerload sources` lists all")
    return list(found)


def by_source(records: Iterable[SourceInfo]) -> list[list[SourceInfo]]:
    """The records grouped by source id, in the order in which they come."""
    groups: dict[str, list[SourceInfo]] = {}
    for record in records:
        groups.setdefault(record.source_id, []).append(record)
    return list(groups.values())


def one_worker(records: Sequence[SourceInfo], worker: str) -> list[SourceInfo]:
    """Those of a worker, named by its id or the beginning of it. Raises `NotFound`, or `InvalidArgument` if it fits
    several."""
    exact = [record for record in records if record.worker_id == worker]
    fitting = exact or [record for record in records if record.worker_id.startswith(worker)]
    if not fitting:
        raise NotFound(f"no worker {clean(worker)!r} holds these weights")
    if len({record.worker_id for record in fitting}) > 1:
        raise InvalidArgument("WORKER", f"several worker ids begin with {clean(worker)!r}")
    return fitting


def record_json(record: SourceInfo) -> dict[str, Any]:
    """A record for programs: the fields of `peerload.client.SourceInfo`, enumerations by name in lower case."""
    fields = dataclasses.asdict(record)
    return {**fields, "status": record.status.name.lower(), "form": record.form.name.lower()}


def status_text(status: Status) -> Text:
    """A status in its colour."""
    name = status.name.lower()
    return Text(name, style=_STYLES.get(name, ""))


def standing(record: SourceInfo) -> Text:
    """A worker's status in its colour, and whether it has failed those who read from it."""
    return Text.assemble(status_text(record.status), (" (suspect)", "yellow") if record.suspect else "")


def ranks_text(records: Sequence[SourceInfo]) -> Text:
    """How many workers of one source there are; where they are ranks of replicas, how many of each are there and ready, those
    with missing ones in colour: `3`, `8/8 ranks`, `2 × 8/8 ranks, 7/8 ranks`, `24 (8/8 ranks)`."""
    from peerload.client import replicas

    counts: dict[str, tuple[int, str]] = {}
    alone = 0
    # Whole ones first.
    for replica in sorted(replicas(records), key=lambda replica: len(replica.missing)):
        if len({worker.worker_rank for worker in replica.workers}) == 1 and replica.total in (None, 1):
            alone += len({worker.worker_id for worker in replica.workers})
            continue
        text = str(replica)
        if not replica.name and len(replica.workers) > len({worker.worker_rank for worker in replica.workers}):
            # More workers than ranks, and nobody says which belong together.
            text = f"{len(replica.workers)} ({text})"
        count, _ = counts.get(text, (0, ""))
        counts[text] = count + 1, replica_style(replica)
    parts = [Text(f"{count} × {text}" if count > 1 else text, style) for text, (count, style) in counts.items()]
    return Text(", ").join([Text(str(alone)), *parts] if alone else parts)


def replica_style(replica: Replica) -> str:
    """The colour of a replica: none where it is whole."""
    return "" if not replica.missing else "yellow" if replica.ranks else "red"


def statuses_text(records: Sequence[SourceInfo]) -> Text:
    """How many have which status: `3 ready, 1 stale`."""
    counts: dict[Status, int] = {}
    for record in sorted(records, key=lambda record: record.status, reverse=True):
        counts[record.status] = counts.get(record.status, 0) + 1
    ready_first = sorted(counts, key=lambda status: status.name != "READY")
    return Text(", ").join(Text.assemble(f"{counts[status]} ", status_text(status)) for status in ready_first)


def share_of_load(records: Sequence[SourceInfo]) -> str:
    """The mean load of those that tell theirs, in per cent."""
    loads = [record.load for record in records if record.load is not None]
    return f"{100 * sum(loads) / len(loads):.0f} %" if loads else "-"


def short(identifier: str) -> str:
    """The beginning of a long id; enough to tell workers apart."""
    return clean(identifier, limit=1000)[:_SHORT]


def seen(records: Sequence[SourceInfo]) -> str:
    """How long ago the youngest heartbeat was."""
    return age(min(record.age for record in records))
