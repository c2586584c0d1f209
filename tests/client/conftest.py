"""A server in this process, and two of its clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from peerload import AsyncClient
from peerload.server.app import Server
from tests.client.quick import QUICK
from tests.support.server import serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def source(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, settings=QUICK) as client:
        yield client


@pytest.fixture
async def target(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, settings=QUICK) as client:
        yield client
