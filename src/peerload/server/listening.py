"""Sockets to listen on, and plain words where they cannot be had."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peerload.errors import InvalidArgument, Unavailable
from peerload.server.addresses import join_address, split_address

__all__ = ["SharedPort", "break_connections", "listen", "parse_listen", "reserve"]

_BACKLOG: Final = 4096
_LISTEN_ERRORS: Final = {
    errno.EADDRINUSE: "is in use; another server may be running there",
    errno.EADDRNOTAVAIL: "is not an address of this machine",
    errno.EACCES: "may not be listened on by this user",
    errno.EPERM: "may not be listened on by this user",
}


@dataclass(frozen=True, slots=True)
class SharedPort:
    """A port that other processes serve too: the sockets that their parent holds for all of them."""

    sockets: tuple[socket.socket, ...]


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of the setting `listen`. Raises `InvalidArgument` that names it."""
    try:
        return split_address(text)
    except ValueError as error:
        raise InvalidArgument("listen", str(error)) from None


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address of `host`; port 0 is any free one, and the same for all.

    Raises `Unavailable`, naming the address, if it cannot be had. Blocks while the name is resolved.
    """
    return _all_bound(host, port, listening=True)


def reserve(host: str, port: int) -> list[socket.socket]:
    """Sockets that keep a port for processes of this user which listen there with SO_REUSEPORT; else like `listen`.

    They do not listen themselves, so no connection is theirs.
    """
    # That nobody listens there already, those who share the port cannot be told by the kernel.
    found = listen(host, port)
    port = found[0].getsockname()[1]
    for each in found:
        each.close()
    return _all_bound(host, port, listening=False)


def _all_bound(host: str, port: int, *, listening: bool) -> list[socket.socket]:
    address = join_address(host, port)
    try:
        candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise Unavailable(f"{address}: the host name cannot be resolved ({error})") from None
    reasons: list[OSError] = []
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, kind, protocol, _, where in candidates:
            try:
                made = opened.enter_context(_bound(family, kind, protocol, (where[0], port, *where[2:]), listening))
            except OSError as error:
                reasons.append(error)
            else:
                port = made.getsockname()[1]
                sockets.append(made)
        in_use = [reason for reason in reasons if reason.errno == errno.EADDRINUSE]
        # One family of a name that has both may be missing on this machine; in use is refused for either.
        if in_use or not sockets:
            reason = (in_use or reasons)[0]
            text = _LISTEN_ERRORS.get(reason.errno or 0, f"cannot be listened on: {os.strerror(reason.errno or 0)}")
            raise Unavailable(f"{address} {text}")
        opened.pop_all()
        return sockets


def _bound(family: int, kind: int, protocol: int, where: tuple[object, ...], listening: bool) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # All interfaces are those of both families, as for grpc; an address of one family is no other's anyway.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
        if not listening:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(where)
        if listening:
            made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def break_connections(port: int) -> None:
    """Break every connection that this process has accepted at that port, whoever holds it.

    For servers that wait for clients to read what they do not read. Another thread may close or open descriptors
    meanwhile: a duplicate stays what it was.
    """
    for path in list(Path("/dev/fd").iterdir()):
        try:
            duplicate = os.dup(int(path.name))
        except OSError:
            continue
        try:
            found = socket.socket(fileno=duplicate)
        except OSError:
            # No socket.
            os.close(duplicate)
            continue
        with found, contextlib.suppress(OSError):
            if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
                # Of a listening socket nothing is shut down: it has no peer.
                found.getpeername()
                found.shutdown(socket.SHUT_RDWR)
