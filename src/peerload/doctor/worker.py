"""The examination of what a worker needs where it is to run: the way to the server, its clock, files of TLS, a token, and the way
back: whether peers reach it. Its engines are examined by `peerload.doctor.engines`."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from peerload import __version__
from peerload.client import AsyncClient, ClientSettings
from peerload.client.addresses import Servers
from peerload.client.host import advertised_host
from peerload.client.tls import ClientTls
from peerload.clock import Clock
from peerload.doctor.files import authorities, pair
from peerload.doctor.part import Part
from peerload.errors import InvalidArgument, NotAllowed, PeerloadError, Unavailable
from peerload.finding import Finding, Level
from peerload.server.addresses import is_loopback
from peerload.server.security.jwt import claims_of

__all__ = ["examine_worker"]

_SKEW_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 3.0
_MOST_TOKEN_BYTES: Final = 64 * 1024


async def examine_worker(
    client: AsyncClient, servers: Servers, host: str | None, clock: Clock
) -> tuple[list[Part], bool]:
    """Everything but the engines, and whether a server could be asked."""
    settings = client.settings
    loop = asyncio.get_running_loop()
    tls = Part("tls", tuple(await loop.run_in_executor(None, _tls, servers, settings, clock)))
    token = Part("token", tuple(await loop.run_in_executor(None, _token, settings, clock)))
    found, reached = await _server(client)
    ports = Part("port", tuple(await loop.run_in_executor(None, _port, client.address, host)))
    return [tls, token, Part("server", tuple(found)), ports], reached


def _tls(servers: Servers, settings: ClientSettings, clock: Clock) -> list[Finding]:
    try:
        tls = ClientTls.of(servers, settings)
        trust = None if tls is None else tls.current()
    except InvalidArgument as error:
        return [Finding(Level.PROBLEM, str(error), "mend that: no client starts with it")]
    if trust is None:
        return [Finding(Level.OK, "plaintext to the server; https:// before its address is TLS")]
    found = []
    if settings.tls_ca:
        found.append(authorities("who signs the server's certificate,", Path(settings.tls_ca)))
    elif trust.authorities is None:
        found.append(
            Finding(
                Level.WARNING,
                "this system trusts nobody of its own, so the list that gRPC brings along counts",
                "install ca-certificates, or name who signs the server's with PEERLOAD_TLS_CA",
            )
        )
    else:
        found.append(Finding(Level.OK, "those who sign the server's certificate may be any whom this system trusts"))
    if trust.shown is not None:
        found += pair("this client's certificate", trust.shown, Path(settings.tls_client_key), clock.wall_ms())
    return found


def _token(settings: ClientSettings, clock: Clock) -> list[Finding]:
    path = Path(settings.token_path)
    try:
        with path.open("rb") as file:
            token = file.read(_MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return [Finding(Level.OK, f"there is no token at {path}, so none is sent")]
    except OSError as error:
        advice = "let this user read it, or name another with MX_AUTH_TOKEN_PATH"
        return [Finding(Level.PROBLEM, f"the token at {path} cannot be read: {error.strerror}", advice)]
    if not token:
        return [Finding(Level.WARNING, f"the file of the token, {path}, is empty, so none is sent", "see who fills it")]
    claims = claims_of(token)
    if claims is None or claims.expires is None:
        return [Finding(Level.OK, f"there is a token at {path}")]
    left = claims.expires - clock.wall_ms() / 1000
    if left <= 0:
        return [Finding(Level.PROBLEM, f"the token at {path} has expired", "see why it is not renewed")]
    return [Finding(Level.OK, f"there is a token at {path}, good for another {left / 60:.0f} minutes")]


async def _server(client: AsyncClient) -> tuple[list[Finding], bool]:
    try:
        health = await client.health()
    except Unavailable as error:
        advice = "start it, or name another with --server or PEERLOAD_SERVER; without one workers load from disk"
        return [Finding(Level.PROBLEM, str(error), advice)], False
    except PeerloadError as error:
        return [Finding(Level.PROBLEM, str(error), "see whether a Peerload server answers there")], True
    found = [Finding(Level.OK, f"the server at {client.address} answers; it is release {health.version}")]
    if not health.serving:
        found = [
            Finding(
                Level.PROBLEM,
                f"the server at {client.address} cannot answer calls: {health.reason}",
                "examine its store, where it runs: peerload doctor",
            )
        ]
    if health.version.partition(".")[0] != __version__.partition(".")[0]:
        found.append(
            Finding(
                Level.WARNING, f"this is release {__version__}, the server {health.version}", "update the older one"
            )
        )
    try:
        info = await client.server_info()
    except NotAllowed as error:
        found.append(Finding(Level.PROBLEM, str(error), "have its access file or service accounts name this worker"))
    except PeerloadError as error:
        found.append(Finding(Level.WARNING, f"it does not tell its time: {error}", "update the server"))
    else:
        found.append(_clocks(info.clock_ahead))
    return found, True


def _clocks(ahead: float) -> Finding:
    if abs(ahead) <= _SKEW_SECONDS:
        return Finding(Level.OK, f"the server's clock and this host's are {abs(ahead):.1f} s apart")
    return Finding(
        Level.WARNING,
        f"this host's clock is {abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} the server's: tokens and certificates"
        " seem expired or not valid yet, and logs cannot be compared",
        "set both by the same time servers (NTP)",
    )


def _port(server: str, host: str | None) -> list[Finding]:
    """Whether a connection to the address that peers are told comes back to this machine."""
    name = "MX_WORKER_HOST or --host"
    try:
        address = advertised_host(server, host)
    except InvalidArgument as error:
        return [Finding(Level.PROBLEM, str(error), f"say under which address peers reach this machine with {name}")]
    try:
        _connect_to_itself(address)
    except OSError as error:
        reason = error.strerror or str(error)
        return [
            Finding(
                Level.PROBLEM,
                f"peers are told that this worker is at {address}, and from here a port that it opens cannot be connected to"
                f" there: {reason}",
                f"name another address with {name}, or have the firewall let connections in",
            )
        ]
    found = [
        Finding(Level.OK, f"peers are told that this worker is at {address}, where it can be connected to from here")
    ]
    here = all(
        is_loopback(each.rpartition(":")[0].strip("[]")) or each.startswith("unix:") for each in server.split(",")
    )
    if is_loopback(address) and not here:
        found.append(
            Finding(
                Level.PROBLEM,
                f"{address} is every machine's own, and the server is on another one",
                f"name an address of this machine's with {name}",
            )
        )
    return found


def _connect_to_itself(address: str) -> None:
    found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for family, kind, protocol, _, _ in found:
        try:
            with socket.socket(family, kind, protocol) as listening:
                listening.bind(("", 0))
                listening.listen(1)
                port = listening.getsockname()[1]
                with socket.create_connection((address, port), timeout=_CONNECT_SECONDS):
                    return
        except OSError as error:
            failure = error
    raise failure or OSError(f"{address} has no address")
