"""Where Mooncake is, and what it needs of the system."""

from __future__ import annotations

import ctypes.util
import functools
import importlib
import importlib.util
from typing import Any, Final

from peerload.errors import MissingExtra, MissingLibrary

__all__ = ["check_installed", "library"]

_NEEDED: Final = {"ibverbs": "libibverbs1", "numa": "libnuma1", "uring": "liburing2", "curl": "libcurl4"}
"""By the linker's names, the Debian packages."""


@functools.cache
def check_installed() -> None:
    """Raise `MissingExtra` where Mooncake is not, `MissingLibrary` where the system lacks something of what it links to.

    Imports nothing.
    """
    if importlib.util.find_spec("mooncake") is None:
        raise MissingExtra("the mooncake engine", "mooncake")
    missing = [name for name in _NEEDED if ctypes.util.find_library(name) is None]
    if missing:
        raise MissingLibrary("the mooncake engine", [f"lib{name}" for name in missing], list(_NEEDED.values()))


def library() -> Any:
    """`mooncake.engine`. To be imported in children: it starts threads."""
    return importlib.import_module("mooncake.engine")
