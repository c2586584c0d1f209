"""What holds for all tests, and the Redis and the Kubernetes that those share which need one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports it.
pytest.register_assert_rewrite("peerload.testing.store_suite")

from tests.support.kube import ControlPlane, Namespace  # noqa: E402
from tests.support.redis import RedisProcess, redis_process  # noqa: E402

# How long an example takes says more about the machine than about the code. The same examples every time, so that a failure
# is somebody's doing; HYPOTHESIS_PROFILE=long (and "explore") look further, at others each time.
SLOW = [HealthCheck.too_slow]
settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=SLOW)
settings.register_profile("explore", deadline=None, suppress_health_check=SLOW)
settings.register_profile("long", deadline=None, suppress_health_check=SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

LONG = tuple(str(Path(__file__).parent / folder) + os.sep for folder in ("faults", "model", "demo", "hub"))
"""Where the tests are that take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no process is left with it at the end while the others have nothing to do."""
    items.sort(key=lambda item: not str(item.path).startswith(LONG))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A running Redis, one a test process; whoever uses it has a namespace of its own (`redis_url`)."""
    with redis_process(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
def redis_url(shared_redis: RedisProcess) -> Iterator[str]:
    """A store in Redis that is empty, and is removed after the test."""
    url = shared_redis.fresh_url()
    yield url
    shared_redis.forget(url.partition("namespace=")[2])


@pytest.fixture(scope="session")
def shared_kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running Kubernetes, one a test process; whoever uses it has a namespace of its own (`kube_namespace`)."""
    with ControlPlane(tmp_path_factory.mktemp("kube")).running() as plane:
        yield plane


@pytest.fixture
def kube_namespace(shared_kube: ControlPlane) -> Namespace:
    """A namespace that is empty but for what Peerload needs in it."""
    return shared_kube.fresh_namespace()


@pytest.fixture
def kube_url(kube_namespace: Namespace) -> str:
    """A store in Kubernetes that is empty; under the service account whose rights the package ships."""
    return kube_namespace.store_url()
