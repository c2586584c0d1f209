from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from peerload.testing.fake_backend import FakeMetadataBackend


@pytest.fixture
async def backend() -> AsyncIterator[FakeMetadataBackend]:
    async with FakeMetadataBackend() as fake:
        yield fake
