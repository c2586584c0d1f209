"""Where a source's process listens, as it published it, and which of these addresses a server may connect to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

from peerload.wire import outline_pb2

__all__ = ["Address", "allowed", "endpoints_of", "hosts_of", "split"]

_LISTENING: Final = frozenset({"tcp", "nixl", "mooncake"})
"""Engines whose address is where the publishing process listens for TCP connections."""
_OF_THIS_HOST: Final = frozenset({"memfd", "memory"})
"""Engines whose address can be reached from the same host, or the same process, alone."""
_MOST: Final = 4
"""Addresses that are kept of one source."""
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65_535
_SEPARATOR: Final = ","


class Address(NamedTuple):
    """A host (a name, or an address without brackets) and a TCP port."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address | None:
        """The address that `HOST:PORT` or `[IPV6]:PORT` names; None for what is written otherwise."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            return None
        if not host.isascii() or not host.isprintable() or not 0 < len(host) <= _MAX_HOST or set(host) & set(", /[]"):
            return None
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= _MAX_PORT):
            return None
        return cls(host, int(port))


def endpoints_of(worker: outline_pb2.WorkerMetadata, manifest: outline_pb2.Manifest | None) -> str:
    """The addresses at which a publication says that its process listens for TCP, a few at most, with commas between them.

    A Peerload worker's are those of its engines that listen; another's are its WorkerService and its metadata endpoint. Empty
    where there is none that a server could connect to.
    """
    if manifest is None:
        named = [worker.worker_grpc_endpoint, worker.metadata_endpoint]
    else:
        named = [endpoint.address for endpoint in manifest.endpoints if endpoint.engine in _LISTENING]
    return _SEPARATOR.join(_few(text for text in named if Address.of(text)))


def hosts_of(worker: bytes, manifest: bytes | None) -> list[tuple[str, str]]:
    """Every host that an encoded publication leads its readers to, and the field that names it. An address that names none
    (of shared memory, say, which is this host's own) leads nowhere; what is written otherwise than `HOST:PORT` is a host as
    a whole, so that nothing slips through."""
    published = outline_pb2.WorkerMetadata.FromString(worker)
    named = [
        ("worker.metadata_endpoint", published.metadata_endpoint),
        ("worker.worker_grpc_endpoint", published.worker_grpc_endpoint),
        ("worker.transfer_engine_session_id", published.transfer_engine_session_id),
    ]
    if manifest is not None:
        endpoints = outline_pb2.Manifest.FromString(manifest).endpoints
        named += [
            ("manifest.endpoints.address", each.address) for each in endpoints if each.engine not in _OF_THIS_HOST
        ]
    found: dict[tuple[str, str], None] = {}
    for field, text in named:
        address = Address.of(text)
        if text:
            found[field, address.host if address else text] = None
    return list(found)


def split(endpoints: str) -> list[Address]:
    """The addresses that `endpoints_of` put together; what is none is left out."""
    return [address for text in _few(endpoints.split(_SEPARATOR)) if (address := Address.of(text))]


def allowed(ip: str, *, here: bool) -> bool:
    """Whether a server may connect to an IP address that a stranger gave it: to those of single hosts only, and to
    loopback only if the stranger runs `here`, beside the server, for elsewhere it is another machine's."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return here
    return not (address.is_unspecified or address.is_multicast or address.is_link_local or address.is_reserved)


def _few(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))[:_MOST]
