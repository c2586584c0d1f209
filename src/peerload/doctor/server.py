"""The examination of what `peerload serve` needs where it is to run: ports, TLS, the access file, packages, descriptors."""

from __future__ import annotations

import asyncio
import importlib.util
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from peerload.clock import Clock
from peerload.doctor.files import authorities, pair
from peerload.doctor.part import Part
from peerload.errors import InvalidArgument, PeerloadError, Unavailable
from peerload.finding import Finding, Level
from peerload.server.addresses import is_loopback, join_address
from peerload.server.listening import listen, parse_listen
from peerload.server.metrics import Metrics
from peerload.server.security.gate import AccessGate
from peerload.server.settings import Settings

__all__ = ["examine_server"]

_SPARE_DESCRIPTORS: Final = 256
"""For files, the store, and connections to sources that are asked whether they are there."""


async def examine_server(settings: Settings, clock: Clock) -> list[Part]:
    """Everything but the store. Nothing stays open; a server that runs already is not disturbed. Blocks for no longer than names
    take to be resolved."""
    loop = asyncio.get_running_loop()

    async def part(name: str, examine: Callable[[], list[Finding]]) -> Part:
        return Part(name, tuple(await loop.run_in_executor(None, examine)))

    host, port = parse_listen(settings.listen)
    return [
        await part("port", lambda: [_port(host, port, "--listen"), *_reach(host)]),
        await part("metrics", lambda: _metrics(settings)),
        await part("tls", lambda: _tls(settings, host, clock)),
        Part("access", tuple(await _access(settings, host, clock))),
        await part("process", lambda: _process(settings)),
    ]


def _port(host: str, port: int, flag: str) -> Finding:
    address = join_address(host, port)
    try:
        for each in listen(host, port):
            each.close()
    except Unavailable as error:
        if "is in use" in str(error):
            return Finding(
                Level.WARNING,
                f"somebody listens on {address} already",
                f"if that is not the server which runs here: end it, or name another port with {flag}",
            )
        return Finding(Level.PROBLEM, str(error), f"name another address with {flag}")
    return Finding(Level.OK, f"{address} can be listened on")


def _reach(host: str) -> list[Finding]:
    if not is_loopback(host):
        return []
    return [Finding(Level.OK, f"only workers on this machine reach {host}; --listen 0.0.0.0:8001 lets others in")]


def _metrics(settings: Settings) -> list[Finding]:
    where = settings.metrics_address
    if where is None:
        return [Finding(Level.OK, "no metrics are served")]
    found = _port(*where, "--metrics")
    if found.level is Level.PROBLEM and settings.metrics_is_default:
        return [Finding(Level.WARNING, f"{found.what}: no metrics will be served", found.advice)]
    return [found]


def _tls(settings: Settings, host: str, clock: Clock) -> list[Finding]:
    files = settings.tls
    if files is None:
        if is_loopback(host):
            return [Finding(Level.OK, "plaintext, for this machine's own processes")]
        return [
            Finding(
                Level.WARNING,
                "plaintext: whoever is on the way reads and changes what workers tell",
                "name a certificate with --tls-cert and --tls-key (docs/security.md)",
            )
        ]
    try:
        held = files.read()
    except PeerloadError as error:
        return [Finding(Level.PROBLEM, str(error), "mend that: no server starts with it")]
    found = pair("the server's certificate", held.pair, files.key, clock.wall_ms())
    if files.client_ca is not None:
        found.append(authorities("who signs clients' certificates,", files.client_ca))
    return found


async def _access(settings: Settings, host: str, clock: Clock) -> list[Finding]:
    if not settings.authenticates:
        if is_loopback(host) or settings.tls_client_ca:
            return [Finding(Level.OK, "everybody who can connect may publish and read")]
        return [
            Finding(
                Level.WARNING,
                "everybody whom the network lets in may publish and read",
                "say who may with --access (docs/security.md)",
            )
        ]
    try:
        gate = AccessGate(settings, clock, Metrics())
        await gate.start()
        await gate.close()
    except InvalidArgument as error:
        return [Finding(Level.PROBLEM, str(error), "mend that: no server starts with it")]
    except PeerloadError as error:
        return [
            Finding(Level.PROBLEM, str(error), "tokens of service accounts cannot be reviewed before that is mended")
        ]
    return await asyncio.get_running_loop().run_in_executor(None, _used, settings, host)


def _used(settings: Settings, host: str) -> list[Finding]:
    """Of an access file and service accounts that can be used."""
    found = []
    if settings.access:
        found.append(Finding(Level.OK, f"the access file {settings.access} can be read and used"))
        if Path(settings.access).stat().st_mode & stat.S_IWOTH:
            advice = f"chmod o-w {settings.access}"
            found.append(Finding(Level.PROBLEM, "everybody on this machine may change the access file", advice))
    if settings.reviews_tokens:
        found.append(Finding(Level.OK, "the API server that reviews service accounts' tokens is known"))
    if settings.tls is None and not is_loopback(host):
        advice = "name a certificate with --tls-cert and --tls-key"
        found.append(
            Finding(Level.WARNING, "tokens travel in plaintext, where whoever is on the way takes them", advice)
        )
    return found


def _process(settings: Settings) -> list[Finding]:
    found = []
    for wanted, package, extra in (
        (settings.tracing, "opentelemetry.sdk", "otel"),
        (settings.tls is not None, "cryptography", "tls"),
    ):
        if wanted and not _installed(package):
            found.append(Finding(Level.PROBLEM, f"{package} is not installed", f"pip install 'peerload[{extra}]'"))
    if settings.hasty:
        advice = "make it 60 s or more, or set MX_HEARTBEAT_INTERVAL_SECS for the workers"
        found.append(Finding(Level.WARNING, settings.hasty, advice))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted_files = settings.limit_connections + _SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted_files:
        found.append(
            Finding(
                Level.WARNING,
                f"this process may open {hard} files, and --limit-connections is {settings.limit_connections}: each is one",
                f"raise the hard limit to {wanted_files} (LimitNOFILE in systemd), or lower --limit-connections",
            )
        )
    else:
        found.append(Finding(Level.OK, f"there are descriptors for {settings.limit_connections} connections"))
    return found


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
