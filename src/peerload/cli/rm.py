"""`peerload rm`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import print_json, remark, say
from peerload.cli.options import Json
from peerload.cli.outcome import run, usage_error
from peerload.cli.records import find_named, one_worker
from peerload.cli.text import clean, plural

__all__ = ["command"]


@with_server
def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE|MODEL", help="A source id, or a model's exact name.")],
    worker: Annotated[
        str | None, typer.Argument(metavar="WORKER", help="Only this worker: its id, or the beginning of it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Take source records back.

    Removes what the server keeps, not the weights. A worker that is alive publishes itself again at one of its next heartbeats:
    stop it first.

    \b
      peerload rm org/name
      peerload rm 5a5f555570065064 3f0c --yes
    """
    run(lambda: _rm(source, worker, yes, as_json, server))


async def _rm(source: str, worker: str | None, yes: bool, as_json: bool, server: ServerOptions) -> None:
    async with connect(server) as client:
        records = await find_named(client, source)
        if worker is not None:
            records = one_worker(records, worker)
        if not yes:
            if not sys.stdin.isatty():
                usage_error("nobody is there to confirm: say --yes to remove without asking")
            for record in records:
                remark(
                    f"  {clean(record.model)}  {record.source_id}  {clean(record.worker_id)}  rank {record.worker_rank}"
                    f"  {record.status.name.lower()}"
                )
            if not typer.confirm(f"Remove {plural(len(records), 'record')}?", err=True):
                remark("Nothing was removed.")
                raise typer.Exit(1)
        removed = 0
        for record in records:
            there = await client.withdraw(record.key)
            removed += there
            if as_json:
                print_json(
                    {
                        "source_id": record.source_id,
                        "worker_id": record.worker_id,
                        "worker_rank": record.worker_rank,
                        "removed": there,
                    }
                )
        if not as_json:
            say(f"Removed {plural(removed, 'record')}.")
