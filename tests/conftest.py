"""The Redis that tests share, one a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis import RedisProcess, redis_process


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A running Redis; whoever uses it has a namespace of its own (`redis_url`)."""
    with redis_process(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
def redis_url(shared_redis: RedisProcess) -> Iterator[str]:
    """A store in Redis that is empty, and is removed after the test."""
    url = shared_redis.fresh_url()
    yield url
    shared_redis.forget(url.partition("namespace=")[2])
