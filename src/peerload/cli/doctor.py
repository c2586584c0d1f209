"""`peerload doctor`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from peerload.cli.console import err, say, table, write
from peerload.cli.options import Json
from peerload.cli.outcome import FAILED, UNREACHABLE, run, usage_error
from peerload.cli.text import clean, plural
from peerload.errors import InvalidArgument
from peerload.finding import Finding, Level, worst

if TYPE_CHECKING:
    from peerload.doctor.engines import EngineReport
    from peerload.doctor.store import StoreReport
    from peerload.server.settings import Settings

__all__ = ["command"]

_STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_LONG: Final = 1_000


def command(
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The store to examine, as for `peerload serve`. Else PEERLOAD_STORE, or the names of existing deployments (MX_METADATA_BACKEND, REDIS_URL …), else sqlite: in the user's state folder.",
            show_default=False,
        ),
    ] = None,
    engines: Annotated[
        bool,
        typer.Option(
            "--engines",
            help="Examine, in place of the store, the engines that move bytes between workers: run it where a worker will run.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Examine the store before servers use it, or the engines before workers do.

    Says what was found, why it matters and what to do: whether the store is there and of this release's layout, its settings,
    rights, room, replicas and clock, and how fast it is. It is tried by writing and reading back; what was written is
    removed, also after Ctrl-C. No server need run, and those that do are not disturbed.

    Run it where a server will run, as the user that it will run as.

    With --engines each engine that is installed moves 64 MiB between two processes here: what works, how fast, and what is
    missing. Those in use are what PEERLOAD_ENGINES says, else memfd and tcp; only about these anything is a problem.

    \b
      peerload doctor
      peerload doctor --store redis://redis.internal:6379
      peerload doctor --store kubernetes:inference
      peerload doctor --engines
      peerload doctor --json | jq '.store.findings[] | select(.level != "ok")'

    Exit status: 0 nothing is wrong (there may be warnings), 1 a problem, 2 wrong usage, 4 the store could not be reached.
    """
    from peerload.server.settings import resolve

    if engines:
        if store is not None:
            usage_error("--store and --engines exclude each other")
        run(lambda: _engines(as_json))
        return
    try:
        settings = resolve({"store": store}).settings
    except InvalidArgument as error:
        usage_error(str(error))
    run(lambda: _doctor(settings, as_json))


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
    main = asyncio.current_task()
    assert main is not None
    with contextlib.suppress(NotImplementedError):
        # SIGTERM ends it as Ctrl-C does: what was written to try the store is removed.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    with err().status(f"Examining {clean(store.url)} …") if sys.stderr.isatty() else contextlib.nullcontext():
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
    from peerload.client.settings import ClientSettings
    from peerload.client.threads import in_thread
    from peerload.clock import SystemClock
    from peerload.doctor.engines import examinable, examine_engine

    try:
        used = ClientSettings.from_env().engines
        names = [*used, *(name for name in examinable() if name not in used)]
    except InvalidArgument as error:
        usage_error(str(error))
    main = asyncio.current_task()
    assert main is not None
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    clock = SystemClock()

    def examine(stop: threading.Event) -> list[EngineReport]:
        return [examine_engine(name, used=name in used, clock=clock, stop=stop) for name in names if not stop.is_set()]

    with err().status("Moving bytes …") if sys.stderr.isatty() else contextlib.nullcontext():
        with ThreadPoolExecutor(1) as executor:
            reports = await in_thread(executor, examine)
    level = worst(finding for report in reports for finding in report.findings)
    if as_json:
        typer.echo(json.dumps({"level": level, "engines": [_engine_json(report) for report in reports]}, indent=2))
    else:
        made = table("ENGINE", "IN USE", "LEVEL", "FOUND")
        for report in reports:
            for finding in report.findings:
                in_use = "yes" if report.used else "-"
                made.add_row(report.name, in_use, Text(finding.level, style=_STYLES[finding.level]), _text(finding))
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
        "findings": _findings(report.findings),
    }


def _findings(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [{"level": finding.level, "what": finding.what, "advice": finding.advice} for finding in findings]


def _show(report: StoreReport) -> None:
    say(f"Store {clean(report.url)}", style="bold")
    made = table("LEVEL", "FOUND")
    for finding in report.findings:
        made.add_row(Text(finding.level, style=_STYLES[finding.level]), _text(finding))
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
    say(verdict, style=_STYLES[report.level])


def _text(finding: Finding) -> Text:
    """On a terminal the advice has a line of its own; piped, a finding is one line."""
    if not finding.advice or not sys.stdout.isatty():
        return Text(clean(str(finding), limit=_LONG))
    return Text.assemble(clean(finding.what, limit=_LONG), "\n", (f"→ {clean(finding.advice, limit=_LONG)}", "bold"))


def _json(report: StoreReport) -> dict[str, Any]:
    """The report for programs, a member for each part that was examined."""
    return {
        "level": report.level,
        "store": {
            "url": report.url,
            "reached": report.reached,
            "rehearsed": report.rehearsed,
            "level": report.level,
            "findings": _findings(report.findings),
        },
    }
