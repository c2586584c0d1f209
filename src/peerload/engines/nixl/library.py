"""Where NIXL's Python package is: it has another name for each CUDA that it was built for."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Final

from peerload.errors import MissingExtra

__all__ = ["check_installed", "library"]

_PACKAGES: Final = ("nixl_cu12", "nixl_cu13", "nixl")


def check_installed() -> None:
    """Raise `MissingExtra` where NIXL or numpy is not. Imports nothing."""
    if _package() is None or importlib.util.find_spec("numpy") is None:
        raise MissingExtra("the nixl engine", "nixl")


def library() -> Any:
    """NIXL's `_api`. To be called in children, and for device memory: it loads a hundred megabytes of libraries, and a process
    that made an agent crashes if it leaves by anything but `os._exit`."""
    package = _package()
    if package is None:
        raise MissingExtra("the nixl engine", "nixl")
    return importlib.import_module(f"{package}._api")


def _package() -> str | None:
    return next((name for name in _PACKAGES if importlib.util.find_spec(name) is not None), None)
