"""`HOST:PORT`, taken apart and put together."""

from __future__ import annotations

import ipaddress
from typing import Final

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "MAX_PORT", "is_loopback", "join_address", "split_address"]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8001
MAX_PORT: Final = 65_535


def split_address(text: str) -> tuple[str, int]:
    """The host (without brackets) and the port of `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets, as in [::1]:8001")
    if (
        not colon
        or not host
        or set(host) & set("[]")
        or not port.isascii()
        or not port.isdigit()
        or int(port) > MAX_PORT
    ):
        raise ValueError("must be HOST:PORT or [IPV6]:PORT with a port from 0 (any free one) to 65535")
    return host, int(port)


def join_address(host: str, port: int | str) -> str:
    """`HOST:PORT`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine's own processes can connect to a host. A name other than localhost may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
