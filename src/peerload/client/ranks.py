"""Where this process stands among the workers of its replica.

Engines that run a model on several accelerators start a process a rank; torch.distributed and its launchers say which. Torch
is asked only where this process uses it already: it is never imported here.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from peerload.errors import InvalidArgument

__all__ = ["ALONE", "Membership", "own_rank"]

_MAX_RANK: Final = 2**32 - 1
_MAX_WORLD: Final = 2**20
_NAMELESS: Final = ("", "none")
"""What torchrun's run id is where nobody gave one."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Of which replica a worker is a part, and of how many."""

    replica: str
    """The same for all ranks of one replica, and for no other; empty where that is not known."""
    world_size: int
    """How many ranks the replica has; 0: not known."""

    @classmethod
    def of(cls, rank: int, replica: str | None = None, env: Mapping[str, str] | None = None) -> Membership:
        """That of the worker with this rank in this process.

        The size is torch.distributed's, else WORLD_SIZE, else 1; one that cannot hold the rank is not known. The replica is
        the one given, else PEERLOAD_REPLICA, else what launchers of torch.distributed give to all ranks
        alike: TORCHELASTIC_RUN_ID, MASTER_ADDR and MASTER_PORT. Raises `InvalidArgument`, naming the variable.
        """
        env = os.environ if env is None else env
        distributed = _distributed()
        size = _number("WORLD_SIZE", env, 1, _MAX_WORLD) if distributed is None else distributed.get_world_size()
        size = 1 if size is None else int(size)
        name = replica or env.get("PEERLOAD_REPLICA", "") or (_launched(env) if size > 1 else "")
        return cls(name, size if rank < size else 0)


ALONE: Final = Membership("", 1)
"""That of a worker that is a whole replica."""


def own_rank(given: int | None, env: Mapping[str, str] | None = None) -> int:
    """The global rank: the one given, else torch.distributed's where it is in use, else RANK, else 0.

    Raises `InvalidArgument`, naming what is wrong.
    """
    if given is not None:
        if not 0 <= given <= _MAX_RANK:
            raise InvalidArgument("rank", f"{given} is not between 0 and {_MAX_RANK}")
        return given
    distributed = _distributed()
    if distributed is not None:
        return int(distributed.get_rank())
    return _number("RANK", os.environ if env is None else env, 0, _MAX_RANK) or 0


def _distributed() -> Any | None:
    """torch.distributed, if this process has imported and initialised it."""
    module = sys.modules.get("torch.distributed")
    # A torch that was built without it has the module and little in it; so has one that is being imported right now.
    if module is None or not hasattr(module, "is_initialized") or not hasattr(module, "is_available"):
        return None
    return module if module.is_available() and module.is_initialized() else None


def _number(name: str, env: Mapping[str, str], least: int, most: int) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    # The length first: Python refuses to convert thousands of digits.
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and least <= int(text) <= most):
        raise InvalidArgument(name, f"{text[:40]!r} is not a number from {least} to {most}")
    return int(text)


def _launched(env: Mapping[str, str]) -> str:
    """What a launcher of torch.distributed calls the job, as far as that tells it from others."""
    run = env.get("TORCHELASTIC_RUN_ID", "")
    address, port = env.get("MASTER_ADDR", ""), env.get("MASTER_PORT", "")
    words = [] if run in _NAMELESS else [run]
    if address and port:
        # Every host has such an address; whoever meets there is on one.
        words += [socket.gethostname()] if _is_loopback(address) else []
        words.append(f"{address}:{port}")
    return " ".join(words)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"
