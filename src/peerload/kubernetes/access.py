"""How to connect to the API server and as whom, kept up to date.

Tokens, certificates and authorities are rotated under a running server. A file that has changed is read again, and so is
everything when the API server no longer accepts it; a credential that says when it expires is replaced before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from peerload.clock import Clock
from peerload.errors import InvalidArgument, PeerloadError
from peerload.kubernetes.configuration import SERVICE_ACCOUNT, Found, find
from peerload.kubernetes.place import KubernetesPlace
from peerload.stamps import Stamp, stamp

__all__ = ["Access", "Login"]

_AHEAD_MS: Final = 60_000.0
"""So long before a credential expires the next one is asked for."""
_PAUSE_SECONDS: Final = 5.0
"""What was just read is not read again only because the API server refuses it."""


_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Login:
    """How to connect, and as whom, from one moment on."""

    server: str
    """The root of all addresses."""
    namespace: str
    authorization: str = field(repr=False)
    """The header; empty: none."""
    tls: ssl.SSLContext | None
    """None: plain HTTP."""
    server_name: str | None
    """What the server's certificate must be for; None: the host of its address."""
    proxy: str | None = field(repr=False)


class Access:
    """Finds the configuration, and reads it again when it must."""

    def __init__(
        self,
        place: KubernetesPlace,
        clock: Clock,
        *,
        environment: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        self._place = place
        self._clock = clock
        self._environment = environment
        self._folder = service_account
        self._login: Login | None = None
        self._found: Found | None = None
        self._stamps: dict[Path, Stamp] = {}
        self._read_at = 0.0
        self._reading: asyncio.Task[Login] | None = None

    async def login(self) -> Login:
        """The one to use now. Raises `InvalidArgument` where no configuration can be used, `Unauthorized` where a
        credential plugin fails, `MissingExtra`."""
        if self._login is None or self._found is None:
            return await self._read_once()
        if any(stamp(path) != before for path, before in self._stamps.items()):
            return await self._read_or_keep(self._login)
        if self._found.expires_ms is not None:
            left = self._found.expires_ms - self._clock.wall_ms()
            if left < _AHEAD_MS and self._worth_reading():
                if left <= 0:
                    return await self._read_or_keep(self._login)
                self._start()  # nobody waits for it
        return self._login

    async def renew(self, refused: Login) -> Login:
        """The one to use after the API server refused that one, or was not whom it takes it for; the same if there is
        no other. Raises as `login`."""
        if self._login is not None and (self._login is not refused or not self._worth_reading()):
            return self._login
        return await self._read_once()

    async def close(self) -> None:
        """End what is being read."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _worth_reading(self) -> bool:
        """Whether something may come of it that is not known: it is being read, or was some time ago."""
        reading = self._reading is not None and not self._reading.done()
        return reading or self._clock.monotonic() - self._read_at >= _PAUSE_SECONDS

    async def _read_or_keep(self, login: Login) -> Login:
        """What there is to be read now; while that cannot be used (a file half written, say), what was read before."""
        try:
            return await self._read_once()
        except PeerloadError:
            return login

    async def _read_once(self) -> Login:
        # One reading for all who wait for it, and the deadline of none of them ends it: a plugin may take its time.
        return await asyncio.shield(self._start())

    def _start(self) -> asyncio.Task[Login]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="kubernetes credentials")
            self._reading.add_done_callback(self._note)
        return self._reading

    def _note(self, reading: asyncio.Task[Login]) -> None:
        if reading.cancelled() or (error := reading.exception()) is None or self._login is None:
            return  # without a login to go on with, whoever wanted it is told
        _log.warning("the credentials for the Kubernetes API server cannot be read", error=str(error))

    async def _read(self) -> Login:
        self._read_at = self._clock.monotonic()
        before, old = self._login, self._found
        known = self._stamps
        self._stamps = {path: stamp(path) for path in known}  # what fails is not tried again for the same files
        found = await find(self._place, self._environment, self._folder)
        stamps = {path: stamp(path) for path in found.files}
        if before is not None and old is not None and _same_tls(old, known, found, stamps):
            tls = before.tls  # a new one would mean new connections
        else:
            tls = await asyncio.to_thread(_tls, found)
        self._found, self._stamps = found, stamps
        self._login = Login(
            server=found.server,
            namespace=self._place.namespace or found.namespace,
            authorization=found.authorization,
            tls=tls,
            server_name=found.server_name or None,
            proxy=_checked(found.proxy or _usual_proxy(found.server, self._environment)),
        )
        return self._login


def _same_tls(old: Found, known: Mapping[Path, Stamp], new: Found, stamps: Mapping[Path, Stamp]) -> bool:
    def essence(found: Found, stamps: Mapping[Path, Stamp]) -> tuple[object, ...]:
        files = (found.authority, found.certificate, found.key)
        return (
            found.verify,
            found.server.startswith("https:"),
            *files,
            *(stamps.get(Path(file)) for file in files if file),
        )

    return essence(old, known) == essence(new, stamps)


def _tls(found: Found) -> ssl.SSLContext | None:
    if not found.server.startswith("https://"):
        return None
    try:
        context = ssl.create_default_context(cafile=found.authority or None)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidArgument("store", f"cannot use the authority {found.authority}: {_words(error)}") from error
    # Strictness that Python has from 3.13 on, and Kubernetes' own programs have not: many clusters' authorities fail it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if found.certificate:
        try:
            context.load_cert_chain(found.certificate, found.key or None)
        except OSError as error:
            raise InvalidArgument(
                "store", f"cannot use the certificate {found.certificate}: {_words(error)}"
            ) from error
    if not found.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__


def _usual_proxy(server: str, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for this server, as for Kubernetes' own programs."""
    address = urlsplit(server)

    def said(name: str) -> str:
        return environment.get(name.lower()) or environment.get(name.upper()) or ""

    proxy = said(f"{address.scheme}_proxy")
    host = address.hostname or ""
    if not proxy or _direct(host, said("no_proxy")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _checked(proxy: str | None) -> str | None:
    if proxy is not None and not proxy.startswith(("http://", "https://")):
        raise InvalidArgument(
            "store", f"the proxy before it must be http:// or https://, not {proxy.partition(':')[0]}:"
        )
    return proxy


def _direct(host: str, exceptions: str) -> bool:
    """Whether no proxy stands before a host. `exceptions` are names, domains, addresses and networks."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for exception in exceptions.replace(",", " ").split():
        if exception == "*":
            return True
        if address is None:
            name = exception.lstrip("*.").lower()
            if host.lower() == name or host.lower().endswith(f".{name}"):
                return True
            continue
        try:
            if address in ipaddress.ip_network(exception, strict=False):
                return True
        except ValueError:
            continue
    return False
