"""By which network interface a host is reached."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

__all__ = ["interface_towards"]

_SIOCGIFADDR: Final = 0x8915
_PORT: Final = 9
"""Of no meaning: nothing is sent."""


def interface_towards(host: str) -> str:
    """The name of the interface whose address this machine would use towards `host`; "" where it cannot be told.

    For one of this machine's own addresses, the interface that has it. Nothing is sent but what resolving the name takes.
    """
    try:
        found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM)
    except OSError:
        return ""
    for family, kind, _, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
            probe.connect(address)
            own = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
            if own.is_loopback:
                return "lo"
            if name := _named(own):
                return name
    return ""


def _named(own: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if own.version == 6:
        with contextlib.suppress(OSError):
            for line in Path("/proc/net/if_inet6").read_text().splitlines():
                words = line.split()
                if bytes.fromhex(words[0]) == own.packed:
                    return words[-1]
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if answer[20:24] == own.packed:
                    return name
    return ""
