"""`peerload share`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peerload.cli.connect import connect
from peerload.cli.console import err, print_json, remark
from peerload.cli.options import AllowCode, Host, Json, LimitRate, Server
from peerload.cli.outcome import run
from peerload.cli.progress import Bar
from peerload.cli.serving import StopSignal, announce, serve, state_changed
from peerload.cli.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peerload.checkpoint import Skipped

__all__ = ["command", "tell_skipped"]


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The model's files.", show_default=False)],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="ORG/NAME", help="The name to share it under.", show_default=False)
    ],
    revision: Annotated[
        str, typer.Option("--revision", help="Which revision of the model it is.", show_default=False)
    ] = "",
    allow_code: AllowCode = False,
    limit_rate: LimitRate = None,
    host: Host = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Offer a model's folder to peers, until Ctrl-C.

    Reads every file once for its digests, then serves them from memory maps, without a second copy. Files that may run
    code are left out and named, unless --allow-code. The files must not change while they are shared.

    \b
      peerload share ./my-model --model org/name
      peerload share ./my-model --model org/name --revision abc123 --server peerload:8001
    """
    run(lambda: _share(folder, model, revision, allow_code, limit_rate, host, as_json, server))


async def _share(
    folder: Path,
    model: str,
    revision: str,
    allow_code: bool,
    limit_rate: str | None,
    host: str | None,
    as_json: bool,
    server: str | None,
) -> None:
    async with connect(server, host=host, limit_rate=limit_rate) as client:
        with Bar(err()) as bar:

            def progress(done: int, total: int) -> None:
                if not as_json:
                    bar.update(f"Reading {clean(str(folder))}", done, total)

            source = await client.share(
                folder,
                model=model,
                revision=revision,
                allow_code=allow_code,
                progress=progress,
                on_event=lambda event: state_changed(event, as_json),
            )
        stop = StopSignal()
        tell_skipped(source.skipped, as_json)
        announce(source, as_json)
        await serve(source, stop, as_json)


def tell_skipped(skipped: Sequence[Skipped], as_json: bool) -> None:
    """Name what was left out, and why."""
    for item in skipped:
        if as_json:
            print_json({"event": "skipped", "path": item.path, "reason": item.reason})
        else:
            remark(f"Left out: {clean(item.path)} ({item.reason})", "yellow")
