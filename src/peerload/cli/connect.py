"""A client as the commands' options and the environment ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peerload.cli.text import parse_size

if TYPE_CHECKING:
    from peerload.client import AsyncClient

__all__ = ["connect"]


def connect(server: str | None, *, host: str | None = None, limit_rate: str | None = None) -> AsyncClient:
    """A client, not yet connected. Raises `InvalidArgument` for an option that cannot be read."""
    from peerload.client import AsyncClient, ClientSettings

    settings = ClientSettings.from_env()
    slow = {"max_bytes_per_second": parse_size(limit_rate, "--limit-rate")} if limit_rate else {}
    # Engines that cannot be slowed down say so.
    return AsyncClient(server, host=host, settings=settings, engine_settings=dict.fromkeys(settings.engines, slow))
