"""`peerload share-artifact`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peerload.cli.artifact import Fields, Kind, Model, Roots, connect_nixl, identity, roots_of
from peerload.cli.connect import ServerOptions, with_server
from peerload.cli.console import err, print_json, say
from peerload.cli.options import Host, Json
from peerload.cli.outcome import run
from peerload.cli.progress import Bar
from peerload.cli.serving import StopSignal, serve, state_changed
from peerload.cli.share import tell_skipped
from peerload.cli.text import clean, size

if TYPE_CHECKING:
    from peerload.client import AsyncArtifact

__all__ = ["command"]


@with_server
def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The cache's folder.", show_default=False)],
    model: Model,
    kind: Kind,
    given: Fields = None,
    root: Roots = None,
    accelerator: Annotated[
        str,
        typer.Option("--accelerator", metavar="NAME", help="Only for this accelerator, as cuda.", show_default=False),
    ] = "",
    node_rank: Annotated[
        int, typer.Option("--node-rank", min=0, help="The node's rank; stock readers want their own.")
    ] = 0,
    spool: Annotated[
        Path | None,
        typer.Option(
            "--spool",
            metavar="DIR",
            help="Where the archive is put; else where temporary files go.",
            show_default=False,
        ),
    ] = None,
    host: Host = None,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Offer an engine's compile cache to peers, until Ctrl-C: workers of the stock package, and pull-artifact.

    The folder is packed into an archive first; what changes in it afterwards is not shared. Needs the extra nixl.

    \b
      peerload share-artifact ~/.triton/cache --model org/name --type triton-cache --with gpu_arch=sm90
    """
    which, roots = identity(model, kind, given), roots_of(root)

    async def work() -> None:
        async with connect_nixl(server, host=host) as client:
            with Bar(err()) as bar:

                def progress(done: int, total: int) -> None:
                    if not as_json:
                        bar.update(f"Packing {clean(str(folder))}", done, total)

                artifact = await client.share_artifact(
                    folder,
                    which,
                    roots=roots,
                    node_rank=node_rank,
                    accelerator=accelerator,
                    spool=spool,
                    progress=progress,
                    on_event=lambda event: state_changed(event, as_json),
                )
            stop = StopSignal()
            tell_skipped(artifact.skipped, as_json)
            _announce(artifact, as_json)
            await serve(artifact, stop, as_json)

    run(work)


def _announce(artifact: AsyncArtifact, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "event": "sharing",
                "model": artifact.identity.model,
                "type": artifact.identity.source_type.name,
                "source_id": artifact.key.source_id,
                "worker_id": artifact.key.worker_id,
                "artifact_id": artifact.artifact_id,
                "bytes": artifact.total_size,
            }
        )
    else:
        say(
            f"Sharing an artifact of {clean(artifact.identity.model)}: {size(artifact.total_size)}, source "
            f"{artifact.key.source_id}, artifact {artifact.artifact_id[:16]}.",
            "green",
        )
