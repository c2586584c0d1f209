"""What a worker says of itself: the address it is reached by, where it is, the memory it has left."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peerload.errors import InvalidArgument

__all__ = ["advertised_host", "available_memory", "topology_from"]

_LOOPBACK: Final = "127.0.0.1"


def advertised_host(server: str, host: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """The name or address under which peers reach this process.

    The argument, else MX_WORKER_HOST, else the local address from which the server is reached (of several, with commas
    between them, the first to which there is a way): loopback if the server is on loopback. Blocks while the server's name is resolved. Raises `InvalidArgument` if it cannot be.
    """
    env = os.environ if env is None else env
    if given := host or env.get("MX_WORKER_HOST"):
        return given
    failure: InvalidArgument | None = None
    for each in server.split(","):
        try:
            return _towards(each)
        except InvalidArgument as error:
            failure = error
    assert failure is not None
    raise failure


def _towards(server: str) -> str:
    """The local address from which one server is reached."""
    if server.startswith("unix:"):
        return _LOOPBACK
    name, _, port = server.rpartition(":")
    try:
        found = socket.getaddrinfo(name.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    except OSError as error:
        raise InvalidArgument("address", f"cannot resolve the server's name {name!r}: {error}") from error
    # Both families of `localhost` lead to the same process: prefer the one that every engine listens on.
    for family, kind, protocol, _, address in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            # Connecting a datagram socket sends nothing; it only asks for the way.
            probe.connect(address)
            return str(probe.getsockname()[0])
    raise InvalidArgument("host", f"no way to the server {server}: say under which address peers reach this worker")


def topology_from(env: Mapping[str, str] | None = None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where this worker is: its host name, PEERLOAD_TOPOLOGY (`zone=a,rack=b`), and `extra`; the later wins.

    Raises `InvalidArgument` for a variable that is not written so.
    """
    env = os.environ if env is None else env
    topology = {"host": socket.gethostname()}
    for pair in env.get("PEERLOAD_TOPOLOGY", "").split(","):
        if pair.strip():
            key, equals, place = pair.partition("=")
            if not equals or not key.strip() or not place.strip():
                raise InvalidArgument("PEERLOAD_TOPOLOGY", f"{pair!r} is not KEY=PLACE")
            topology[key.strip()] = place.strip()
    return topology | dict(extra or {})


def available_memory() -> int:
    """Bytes that this process may use: what the machine has available, or its cgroup's limit if that is less."""
    limits = [_machine()]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        # Where there is no limit the file is missing, says "max", or has a number beyond any machine.
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


def _machine() -> int:
    with contextlib.suppress(OSError, ValueError), Path("/proc/meminfo").open() as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
