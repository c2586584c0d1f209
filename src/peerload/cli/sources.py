"""`peerload sources`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import cell, fitted, remark, say, table, write
from peerload.cli.options import Json
from peerload.cli.outcome import run
from peerload.cli.records import by_source, ranks_text, record_json, seen, share_of_load, short, standing, statuses_text
from peerload.cli.text import age, size

__all__ = ["command"]


@with_server
def command(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model, by its exact name.")] = None,
    workers: Annotated[bool, typer.Option("--workers", "-w", help="A line for each worker and rank.")] = False,
    ready: Annotated[bool, typer.Option("--ready", help="Only workers that can be read from now.")] = False,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """List who holds what.

    One line for each source (weights that are interchangeable), with how many workers hold it; of replicas that are spread over
    several workers, how many of their ranks are ready.

    \b
      peerload sources
      peerload sources org/name --workers
      peerload sources --json | jq '.[].worker_id'
    """
    run(lambda: _sources(model, workers, ready, as_json, server))


async def _sources(model: str | None, workers: bool, ready: bool, as_json: bool, server: ServerOptions) -> None:
    from peerload.client import Selector, Status

    async with connect(server) as client:
        records = list(await client.find(Selector(model=model or "", status=Status.READY if ready else None)))
        address = client.address
    if as_json:
        typer.echo(json.dumps([record_json(record) for record in records], indent=2))
        return
    if not records:
        what = f"sources of {model!r}" if model else "sources"
        remark(f"The server at {address} knows no {'live ' if ready else ''}{what}.")
        return
    if workers:
        made = table(
            "MODEL", "SOURCE", "WORKER", "RANK", "STATUS", "SEEN", "LOAD", "HOST", "POD", right=("RANK", "LOAD")
        )
        for record in records:
            made.add_row(
                cell(record.model),
                cell(record.source_id),
                short(record.worker_id),
                str(record.worker_rank),
                standing(record),
                f"{age(record.age)} ago",
                share_of_load([record]),
                cell(record.topology.get("host", "")),
                cell(record.pod_name),
            )
        write(fitted(made, "POD", "LOAD", "SOURCE", "SEEN"))
        return
    made = table(
        "MODEL", "FORM", "REVISION", "SOURCE", "WORKERS", "STATUS", "SEEN", "LOAD", "SIZE", "ENGINES", right=("SIZE",)
    )
    for group in by_source(records):
        first = group[0]
        made.add_row(
            cell(first.model),
            "-" if first.form.name == "UNSPECIFIED" else first.form.name.lower(),
            cell(first.revision or "-"),
            cell(first.source_id),
            ranks_text(group),
            statuses_text(group),
            f"{seen(group)} ago",
            share_of_load(group),
            size(first.total_size) if first.total_size else "-",
            cell(", ".join(sorted({engine for record in group for engine in record.engines})) or "-"),
        )
    write(fitted(made, "ENGINES", "LOAD", "FORM", "REVISION", "SEEN"))
    if len(records) != len(by_source(records)):
        say("--workers lists each worker.", style="dim")
