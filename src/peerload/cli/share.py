"""`peerload share`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import err, print_json, remark
from peerload.cli.options import AllowCode, CacheDir, Host, Json, LimitRate
from peerload.cli.outcome import run
from peerload.cli.progress import Bar
from peerload.cli.serving import StopSignal, announce, serve, state_changed
from peerload.cli.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peerload.checkpoint import Skipped
    from peerload.client import AsyncClient, AsyncSource, SourceEvent

__all__ = ["command", "tell_skipped"]

_CACHED: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What can be a model's name on the hub; a path that is no folder, and cannot be one, is a mistyped path."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be shared, and as what."""

    what: str
    model: str
    revision: str
    cache_dir: Path | None
    allow_code: bool

    @property
    def cached(self) -> bool:
        """Whether a model in the cache is meant. What is there as a folder is that folder."""
        if self.cache_dir is not None:
            return True
        return not self.model and not Path(self.what).exists() and _CACHED.fullmatch(self.what) is not None


@with_server
def command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|ORG/NAME",
            help="A folder with the model's files, or the name of a model in the Hugging Face cache.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="ORG/NAME",
            help="The name to share a folder under. A snapshot's path in the Hugging Face cache tells it.",
            show_default=False,
        ),
    ] = "",
    revision: Annotated[
        str,
        typer.Option(
            "--revision",
            help="Which revision of the model the folder is; of a cached model, which one to share, else main.",
            show_default=False,
        ),
    ] = "",
    cache_dir: CacheDir = None,
    allow_code: AllowCode = False,
    limit_rate: LimitRate = None,
    host: Host = None,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Offer a model's files to peers, until Ctrl-C: a folder's, or those in the Hugging Face cache.

    Reads every file once for its digests, then serves them from memory maps, without a second copy. Files that may run
    code are left out and named, unless --allow-code. The files must not change while they are shared.

    \b
      peerload share ./my-model --model org/name
      peerload share ./my-model --model org/name --revision abc123 --server peerload:8001
      peerload share org/name
    """
    request = Request(what, model, revision, cache_dir, allow_code)

    async def work() -> None:
        async with connect(server, host=host, limit_rate=limit_rate) as client:
            source = await _open(client, request, as_json)
            stop = StopSignal()
            tell_skipped(source.skipped, as_json)
            announce(source, as_json)
            await serve(source, stop, as_json)

    run(work)


async def _open(client: AsyncClient, request: Request, as_json: bool) -> AsyncSource:
    with Bar(err()) as bar:

        def progress(done: int, total: int) -> None:
            if not as_json:
                bar.update(f"Reading {clean(request.what)}", done, total)

        def on_event(event: SourceEvent) -> None:
            state_changed(event, as_json)

        if request.cached:
            return await client.share_cached(
                request.what,
                revision=request.revision or None,
                cache_dir=request.cache_dir,
                allow_code=request.allow_code,
                progress=progress,
                on_event=on_event,
            )
        return await client.share(
            request.what,
            model=request.model,
            revision=request.revision,
            allow_code=request.allow_code,
            progress=progress,
            on_event=on_event,
        )


def tell_skipped(skipped: Sequence[Skipped], as_json: bool) -> None:
    """Name what was left out, and why."""
    for item in skipped:
        if as_json:
            print_json({"event": "skipped", "path": item.path, "reason": item.reason})
        else:
            remark(f"Left out: {clean(item.path)} ({item.reason})", "yellow")
