"""`peerload health`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Annotated

import typer

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import say
from peerload.cli.options import Json
from peerload.cli.outcome import FAILED, run, usage_error
from peerload.cli.text import clean

__all__ = ["command"]


@with_server
def command(
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Ask only whether the server answers at all, as liveness probes do: a restart would not bring back a store.",
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=600.0, help="How long to wait for the answer.")
    ] = 3.0,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Ask a server whether it can answer calls: for probes, and for people.

    Readiness is the default: it fails while the store has been away for longer than the heartbeat timeout, and while the server
    stops. Nobody need be allowed to ask. It is asked once; where no server is named, it is the one on this machine, at the
    port of PEERLOAD_LISTEN.

    \b
      peerload health
      peerload health --live
      peerload health --server https://peerload.internal:8001 --json

    Exit status: 0 it can, 1 it cannot now, 2 wrong usage, 4 it could not be asked.
    """
    run(lambda: _health(live, timeout, as_json, server))


async def _health(live: bool, timeout: float, as_json: bool, server: ServerOptions) -> None:
    here = replace(server, address=server.address or _own_address())
    async with connect(here, settings=replace(here.settings(), patience=0.0, call_timeout=timeout)) as client:
        found = await client.health(live=live)
        address = client.address
    if as_json:
        told = {
            "server": address,
            "serving": found.serving,
            "reason": found.reason,
            "version": found.version,
            "uptime": found.uptime,
        }
        typer.echo(json.dumps(told, indent=2))
    elif found.serving:
        say(f"The server at {clean(address)} {'answers' if live else 'can answer calls'}.")
    else:
        say(f"The server at {clean(address)} cannot answer calls: {clean(found.reason) or 'it does not say why'}.")
    if not found.serving:
        raise typer.Exit(FAILED)


def _own_address() -> str | None:
    """Where the server of this environment listens, seen from here; None where something names a server, or nothing does."""
    from peerload.client.addresses import ADDRESS_VARIABLES
    from peerload.server.addresses import join_address, split_address

    listen = os.environ.get("PEERLOAD_LISTEN")
    if not listen or any(os.environ.get(name) for name in ADDRESS_VARIABLES):
        return None
    try:
        host, port = split_address(listen)
    except ValueError as error:
        usage_error(f"PEERLOAD_LISTEN: {error}")
    return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
