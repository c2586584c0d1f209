from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

from peerload.testing.fake_backend import FakeMetadataBackend

# How long an example takes says more about the machine than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
async def backend() -> AsyncIterator[FakeMetadataBackend]:
    async with FakeMetadataBackend() as fake:
        yield fake
