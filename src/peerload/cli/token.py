"""`peerload token`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from peerload.cli.console import print_json, remark
from peerload.cli.options import Json
from peerload.cli.outcome import FAILED, explain, usage_error
from peerload.errors import InvalidArgument

__all__ = ["command"]


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is: what it publishes belongs to NAME.")],
    role: Annotated[
        str,
        typer.Option(metavar="ROLE", help="read, publish (and update and withdraw its own), or admin (everybody's)."),
    ] = "publish",
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models", metavar="PATTERN", help="Only these models, as in 'org/*'; may be repeated. Else all."
        ),
    ] = None,
    access: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add the entry to this access file, which running servers then read again."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bearer token for clients, and its entry for the servers' access file.

    The token is 256 random bits. It is written to standard output, once: the access file has its hash alone. Workers send what
    is in the file that MX_AUTH_TOKEN_PATH names.

    \b
      peerload token ci --access /etc/peerload/access.toml > ci.token
      peerload token team-a --models 'team-a/*' >> tokens
      peerload token operator --role admin
    """
    from peerload.server.security.minting import add, mint

    try:
        minted = mint(name, role, models or [])
    except InvalidArgument as error:
        usage_error(str(error))
    if access is not None:
        try:
            add(access, minted.entry)
        except (InvalidArgument, OSError) as error:
            explain(error)
            raise typer.Exit(FAILED) from None
    if as_json:
        answer: dict[str, Any] = {"name": name, "token": minted.token, "sha256": minted.sha256, "entry": minted.entry}
        print_json(answer)
        return
    if access is not None:
        remark(f"added to {access}")
    else:
        remark("for the access file of the servers (--access):")
        typer.echo(f"\n{minted.entry}", err=True)
    typer.echo(minted.token)
