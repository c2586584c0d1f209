"""`peerload doctor server` and `peerload doctor worker`: several parts examined, and told as one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import typer
from rich.text import Text

from peerload.cli.connect import ServerOptions, connect
from peerload.cli.console import err, table, write
from peerload.cli.outcome import FAILED, UNREACHABLE, usage_error
from peerload.cli.text import clean
from peerload.errors import InvalidArgument
from peerload.finding import Finding, Level, worst

if TYPE_CHECKING:
    from peerload.doctor.engines import EngineReport
    from peerload.doctor.part import Part
    from peerload.server.settings import Settings

__all__ = ["STYLES", "engine_reports", "finding_text", "findings_json", "server", "until_told", "worker"]

STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_LONG: Final = 1_000


async def server(settings: Settings, as_json: bool) -> None:
    """Examine what a server with these settings needs here, its store too."""
    from peerload.clock import SystemClock
    from peerload.doctor.part import Part
    from peerload.doctor.server import examine_server
    from peerload.doctor.store import examine_store
    from peerload.plugins import open_store
    from peerload.server import logs

    logs.configure("critical", settings.log_format)  # what is logged on the way is among the findings
    clock = SystemClock()
    try:
        store = open_store(settings.store, clock)
    except InvalidArgument as error:
        usage_error(str(error))
    with until_told("Examining …"):
        parts = await examine_server(settings, clock)
        report = await examine_store(store, clock)
    _tell([*parts, Part("store", report.findings)], as_json, reached=report.reached)


async def worker(options: ServerOptions, host: str | None, as_json: bool) -> None:
    """Examine what a worker needs here, its engines too."""
    from peerload.client.addresses import servers
    from peerload.clock import SystemClock
    from peerload.doctor.part import Part
    from peerload.doctor.worker import examine_worker

    clock = SystemClock()
    with until_told("Examining …"):
        try:
            client = connect(options, host=host)
            places = servers(options.address)
        except InvalidArgument as error:
            usage_error(str(error))
        async with client:
            parts, reached = await examine_worker(client, places, host, clock)
        reports = await engine_reports(idle=False)
    engines = [Part(f"engine {report.name}", report.findings) for report in reports]
    _tell([*parts, *engines], as_json, reached=reached)


async def engine_reports(*, idle: bool = True) -> list[EngineReport]:
    """Have every engine that is in use move bytes; with `idle` those too that are merely installed."""
    from peerload.client.settings import ClientSettings
    from peerload.client.threads import in_thread
    from peerload.clock import SystemClock
    from peerload.doctor.engines import examinable, examine_engine

    try:
        used = ClientSettings.from_env().engines
        names = [*used, *(name for name in examinable() if idle and name not in used)]
    except InvalidArgument as error:
        usage_error(str(error))
    clock = SystemClock()

    def examine(stop: threading.Event) -> list[EngineReport]:
        return [examine_engine(name, used=name in used, clock=clock, stop=stop) for name in names if not stop.is_set()]

    with ThreadPoolExecutor(1) as executor:
        return await in_thread(executor, examine)


@contextlib.contextmanager
def until_told(text: str) -> Iterator[None]:
    """Say what goes on, where somebody looks. SIGTERM ends it as Ctrl-C does: what was written to try something is removed."""
    main = asyncio.current_task()
    assert main is not None
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    with err().status(text) if sys.stderr.isatty() else contextlib.nullcontext():
        yield


def finding_text(finding: Finding) -> Text:
    """On a terminal the advice has a line of its own; piped, a finding is one line."""
    if not finding.advice or not sys.stdout.isatty():
        return Text(clean(str(finding), limit=_LONG))
    return Text.assemble(clean(finding.what, limit=_LONG), "\n", (f"→ {clean(finding.advice, limit=_LONG)}", "bold"))


def findings_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings for programs."""
    return [{"level": finding.level, "what": finding.what, "advice": finding.advice} for finding in findings]


def _tell(parts: Sequence[Part], as_json: bool, *, reached: bool) -> None:
    level = worst(finding for part in parts for finding in part.findings)
    if as_json:
        told = [{"name": part.name, "level": part.level, "findings": findings_json(part.findings)} for part in parts]
        typer.echo(json.dumps({"level": level, "parts": told}, indent=2))
    else:
        made = table("PART", "LEVEL", "FOUND")
        for part in parts:
            for finding in part.findings:
                made.add_row(part.name, Text(finding.level, style=STYLES[finding.level]), finding_text(finding))
        write(made)
    if not reached:
        raise typer.Exit(UNREACHABLE)
    if level is Level.PROBLEM:
        raise typer.Exit(FAILED)
