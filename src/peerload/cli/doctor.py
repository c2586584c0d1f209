"""`peerload doctor`."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from peerload.cli import examined
from peerload.cli.connect import ServerOptions, with_server
from peerload.cli.console import say, table, write
from peerload.cli.examined import STYLES, engine_reports, finding_text, findings_json, until_told
from peerload.cli.options import Host, Json
from peerload.cli.outcome import FAILED, UNREACHABLE, run, usage_error
from peerload.cli.text import clean, plural
from peerload.errors import InvalidArgument
from peerload.finding import Level, worst

if TYPE_CHECKING:
    from peerload.doctor.engines import EngineReport
    from peerload.doctor.store import StoreReport
    from peerload.server.settings import Settings

__all__ = ["command"]


class What(enum.StrEnum):
    """What is examined."""

    STORE = "store"
    ENGINES = "engines"
    SERVER = "server"
    WORKER = "worker"


@with_server
def command(
    what: Annotated[
        What,
        typer.Argument(metavar="[store|engines|server|worker]", help="What to examine.", show_default="store"),
    ] = What.STORE,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The store to examine, as for `peerload serve`. Else PEERLOAD_STORE, or the names of existing deployments (MX_METADATA_BACKEND, REDIS_URL …), else sqlite: in the user's state folder.",
            show_default=False,
        ),
    ] = None,
    engines: Annotated[bool, typer.Option("--engines", help="The same as `peerload doctor engines`.")] = False,
    host: Host = None,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Examine a part of a deployment where it is to run, before it does.

    Says what was found, why it matters and what to do.

    store: whether it is there and of this release's layout, its settings, rights, room, replicas and clock, and how fast it is.
    It is tried by writing and reading back; what was written is removed, also after Ctrl-C. No server need run, and those
    that do are not disturbed.

    server: all that `peerload serve` with the same environment needs: its store, ports, TLS files, access file, packages.

    worker: all that a worker needs: the server and its clock, TLS files, a token, whether peers reach this machine, engines.
    The options about the server are for this one.

    engines: each engine that is installed moves 64 MiB between two processes here: what works, how fast, and what is
    missing. Those in use are what PEERLOAD_ENGINES says, else memfd and tcp; only about these anything is a problem.

    Run it where a server or a worker will run, as the user that it will run as.

    \b
      peerload doctor
      peerload doctor --store redis://redis.internal:6379
      peerload doctor --store kubernetes:inference
      peerload doctor server
      peerload doctor worker --server peerload.internal:8001
      peerload doctor engines
      peerload doctor --json | jq '.store.findings[] | select(.level != "ok")'

    Exit status: 0 nothing is wrong (there may be warnings), 1 a problem, 2 wrong usage, 4 the store (of a worker: the server)
    could not be reached.
    """
    from peerload.server.resolving import resolve

    if engines:
        if what not in (What.STORE, What.ENGINES):
            usage_error(f"--engines and {what} exclude each other")
        what = What.ENGINES
    if store is not None and what in (What.ENGINES, What.WORKER):
        usage_error(f"--store and {'--engines' if engines else what} exclude each other")
    if what is What.ENGINES:
        run(lambda: _engines(as_json))
        return
    if what is What.WORKER:
        run(lambda: examined.worker(server, host, as_json))
        return
    try:
        settings = resolve({"store": store}).settings
    except InvalidArgument as error:
        usage_error(str(error))
    run(lambda: examined.server(settings, as_json) if what is What.SERVER else _doctor(settings, as_json))


async def _doctor(settings: Settings, as_json: bool) -> None:
    from peerload.clock import SystemClock
    from peerload.doctor.store import examine_store
    from peerload.plugins import open_store
    from peerload.server import logs

    logs.configure("error", settings.log_format)  # what stores warn of when they are opened is among the findings
    clock = SystemClock()
    try:
        store = open_store(settings.store, clock)
    except InvalidArgument as error:
        usage_error(str(error))
    with until_told(f"Examining {clean(store.url)} …"):
        report = await examine_store(store, clock)
    if as_json:
        typer.echo(json.dumps(_json(report), indent=2))
    else:
        _show(report)
    if not report.reached:
        raise typer.Exit(UNREACHABLE)
    if report.level is Level.PROBLEM:
        raise typer.Exit(FAILED)


async def _engines(as_json: bool) -> None:
    with until_told("Moving bytes …"):
        reports = await engine_reports()
    level = worst(finding for report in reports for finding in report.findings)
    if as_json:
        typer.echo(json.dumps({"level": level, "engines": [_engine_json(report) for report in reports]}, indent=2))
    else:
        made = table("ENGINE", "IN USE", "LEVEL", "FOUND")
        for report in reports:
            for finding in report.findings:
                in_use = "yes" if report.used else "-"
                made.add_row(
                    report.name, in_use, Text(finding.level, style=STYLES[finding.level]), finding_text(finding)
                )
        write(made)
    if level is Level.PROBLEM:
        raise typer.Exit(FAILED)


def _engine_json(report: EngineReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "used": report.used,
        "works": report.works,
        "bytes_per_second": round(report.bytes_per_second),
        "level": report.level,
        "findings": findings_json(report.findings),
    }


def _show(report: StoreReport) -> None:
    say(f"Store {clean(report.url)}", style="bold")
    made = table("LEVEL", "FOUND")
    for finding in report.findings:
        made.add_row(Text(finding.level, style=STYLES[finding.level]), finding_text(finding))
    write(made)
    counts = {level: sum(finding.level is level for finding in report.findings) for level in Level}
    if not report.reached:
        verdict = "The store could not be reached, and nothing is known of it."
    elif counts[Level.PROBLEM]:
        verdict = f"Servers cannot use it: {plural(counts[Level.PROBLEM], 'problem')}."
        if not report.rehearsed:
            verdict += "\nWriting was not tried: mend this first, and ask again."
    elif counts[Level.WARNING]:
        verdict = f"Servers can use it, with {plural(counts[Level.WARNING], 'warning')}."
    else:
        verdict = "Servers can use it."
    say(verdict, style=STYLES[report.level])


def _json(report: StoreReport) -> dict[str, Any]:
    """The report for programs, a member for each part that was examined."""
    return {
        "level": report.level,
        "store": {
            "url": report.url,
            "reached": report.reached,
            "rehearsed": report.rehearsed,
            "level": report.level,
            "findings": findings_json(report.findings),
        },
    }
