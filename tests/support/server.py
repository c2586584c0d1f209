"""Servers for tests: in this process, where a test holds the clock and the store, or as a process of its own.

In this process::

    async with serving() as server:
        server.address, server.backend

As a process, for tests that kill it::

    with LiveServer(sqlite_url(tmp_path)) as server:
        server.start()          # returns once it serves
        server.address, server.pid, server.kill(), server.start(), server.stop(), server.log()
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from peerload.clock import Clock
from peerload.server.app import Server
from peerload.server.settings import Settings
from peerload.store.base import Store
from tests.support.kube import ControlPlane
from tests.support.live import LiveServer, sqlite_url
from tests.support.redis import RedisProcess

__all__ = ["LiveServer", "serving", "sqlite_url", "store_url"]


def store_url(request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an empty store of the kind that a fixture's parameter names: memory, sqlite, redis or kubernetes."""
    if request.param == "redis":
        if request.scope == "function":
            url: str = request.getfixturevalue("redis_url")
            return url
        shared: RedisProcess = request.getfixturevalue("shared_redis")
        return shared.fresh_url()
    if request.param == "kubernetes":
        plane: ControlPlane = request.getfixturevalue("shared_kube")
        return plane.fresh_namespace().store_url()
    return "memory:" if request.param == "memory" else sqlite_url(folder)


@contextlib.asynccontextmanager
async def serving(
    url: str = "memory:", *, clock: Clock | None = None, store: Store | None = None, **settings: Any
) -> AsyncIterator[Server]:
    """A server in this event loop, on a free port, serving once this is entered."""
    chosen = {"listen": "127.0.0.1:0", "store": url, "grace": 1.0, "drain_delay": 0.0, "metrics": "off", **settings}
    async with Server(Settings(**chosen), clock=clock, store=store) as server:
        async for ready in server.readiness.states():
            if ready:
                break
        yield server
