from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from peerload.server.diagnosis.judge import Judge
from peerload.testing.fake_backend import FakeMetadataBackend


@pytest.fixture
async def backend() -> AsyncIterator[FakeMetadataBackend]:
    async with FakeMetadataBackend() as fake:
        yield fake


@pytest.fixture
def judge(backend: FakeMetadataBackend) -> Judge:
    return Judge(backend, backend.clock)
