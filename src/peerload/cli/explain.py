"""`peerload explain`."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import cell, remark, say, table, write
from peerload.cli.options import Json
from peerload.cli.outcome import NOBODY, run
from peerload.cli.records import by_source, record_json, seen, short, statuses_text
from peerload.cli.text import age, clean, plural

if TYPE_CHECKING:
    from peerload.client import AsyncClient, Explanation
    from peerload.client.explanation import Miss

__all__ = ["command"]

_SOURCE_ID: Final = re.compile(r"[0-9a-f]{16}")
_LONG: Final = 1_000
"""Characters of a verdict: it may name several fields."""


@with_server
def command(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL|SOURCE", help="A model's name or a source id; else every list of late."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many reasons.")] = 20,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Say why a worker found no source and loaded from disk.

    Lists that matched nothing, the latest first, each with what differs from the nearest source; then what there is now. A
    server remembers the last thousand that it was asked itself, since it started: of several servers ask each.

    \b
      peerload explain org/name
      peerload explain org/name --json | jq '.misses[].verdict.text'
      peerload explain --server 10.0.0.5:8001
    """
    run(lambda: _explain(model, limit, as_json, server))


async def _explain(name: str | None, limit: int, as_json: bool, server: ServerOptions) -> None:
    async with connect(server) as client:
        found = await _ask(client, name, limit)
    if as_json:
        typer.echo(json.dumps(_json(found), indent=2))
    else:
        _show(found, name)
    if name is not None and not found.misses and not found.sources:
        raise typer.Exit(NOBODY)


async def _ask(client: AsyncClient, name: str | None, limit: int) -> Explanation:
    """What there is to tell of a source id, if it is one that the server has heard of, else of a model."""
    if name is not None and _SOURCE_ID.fullmatch(name):
        found = await client.explain(source_id=name, limit=limit)
        if found.misses or found.sources:
            return found
    return await client.explain(name, limit=limit)


def _show(found: Explanation, name: str | None) -> None:
    what = clean(name) if name is not None else "any model"
    memory = (
        f"the server {clean(found.server)} ({clean(found.listen)}), which remembers the last {age(found.memory_age)}"
    )
    if not found.misses:
        say(f"Nobody has asked for {what} in vain at {memory}.")
    else:
        count = plural(found.misses_total, "reason")
        say(f"Lists for {what} that matched nothing: {count}, the latest first, from {memory}.", "bold")
        for miss in found.misses:
            _miss(miss, named=name is not None)
        if found.misses_total > len(found.misses):
            say(f"… {plural(found.misses_total - len(found.misses), 'more reason')}; --limit shows more.", style="dim")
    if found.unanswered is not None:
        missing = found.unanswered
        say(
            f"{plural(missing.count, 'list')} could not be answered because of an outage, the last {age(missing.age)} ago "
            f"({clean(missing.reason)}): these say nothing about what there was.",
            "yellow",
        )
    if found.live is not None:
        _now(found)


def _miss(miss: Miss, *, named: bool) -> None:
    at_least = "at least " if miss.more_peers else ""
    peers = ", ".join(clean(peer) for peer in miss.peers) + (", …" if miss.peer_count > len(miss.peers) else "")
    times = "once" if miss.count == 1 else f"{miss.count:,} times, first {age(miss.first_age)} ago,"
    who = f"by {peers}" if miss.peer_count == 1 else f"by {at_least}{plural(miss.peer_count, 'host')} ({peers})"
    say("")
    say(f"  {age(miss.age)} ago, {times} {who}", "dim")
    say(f"    {clean(miss.verdict.text, _LONG)}", "yellow")
    asked = " · ".join(
        f"{clean(each.field)}{f'[{clean(each.key)}]' if each.key else ''} {clean(each.value)}" for each in miss.asked
    )
    say(f"    asked for ({miss.call}): {asked or 'all sources'}")
    nearest = miss.verdict
    if nearest.nearest_source_id:
        say(f"    nearest: source {nearest.nearest_source_id} of {clean(nearest.nearest_model)}")


def _now(found: Explanation) -> None:
    assert found.live is not None
    say("")
    say(f"Now, by name alone: {clean(found.live.text, _LONG)}.", "" if found.live.findings else "green")
    if not found.sources:
        return
    made = table("MODEL", "SOURCE", "WORKERS", "RANKS", "STATUS", "SEEN")
    for group in by_source(found.sources):
        ranks = sorted({record.worker_rank for record in group})
        shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
        workers = list(dict.fromkeys(record.worker_id for record in group))
        made.add_row(
            cell(group[0].model),
            cell(group[0].source_id),
            short(workers[0]) if len(workers) == 1 else str(len(workers)),
            shown,
            statuses_text(group),
            f"{seen(group)} ago",
        )
    write(made)
    if found.sources_total > len(found.sources):
        remark(f"… of {found.sources_total:,} workers the first {len(found.sources):,}.", "dim")


def _json(found: Explanation) -> dict[str, Any]:
    """For programs: the fields of `peerload.client.Explanation`."""
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return {
        **fields,
        "misses": [dataclasses.asdict(miss) for miss in found.misses],
        "live": None if found.live is None else dataclasses.asdict(found.live),
        "unanswered": None if found.unanswered is None else dataclasses.asdict(found.unanswered),
        "sources": [record_json(record) for record in found.sources],
    }
