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
    from peerload.client import AsyncClient, SourceInfo, Status

__all__ = [
    "by_source",
    "find_named",
    "one_worker",
    "record_json",
    "seen",
    "share_of_load",
    "short",
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
