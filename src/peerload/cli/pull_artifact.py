"""`peerload pull-artifact`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peerload.cli.artifact import Fields, Kind, Model, Roots, connect_nixl, identity, roots_of
from peerload.cli.connect import ServerOptions, with_server
from peerload.cli.console import err, print_json, say
from peerload.cli.options import Json
from peerload.cli.outcome import run
from peerload.cli.progress import Bar
from peerload.cli.pulled import JsonProgress, PersonProgress, tell_failures
from peerload.cli.text import clean, duration, plural, size

if TYPE_CHECKING:
    from peerload.client import PulledArtifact

__all__ = ["command"]


@with_server
def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to fill.", show_default=False)],
    model: Model,
    kind: Kind,
    given: Fields = None,
    root: Roots = None,
    artifact_id: Annotated[
        str,
        typer.Option(
            "--artifact-id", metavar="HEX", help="Only this artifact, as share-artifact said.", show_default=False
        ),
    ] = "",
    accelerator: Annotated[
        str,
        typer.Option("--accelerator", metavar="NAME", help="None that is for another accelerator.", show_default=False),
    ] = "",
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", min=0, help="Only from nodes of this rank.", show_default=False)
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="Wait this long for somebody to have it.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Fetch an engine's compile cache from a worker that shares it, of the stock package or Peerload's.

    Nothing is in place before every checksum was right. What is pulled is code that the engine will run: whoever may publish
    at the server can have it run here. Needs the extra nixl.

    \b
      peerload pull-artifact ~/.triton/cache --model org/name --type triton-cache --with gpu_arch=sm90
    """
    which, roots = identity(model, kind, given), roots_of(root)

    async def work() -> None:
        async with connect_nixl(server) as client:
            with Bar(err()) as bar:
                show = JsonProgress() if as_json else PersonProgress(model, bar)
                pulled = await client.pull_artifact(
                    which,
                    folder,
                    roots=roots,
                    artifact_id=artifact_id,
                    node_rank=node_rank,
                    accelerator=accelerator,
                    wait=wait,
                    progress=show.progress,
                )
            tell_failures(pulled.attempts, as_json)
            _tell(pulled, as_json)

    run(work)


def _tell(pulled: PulledArtifact, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "event": "pulled",
                "model": pulled.identity.model,
                "type": pulled.identity.source_type.name,
                "artifact_id": pulled.artifact_id,
                "local_dir": str(pulled.local_dir),
                "files": pulled.files,
                "bytes_total": pulled.bytes_total,
                "bytes_reused": pulled.bytes_reused,
                "seconds": pulled.seconds,
            }
        )
    else:
        say(
            f"Pulled an artifact of {clean(pulled.identity.model)} to {clean(str(pulled.local_dir))}: "
            f"{plural(pulled.files, 'file')}, {size(pulled.bytes_total)} in {duration(pulled.seconds)}, reused "
            f"{size(pulled.bytes_reused)}; every CRC32C is right.",
            "green",
        )
