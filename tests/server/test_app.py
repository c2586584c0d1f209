"""The composition root: what it makes, and how it ends when a part of it breaks."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from peerload.clock import SystemClock
from peerload.errors import Unavailable
from peerload.plugins import open_store
from peerload.server.app import Server
from peerload.server.settings import Settings
from peerload.store.base import Feed, Position, Store
from peerload.testing import ManualClock
from peerload.wire import health_pb2
from tests.support.rpc import AsyncRpc, publication
from tests.support.server import serving


class Breaking:
    """A store with a defect: its feed raises what the contract does not know."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def watch(self, position: Position, prefix: str = "") -> AsyncIterator[Feed]:
        raise ZeroDivisionError("a defect")
        yield


async def test_a_part_that_breaks_ends_the_server() -> None:
    store = Breaking(open_store("memory:", SystemClock()))
    server = Server(Settings(listen="127.0.0.1:0", drain_delay=0, grace=0), store=store)
    await server.start()
    with pytest.raises(ZeroDivisionError, match="a defect"):
        await server.failed()
    await server.stop()
    await server.stop()


async def test_a_server_that_cannot_listen_lets_go_of_its_store() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        store = open_store("memory:", SystemClock())
        with pytest.raises(Unavailable, match="in use"):
            await Server(Settings(listen=address), store=store).start()
    with pytest.raises(Unavailable):
        await store.get("key")


async def test_two_servers_on_one_store_in_one_process(tmp_path) -> None:
    url = f"sqlite:{tmp_path / 'x.sqlite'}"
    async with serving(url) as one, serving(url) as two, AsyncRpc(one.address) as here, AsyncRpc(two.address) as there:
        source = (await here.publish(publication())).mx_source_id
        assert (await there.get(source, "w0")).found


async def test_uptime_is_on_the_clock_that_was_given() -> None:
    clock = ManualClock()
    async with serving(clock=clock) as server, AsyncRpc(server.address) as rpc:
        await clock.advance(77.9)
        answer = await rpc.call("/model_express.health.HealthService/GetHealth", b"", health_pb2.HealthResponse)
        assert answer.uptime == 77


@pytest.mark.parametrize("listen", ["[::1]:0", "0.0.0.0:0", "localhost:0"])
async def test_other_addresses(listen: str) -> None:
    if listen.startswith("[") and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with serving(listen=listen) as server:
        assert server.address.rpartition(":")[0] == listen.rpartition(":")[0]
        port = server.address.rpartition(":")[2]
        host = "[::1]" if listen.startswith("[") else "127.0.0.1"
        async with AsyncRpc(f"{host}:{port}") as rpc:
            assert (await rpc.publish(publication())).success


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_the_limit_of_open_files_is_raised() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import resource; from peerload.server import serving\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}))\n"
        "serving._raise_descriptor_limit(); print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == f"{min(hard, 1 << 20)} {hard}"
