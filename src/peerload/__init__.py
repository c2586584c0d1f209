"""Peerload: start model servers from the memory of their peers.

`Client` and `AsyncClient` publish and pull weights; `peerload.client` has all that goes with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peerload.client import (
        AsyncClient,
        Client,
        ClientSettings,
        Form,
        Framework,
        Identity,
        Selector,
        Status,
        shared_copy,
        shared_memory,
    )
    from peerload.errors import PeerloadError

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "ClientSettings",
    "Form",
    "Framework",
    "Identity",
    "PeerloadError",
    "Selector",
    "Status",
    "__version__",
    "shared_copy",
    "shared_memory",
]


def __getattr__(name: str) -> Any:
    # Only what is used is imported: the command line asks for the version alone.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "PeerloadError":
        from peerload import errors as home
    else:
        from peerload import client as home  # type: ignore[no-redef]
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
