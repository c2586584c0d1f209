"""`peerload pull`."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import err, print_json, remark
from peerload.cli.options import AllowCode, CacheDir, Host, Json, LimitRate
from peerload.cli.outcome import run, usage_error
from peerload.cli.progress import Bar
from peerload.cli.pulled import JsonProgress, PersonProgress, tell_attempts, tell_pulled
from peerload.cli.serving import StopSignal, announce, serve, state_changed
from peerload.cli.share import tell_skipped

if TYPE_CHECKING:
    from peerload.client import AsyncClient, PulledFolder, PulledModel
    from peerload.client.source import AsyncSource

__all__ = ["command"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be pulled, and where to."""

    model: str
    revision: str | None
    content: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    allow_code: bool
    local_dir: Path | None
    cache_dir: Path | None
    wait: float | None
    or_download: bool


@dataclass(frozen=True, slots=True)
class Afterwards:
    """What becomes of it: whether it is shared until told to stop, and else how long a download waits for readers."""

    share: bool
    linger: float


@with_server
def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's exact name.", show_default=False)],
    local_dir: Annotated[
        Path | None,
        typer.Option(
            "--local-dir",
            "-o",
            metavar="DIR",
            help="The folder to fill, instead of the Hugging Face cache.",
            show_default=False,
        ),
    ] = None,
    cache_dir: CacheDir = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision", help="Only this commit, or what sources know as this branch or tag.", show_default=False
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Only files that fit; may be repeated.", show_default=False),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="No files that fit; may be repeated.", show_default=False),
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
    or_download: Annotated[
        bool,
        typer.Option(
            "--or-download", help="If nobody has it, download it from the hub: one of the fleet does, the others wait."
        ),
    ] = False,
    linger: Annotated[
        float,
        typer.Option(
            "--linger",
            metavar="SECONDS",
            min=0,
            help="After a download, serve those who wait until nobody has read for so long.",
        ),
    ] = 10.0,
    share: Annotated[bool, typer.Option("--share", help="Become a source of it afterwards, until Ctrl-C.")] = False,
    allow_code: AllowCode = False,
    limit_rate: LimitRate = None,
    host: Host = None,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Fetch a model from a peer that has it, verified, byte for byte.

    Into the Hugging Face cache, where from_pretrained and vLLM find it under its name, or with --local-dir into a folder.
    Tries the nearest and least busy source first and goes on with another when one fails. Files appear under their
    names only when everything is there and verified; a pull that was killed is finished by the same command, which
    takes over what was verified before.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 nobody has it, 4 the server could not be asked, 130 interrupted.

    \b
      peerload pull org/name
      peerload pull org/name --or-download --share
      peerload pull org/name --local-dir ./copy --wait 600 --share
    """
    if local_dir is not None and (cache_dir is not None or or_download):
        usage_error("--local-dir does not go with --cache-dir and --or-download: these fill the Hugging Face cache")
    request = Request(
        model,
        revision,
        content,
        tuple(include or ()),
        tuple(exclude or ()),
        allow_code,
        local_dir,
        cache_dir,
        wait,
        or_download,
    )

    async def work() -> None:
        async with connect(server, host=host, limit_rate=limit_rate) as client:
            await _pull(client, request, Afterwards(share, linger), as_json)

    run(work)


async def _pull(client: AsyncClient, request: Request, afterwards: Afterwards, as_json: bool) -> None:
    with ExitStack() as stack:
        show = JsonProgress() if as_json else PersonProgress(request.model, stack.enter_context(Bar(err())))
        pulled = await _fetch(client, request, afterwards.share, show, as_json)
    stop = StopSignal() if pulled.source is not None else None
    tell_attempts(pulled.report, as_json)
    tell_skipped(pulled.skipped, as_json)
    tell_pulled(request.model, pulled, as_json)
    if pulled.source is None or stop is None:
        return
    if afterwards.share:
        announce(pulled.source, as_json)
        await serve(pulled.source, stop, as_json)
    else:
        await _linger(pulled.source, afterwards.linger, stop, as_json)


async def _fetch(
    client: AsyncClient, request: Request, share: bool, show: JsonProgress | PersonProgress, as_json: bool
) -> PulledFolder[AsyncSource] | PulledModel[AsyncSource]:
    if request.local_dir is not None:
        return await client.pull_folder(
            request.model,
            request.local_dir,
            revision=request.revision,
            include=request.include,
            exclude=request.exclude,
            content=request.content,
            wait=request.wait,
            share=share,
            allow_code=request.allow_code,
            progress=show.progress,
            on_event=lambda event: state_changed(event, as_json),
        )
    return await client.pull_cached(
        request.model,
        revision=request.revision,
        cache_dir=request.cache_dir,
        include=request.include,
        exclude=request.exclude,
        content=request.content,
        wait=request.wait,
        share=share,
        or_download=request.or_download,
        allow_code=request.allow_code,
        progress=show.progress,
        on_event=lambda event: state_changed(event, as_json),
    )


async def _linger(source: AsyncSource, seconds: float, stop: StopSignal, as_json: bool) -> None:
    """Serve what was downloaded to those who waited for it."""
    if as_json:
        print_json({"event": "lingering", "seconds": seconds, "worker_id": source.worker_id})
    elif seconds:
        remark(f"Serving it to those who waited, until nobody has read for {seconds:g} s.", "dim")
    quiet = asyncio.ensure_future(source.quiet(seconds))
    asked = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((quiet, asked), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (quiet, asked):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await source.close()
