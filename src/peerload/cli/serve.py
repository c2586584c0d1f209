"""`peerload serve`: run the directory server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Any

import typer

from peerload.cli.outcome import FAILED, explain
from peerload.errors import InvalidArgument, PeerloadError

__all__ = ["command"]


def command(
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; port 0 takes a free one (default: 127.0.0.1:8001).",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where records are kept: sqlite:PATH, redis://HOST or kubernetes:NAMESPACE to share them between servers, or memory: to forget them (default: sqlite: in the user's state folder).",
        ),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Speak TLS: a PEM file with the server's certificate, then those that lead to the root. It and the others are read again when they change.",
        ),
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="A PEM file with the key of --tls-cert, without a passphrase.")
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Let in only clients that show a certificate signed by one in this PEM file."
        ),
    ] = None,
    heartbeat_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="A source that is not heard from for so long is stale (default: 90)."),
    ] = None,
    reaper_interval: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time between two looks for stale sources (default: 30).")
    ] = None,
    gc_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="A stale source is forgotten after so long (default: 3600).")
    ] = None,
    probe: Annotated[
        bool | None,
        typer.Option(
            "--probe/--no-probe",
            help="Connect to sources whose heartbeat is overdue, and hand out no more those whose host refuses "
            "(default: --probe).",
        ),
    ] = None,
    probe_after: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="After how long without a heartbeat a source is probed (default: 35)."),
    ] = None,
    front: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What speaks gRPC on the port: h2corn, or grpc, the conservative choice (default: h2corn).",
        ),
    ] = None,
    limit_message_bytes: Annotated[
        int | None,
        typer.Option(metavar="BYTES", help="One message, either way (default: 100 MiB)."),
    ] = None,
    limit_connections: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Connections at once (default: 50000)."),
    ] = None,
    limit_calls: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Calls in flight, in all (default: 20000)."),
    ] = None,
    limit_connection_calls: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Calls and watches in flight on one connection (default: 100).",
        ),
    ] = None,
    limit_watches: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Watches, in all (default: 20000).")
    ] = None,
    limit_bytes_in_flight: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            help="All requests being read and answered; large ones wait for room. As many bytes of answers being sent "
            "(default: 512 MiB).",
        ),
    ] = None,
    connection_age: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long one connection is used (default: 0, for ever)."),
    ] = None,
    connection_age_grace: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long its calls get to end after that (default: 60).",
        ),
    ] = None,
    timeout_idle: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long a connection without calls is kept (default: 900).",
        ),
    ] = None,
    timeout_handshake: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For the handshakes of a connection (default: 10)."),
    ] = None,
    timeout_request: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For a request to arrive whole (default: 60)."),
    ] = None,
    timeout_stall: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long a reader may take nothing of its answer; front h2corn only (default: 20).",
        ),
    ] = None,
    timeout_silence: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Without any sign of life for so long a peer has vanished (default: 80).",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="PORT|HOST:PORT|off",
            help="Where Prometheus reads metrics; a port alone is on the host of --listen (default: 9401 if it is free).",
        ),
    ] = None,
    metrics_models: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many models have rows of their own in the metrics (default: 100; none where callers are asked who they are).",
        ),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="When told to stop, how long calls in flight may take to end (default: 10)."
        ),
    ] = None,
    drain_delay: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="When told to stop, how long to say NOT_SERVING before turning calls away (default: 0.2).",
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning, error or critical (default: info).")
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="console for people, json for programs (default: console on a terminal)."),
    ] = None,
    tracing: Annotated[
        bool | None,
        typer.Option(
            "--tracing/--no-tracing",
            help="Export traces by OTLP, as OTEL_EXPORTER_OTLP_ENDPOINT and its relatives say; needs peerload[otel] (default: --no-tracing).",
        ),
    ] = None,
    access: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Who may do what, by token, service account or client certificate; `peerload token` makes entries "
            "(default: nobody is asked).",
        ),
    ] = None,
    token_audiences: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,…]", help="Accept tokens of Kubernetes service accounts that are for one of these audiences."
        ),
    ] = None,
    service_accounts: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE/NAME[,…]", help="Service accounts that may publish, besides the access file's."
        ),
    ] = None,
    token_cache_ttl: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long a reviewed token is believed (default: 60)."),
    ] = None,
    limit_principal_records: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many records one principal may have; 0: any number (default: 100000)."),
    ] = None,
    limit_tensors: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many tensors one manifest may have (default: 1000000)."),
    ] = None,
    own_addresses: Annotated[
        bool | None,
        typer.Option(
            "--own-addresses/--any-addresses",
            help="Take only sources that are where their publisher's connection comes from (default: --any-addresses).",
        ),
    ] = None,
    ui: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Show the fleet on a web page there; needs peerload[ui] (default: off).",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many processes serve on the port; SIGHUP exchanges them one after the other (default: 1).",
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every setting and where it came from, and exit.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --print-config: for programs.")] = False,
) -> None:
    """Run the directory server that workers publish to and find each other by.

    Each setting is taken from its flag, else from PEERLOAD_<NAME> (PEERLOAD_LISTEN, PEERLOAD_STORE …), else from the
    variable that deployments of this protocol already set (MODEL_EXPRESS_SERVER_PORT, MX_HEARTBEAT_TIMEOUT_SECS …).

    SIGTERM and Ctrl-C let calls in flight end; a second one stops at once. With --processes, SIGHUP exchanges every process for
    a new one, while the others serve.
    """
    try:
        _serve(
            {
                "listen": listen,
                "store": store,
                "tls_cert": tls_cert,
                "tls_key": tls_key,
                "tls_client_ca": tls_client_ca,
                "heartbeat_timeout": heartbeat_timeout,
                "reaper_interval": reaper_interval,
                "gc_timeout": gc_timeout,
                "probe": probe,
                "probe_after": probe_after,
                "front": front,
                "limit_message_bytes": limit_message_bytes,
                "limit_connections": limit_connections,
                "limit_calls": limit_calls,
                "limit_connection_calls": limit_connection_calls,
                "limit_watches": limit_watches,
                "limit_bytes_in_flight": limit_bytes_in_flight,
                "connection_age": connection_age,
                "connection_age_grace": connection_age_grace,
                "timeout_idle": timeout_idle,
                "timeout_handshake": timeout_handshake,
                "timeout_request": timeout_request,
                "timeout_stall": timeout_stall,
                "timeout_silence": timeout_silence,
                "metrics": metrics,
                "metrics_models": metrics_models,
                "grace": grace,
                "drain_delay": drain_delay,
                "log_level": log_level,
                "log_format": log_format,
                "tracing": tracing,
                "access": access,
                "token_audiences": token_audiences,
                "service_accounts": service_accounts,
                "token_cache_ttl": token_cache_ttl,
                "limit_principal_records": limit_principal_records,
                "limit_tensors": limit_tensors,
                "own_addresses": own_addresses,
                "processes": processes,
                "ui": ui,
            },
            print_config,
            as_json,
        )
    except PeerloadError as error:
        # Always 1: that the address or the store cannot be had is this program's own failure.
        explain(error)
        raise typer.Exit(FAILED) from None


def _serve(flags: dict[str, Any], print_config: bool, as_json: bool) -> None:
    from peerload.server.resolving import resolve

    resolved = resolve(flags)
    if print_config:
        _print(resolved.table(), as_json)
        return
    from peerload.server import logs
    from peerload.server.traced import exporting

    if resolved.settings.processes > 1:
        from peerload.server.processes.parent import serve
    else:
        from peerload.server.serving import serve

    logs.configure(resolved.settings.log_level, resolved.settings.log_format)
    # Of several processes each exports its own.
    tracing = contextlib.nullcontext() if resolved.settings.processes > 1 else exporting(resolved.settings)
    try:
        with tracing:
            asyncio.run(serve(resolved.settings))
    except InvalidArgument as error:
        raise resolved.named(error) from None


def _print(rows: list[tuple[str, Any, str]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "from": origin} for name, value, origin in rows}, indent=2))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for name, value, origin in rows:
        table.add_row(name, str(value), origin)
    Console(markup=False).print(table)
