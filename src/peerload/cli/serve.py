"""`peerload serve`."""

from __future__ import annotations

__all__ = ["command"]


def command() -> None:
    """Run the directory server."""
