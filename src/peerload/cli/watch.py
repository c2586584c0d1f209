"""`peerload watch`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import out, print_json, remark
from peerload.cli.options import Json
from peerload.cli.outcome import run
from peerload.cli.records import record_json, short
from peerload.cli.text import clean, plural, size

if TYPE_CHECKING:
    from peerload.client import SourceChange, SourceInfo, SourceKey
    from peerload.errors import Unavailable

__all__ = ["command"]


@with_server
def command(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model, by its exact name.")] = None,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Show every change to the sources as it happens, until Ctrl-C.

    First what is there (+), then what appears (+), changes (~) and goes (-). With --json one object a line, with the members
    `event` (`present` or `gone`) and the record's.

    \b
      peerload watch
      peerload watch org/name --json
    """
    run(lambda: _watch(model, as_json, server))


async def _watch(model: str | None, as_json: bool, server: ServerOptions) -> None:
    from peerload.client import Selector

    known: dict[SourceKey, SourceInfo] = {}
    selector = Selector(model=model or "")
    async with connect(server) as client:
        # A watch rides out outages; that there is a server at all is asked first.
        await client.find(selector)
        away = False

        def outage(error: Unavailable) -> None:
            nonlocal away
            away = True
            remark(f"{clean(str(error))}; trying again.", "yellow")

        async for change in client.watch(selector, on_outage=outage):
            if away:
                away = False
                remark("The server is back.", "green")
            for event, record in _steps(known, change):
                if as_json:
                    print_json({"event": "gone" if event == "-" else "present", **record_json(record)})
                else:
                    _line(event, record)
            if change.complete and not known and not as_json:
                remark(f"The server at {client.address} knows no {'such ' if model else ''}sources yet; waiting.")


def _steps(known: dict[SourceKey, SourceInfo], change: SourceChange) -> list[tuple[str, SourceInfo]]:
    """What a step of the watch changes: (sign, record) pairs. `known` is brought up to date."""
    gone = list(change.gone)
    if change.complete:
        gone += [key for key in known if key not in {record.key for record in change.present}]
    steps = [("-", known.pop(key)) for key in gone if key in known]
    for record in change.present:
        before = known.get(record.key)
        if before is None or _told(before) != _told(record):
            steps.append(("+" if before is None else "~", record))
        known[record.key] = record
    return steps


def _told(record: SourceInfo) -> tuple[Any, ...]:
    """What of a record is worth a line when it changes: not its heartbeat."""
    return (record.status, record.total_size, record.item_count, record.training_step, record.published_at)


def _line(event: str, record: SourceInfo) -> None:
    words = [clean(record.model), record.source_id, f"worker {short(record.worker_id)}", f"rank {record.worker_rank}"]
    if event != "-":
        words.append(record.status.name.lower())
        if record.total_size:
            words.append(f"{size(record.total_size)} in {plural(record.item_count, 'item')}")
        if host := record.topology.get("host"):
            words.append(f"on {clean(host)}")
    else:
        words.append("gone")
    style = {"+": "green", "-": "red", "~": "yellow"}[event]
    out().print(
        Text.assemble((time.strftime("%H:%M:%S "), "dim"), (event, style), " ", "  ".join(words)), soft_wrap=True
    )
