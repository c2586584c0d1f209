"""TCP ports for what tests start, and ports at which there is nobody.

A port that the kernel has chosen, and that was let go again, it may soon give to somebody else: to whoever takes any port,
or as a connection's own end. So these are of those that it gives to nobody (by default it begins at 32,768), and of each of
the test processes that run side by side has its own.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Final

__all__ = ["BUS", "free_port"]

BUS: Final = 10_000
"""So far above a node's port is its bus in a cluster of Redis. There `free_port` gives none."""
_FIRST: Final = 12_000
_SIDE_BY_SIDE: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_NUMBER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port() -> int:
    """A TCP port that nobody listens on; and none that anybody is given who does not ask for that very one."""
    while True:
        port = random.SystemRandom().randrange(_FIRST + _NUMBER % _SIDE_BY_SIDE, _FIRST + BUS, _SIDE_BY_SIDE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
