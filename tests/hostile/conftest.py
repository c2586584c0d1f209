"""One real server of each front for all of these tests; after each of them it must be the same process, well, and of the same size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.live import LiveServer, Rpc, publication, ready, sqlite_url

MEBIBYTE = 1024 * 1024
MEMORY_LIMIT = 700 * MEBIBYTE
"""What the server may hold after any of these tests: some of them push 100 MiB through it."""


@pytest.fixture(scope="module", params=["grpc", "h2corn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    environment = {
        "MX_HEARTBEAT_TIMEOUT_SECS": "3600",
        "PEERLOAD_FRONT": request.param,
        # Who stalls here does so for as long as the test takes, which is no matter of time.
        "PEERLOAD_TIMEOUT_STALL": "300",
    }
    with LiveServer(sqlite_url(tmp_path_factory.mktemp("server")), environment=environment) as live:
        yield live.start()


@pytest.fixture
def rpc(server: LiveServer) -> Iterator[Rpc]:
    with Rpc(server.address) as made:
        yield made


@pytest.fixture(autouse=True)
def unharmed(server: LiveServer) -> Iterator[None]:
    pid = server.pid
    yield
    assert server.running, server.log()
    assert server.pid == pid
    with Rpc(server.address) as rpc:
        request = publication("org/control", "control")
        source_id = rpc.publish(request, timeout=10).mx_source_id
        assert [ref.worker_id for ref in rpc.list(ready(request.identity), timeout=10).instances] == ["control"]
        assert rpc.get(source_id, "control", timeout=10).found
        assert rpc.withdraw(source_id, "control", timeout=10)
    assert server.rss() < MEMORY_LIMIT
