"""What a client trusts, and what it shows: files of PEM, read again when they change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from peerload.certificates import KeyPair, read_authorities, read_key_pair
from peerload.client.addresses import Servers
from peerload.client.settings import ClientSettings
from peerload.errors import InvalidArgument
from peerload.stamps import stamps

__all__ = ["ClientTls", "Trust"]

_log: Final = logging.getLogger("peerload.client")
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where systems keep whom they trust, if OpenSSL does not say (SSL_CERT_FILE, or what it was built with)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a handshake is made with."""

    authorities: bytes | None
    """PEM; None: those that gRPC brings along, where the system has none."""
    shown: KeyPair | None
    """This client's certificate, if it has one."""
    name: str
    """The name that the server's certificate must be for; empty: that in its address."""

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for gRPC."""
        if self.shown is None:
            return grpc.ssl_channel_credentials(self.authorities)
        return grpc.ssl_channel_credentials(self.authorities, self.shown.key, self.shown.certificate)

    def context(self) -> ssl.SSLContext:
        """The same for sockets."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.authorities is not None:
            context.load_verify_locations(cadata=self.authorities.decode("ascii", "ignore"))
        else:
            context.load_default_certs()
        if self.shown is not None:
            self.shown.load(context)
        return context


class ClientTls:
    """The files that a client's settings name. Raises `InvalidArgument` naming the setting and the file that is bad; those
    that are bad later are complained of once, and what was read before stays."""

    def __init__(self, settings: ClientSettings) -> None:
        self._name = settings.tls_name
        self._authorities = Path(settings.tls_ca) if settings.tls_ca else None
        self._pair: tuple[Path, Path] | None = None
        if settings.tls_client_cert:
            self._pair = Path(settings.tls_client_cert), Path(settings.tls_client_key)
        self._paths = [*([self._authorities] if self._authorities else []), *(self._pair or ())]
        self._seen = stamps(self._paths)
        self._trust = self._read()

    @classmethod
    def of(cls, servers: Servers, settings: ClientSettings) -> ClientTls | None:
        """What is asked for; None: plaintext. Raises `InvalidArgument` where an address and a setting contradict each
        other: what was to be secret is never sent in plaintext."""
        asking = settings.asks_for_tls
        if asking and servers.tls is False:
            raise InvalidArgument(servers.field, f"asks for plaintext, and {asking} for TLS: write https:// or nothing")
        if not asking and not servers.tls:
            return None
        if any(address.startswith("unix:") for address in servers.addresses):
            raise InvalidArgument(servers.field, f"unix: is plaintext, and {asking or 'https://'} asks for TLS")
        return cls(settings)

    def current(self) -> Trust:
        """What to connect with; the same object until the files have changed."""
        found = stamps(self._paths)
        if found != self._seen:
            self._seen = found
            try:
                self._trust = self._read()
            except InvalidArgument as error:
                # A pair is replaced file by file: for a moment its halves do not fit.
                _log.warning("%s; going on with what was read before", error)
        return self._trust

    def _read(self) -> Trust:
        authorities = read_authorities(self._authorities, "tls_ca") if self._authorities else _system_authorities()
        pair = read_key_pair(*self._pair, ("tls_client_cert", "tls_client_key")) if self._pair else None
        return Trust(authorities, pair, self._name)


def _system_authorities() -> bytes | None:
    stated = ssl.get_default_verify_paths().cafile
    found = next((path for path in (stated, *_BUNDLES) if path and Path(path).is_file()), None)
    return None if found is None else Path(found).read_bytes()
