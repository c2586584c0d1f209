"""Workers that are killed leave the lists long before their heartbeat runs out: real processes, real connections."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peerload.wire import p2p_pb2
from tests.support.live import LiveServer, Rpc, eventually, ready
from tests.support.server import store_url

PROBED = {"PEERLOAD_PROBE_AFTER": "1"}
WORKER = """
    import asyncio, sys
    from peerload import AsyncClient, ClientSettings

    async def main():
        settings = ClientSettings(heartbeat_interval=float(sys.argv[2]))
        async with AsyncClient(sys.argv[1], settings=settings) as client:
            async with client.publish({"w": bytes(1000)}, model="org/model") as source:
                print(source.worker_id, flush=True)
                await asyncio.Event().wait()

    asyncio.run(main())
"""


@contextlib.contextmanager
def working(server: LiveServer, heartbeat: float = 0.4) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker process that has published, and its worker id."""
    command = [sys.executable, "-c", textwrap.dedent(WORKER), server.address, str(heartbeat)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(params=["sqlite", "redis", "kubernetes"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(store_url(request, tmp_path), environment=PROBED) as live:
        yield live.start()


def listed(rpc: Rpc) -> set[str]:
    return {ref.worker_id for ref in rpc.list(ready()).instances}


def test_killed_workers_are_gone_and_the_others_stay(server: LiveServer) -> None:
    """Within seconds: `eventually` waits for less than a third of the time after which a heartbeat runs out."""
    with Rpc(server.address) as rpc, working(server) as (frozen, quiet), working(server) as (_, alive):
        with working(server) as (first, dead), working(server) as (second, dead_too):
            assert listed(rpc) == {quiet, alive, dead, dead_too}
            # One whose process is stopped does not refuse: it may go on at any moment.
            os.kill(frozen.pid, signal.SIGSTOP)
            first.kill()
            eventually(lambda: dead not in listed(rpc), what="the killed worker to leave the list")
            found = rpc.get(rpc.list(ready()).instances[0].mx_source_id, dead)
            assert found.worker.status == p2p_pb2.SOURCE_STATUS_STALE
            second.kill()
            eventually(lambda: dead_too not in listed(rpc), what="the other one to leave the list")
            # The stopped one has been silent for longer, so it was asked before.
            assert listed(rpc) == {quiet, alive}
            os.kill(frozen.pid, signal.SIGCONT)


def test_a_stock_client_sees_it_gone(server: LiveServer) -> None:
    """What a stock engine publishes by default, on this machine: where its own gRPC server listens."""
    from tests.support.stock import import_stock

    stock = import_stock("client").MxClient(server_url=f"http://{server.address}")
    messages: Any = import_stock("p2p_pb2")
    with contextlib.closing(stock), socket.create_server(("127.0.0.1", 0)) as listener:
        identity = messages.SourceIdentity(mx_version="0.7.0", model_name="org/model")
        worker = messages.WorkerMetadata(
            worker_grpc_endpoint=f"127.0.0.1:{listener.getsockname()[1]}",
            topology={"host": socket.gethostname()},
            status=messages.SOURCE_STATUS_READY,
        )
        for worker_id in ("w1", "w2"):
            stock.publish_metadata(identity, worker, worker_id)
        worker.topology["host"] = "elsewhere"
        stock.publish_metadata(identity, worker, "w3")
        accepted = _accept_one(listener)
        source_id = stock.list_sources(identity, messages.SOURCE_STATUS_READY).instances[0].mx_source_id
        accepted.join(20)
        assert not accepted.is_alive(), "silent sources are asked"
        listener.close()

        def workers() -> set[str]:
            return {ref.worker_id for ref in stock.list_sources(identity, messages.SOURCE_STATUS_READY).instances}

        eventually(lambda: workers() == {"w3"}, what="those that refuse to leave, and the one of elsewhere to stay")
        assert stock.update_status(source_id, "w1", 0, messages.SOURCE_STATUS_READY)
        eventually(lambda: workers() == {"w1", "w3"}, what="the one that was heard from to be back")


def _accept_one(listener: socket.socket) -> threading.Thread:
    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1) == b"", "nothing is said to it"

    thread = threading.Thread(target=accept)
    thread.start()
    return thread
