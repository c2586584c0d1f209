"""`peerload pull`."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peerload.cli.connect import connect
from peerload.cli.console import err, print_json, remark, say
from peerload.cli.options import AllowCode, Host, Json, LimitRate, Server
from peerload.cli.outcome import run
from peerload.cli.progress import Bar
from peerload.cli.serving import StopSignal, announce, serve, state_changed
from peerload.cli.share import tell_skipped
from peerload.cli.text import clean, duration, rate, size

if TYPE_CHECKING:
    from peerload.client import Attempt, PulledFolder, PullProgress
    from peerload.client.source import AsyncSource

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's exact name.", show_default=False)],
    local_dir: Annotated[
        Path, typer.Option("--local-dir", "-o", metavar="DIR", help="The folder to fill.", show_default=False)
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Only this revision of the model.", show_default=False)
    ] = None,
    content: Annotated[
        str,
        typer.Option(
            "--content",
            metavar="HEX",
            help="Only the content whose digest begins so; tells sources apart that share a name and a revision.",
            show_default=False,
        ),
    ] = "",
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="Wait this long for somebody to have it.", show_default=False
        ),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Become a source of it afterwards, until Ctrl-C.")] = False,
    allow_code: AllowCode = False,
    limit_rate: LimitRate = None,
    host: Host = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Fetch a model from a peer that has it, verified, byte for byte.

    Tries the nearest and least busy source first and goes on with another when one fails. Files appear under their
    names only when everything is there and verified; a pull that was killed is finished by the same command, which
    takes over what was verified before.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 nobody has it, 4 the server could not be asked, 130 interrupted.

    \b
      peerload pull org/name --local-dir ./copy
      peerload pull org/name --local-dir ./copy --wait 600 --share
    """
    run(lambda: _pull(model, local_dir, revision, content, wait, share, allow_code, limit_rate, host, as_json, server))


async def _pull(
    model: str,
    local_dir: Path,
    revision: str | None,
    content: str,
    wait: float | None,
    share: bool,
    allow_code: bool,
    limit_rate: str | None,
    host: str | None,
    as_json: bool,
    server: str | None,
) -> None:
    async with connect(server, host=host, limit_rate=limit_rate) as client:
        with ExitStack() as stack:
            show = _Json() if as_json else _Person(model, stack.enter_context(Bar(err())))
            folder = await client.pull_folder(
                model,
                local_dir,
                revision=revision,
                content=content,
                wait=wait,
                share=share,
                allow_code=allow_code,
                progress=show.progress,
                on_event=lambda event: state_changed(event, as_json),
            )
        stop = StopSignal() if folder.source is not None else None
        for attempt in folder.report.attempts:
            if attempt.error:
                _tell_attempt(attempt, as_json)
        tell_skipped(folder.skipped, as_json)
        _tell_pulled(model, folder, as_json)
        if folder.source is not None and stop is not None:
            announce(folder.source, as_json)
            await serve(folder.source, stop, as_json)


class _Person:
    """Progress for people."""

    def __init__(self, model: str, bar: Bar) -> None:
        self._model = clean(model)
        self._bar = bar
        self._waiting: str | None = None

    def progress(self, step: PullProgress) -> None:
        if step.phase == "waiting":
            if step.reason:
                self._bar.say(f"Waiting: {clean(step.reason)}; trying again.", "yellow")
            elif self._waiting != "":
                self._bar.say(f"Waiting for a source of {self._model}.")
            self._waiting = step.reason
        elif step.phase == "checking":
            self._bar.update("Checking what is here already", step.bytes_done, step.bytes_total)
        else:
            who = f" from {clean(str(step.source))}" if step.source else ""
            self._bar.update(f"{self._model}{who}", step.bytes_done, step.bytes_total)


class _Json:
    """Progress for programs."""

    def progress(self, step: PullProgress) -> None:
        if step.phase == "waiting":
            print_json({"event": "waiting", "reason": step.reason})
            return
        print_json(
            {
                "event": "progress" if step.phase == "reading" else step.phase,
                "bytes_done": step.bytes_done,
                "bytes_total": step.bytes_total,
                "bytes_reused": step.bytes_reused,
                "worker_id": step.source.worker_id if step.source else "",
                "address": step.address,
            }
        )


def _tell_attempt(attempt: Attempt, as_json: bool) -> None:
    """A source that did not give everything."""
    if as_json:
        print_json(
            {
                "event": "attempt",
                "worker_id": attempt.source.worker_id,
                "address": attempt.address,
                "bytes": attempt.bytes_verified,
                "error": attempt.error,
            }
        )
    else:
        remark(f"Moved on from {clean(str(attempt), limit=400)}", "yellow")


def _tell_pulled(model: str, folder: PulledFolder[AsyncSource], as_json: bool) -> None:
    """The sum of it."""
    report = folder.report
    if as_json:
        print_json(
            {
                "event": "pulled",
                "model": model,
                "revision": folder.identity.revision,
                "content": folder.checkpoint.content,
                "local_dir": str(folder.local_dir),
                "files": len(folder.checkpoint.files),
                "bytes_total": report.bytes_total,
                "bytes_moved": report.bytes_moved,
                "bytes_reused": report.bytes_reused,
                "seconds": report.seconds,
                "waited": report.waited,
                "sources": [
                    {"worker_id": served.source.worker_id, "address": served.address, "bytes": served.bytes_verified}
                    for served in report.sources
                ],
                "verified": dataclasses.asdict(report.verified),
            }
        )
        return
    sources = " and ".join(
        f"{size(served.bytes_verified)} from {clean(str(served.source))}" for served in report.sources
    )
    moved = (
        f"moved {size(report.bytes_moved)} in {duration(report.seconds)} ({rate(report.bytes_moved, report.seconds)})"
    )
    say(
        f"Pulled {clean(model)} to {clean(str(folder.local_dir))}: {moved}, reused {size(report.bytes_reused)}"
        f"{f'; {sources}' if sources else ''}; verified {report.verified}.",
        "green",
    )
