"""`peerload serve --processes 2`: real processes, which are killed, exchanged and orphaned under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from peerload import AsyncClient
from peerload.server.processes.merged import Merged, families
from peerload.server.processes.restarts import Restarts
from tests.security.entries import write_access
from tests.server.test_serve_command import peerload
from tests.support.live import LiveServer, Rpc, eventually, free_port, publication, ready, sqlite_url

CALLERS = 8


class Several(LiveServer):
    """Two processes on a sqlite file, and what they wrote."""

    def __init__(self, folder: Path, front: str, **environment: str) -> None:
        self.metrics = f"127.0.0.1:{free_port()}"
        super().__init__(
            sqlite_url(folder),
            environment={
                "PEERLOAD_FRONT": front,
                "PEERLOAD_PROCESSES": "2",
                "PEERLOAD_METRICS": self.metrics,
                "PEERLOAD_LOG_FORMAT": "json",
                **environment,
            },
        )

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["event"] == event and line.get("logger")]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def wait_for_both(self) -> None:
        eventually(lambda: self.page("/metrics").count("peerload_serving{process=") == 2, what="both processes")


@pytest.fixture(scope="module", params=["grpc", "h2corn"])
def front(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "h2corn":
        pytest.importorskip("h2corn")
    return name


@pytest.fixture(scope="module")
def several(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    with Several(tmp_path_factory.mktemp("several"), front) as server:
        server.start()
        server.wait_for_both()
        yield server
        assert server.stop() == 0
        assert len(server.events("all processes have stopped")) == 1


@contextlib.asynccontextmanager
async def asking(address: str) -> AsyncIterator[Callable[[], int]]:
    """Clients of ours that list without pause; how often they have been answered. Leaving raises what any was told."""
    answered = 0

    async def ask(client: AsyncClient) -> None:
        nonlocal answered
        while True:
            assert [each.worker_id for each in await client.find("org/asked")] == ["w0"]
            answered += 1
            await asyncio.sleep(0.002)

    with Rpc(address) as rpc:
        assert rpc.publish(publication("org/asked")).success
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(address)) for _ in range(CALLERS)]
        tasks = [asyncio.create_task(ask(client)) for client in clients]
        try:
            yield lambda: answered
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []


def test_the_metrics_of_all_are_one_page_and_the_whole_is_ready(several: Several) -> None:
    page = several.page("/metrics")
    for number in (1, 2):
        assert f'peerload_serving{{process="{number}"}} 1.0' in page
        assert f'peerload_process_restarts_total{{process="{number}"}}' in page
    assert page.count("# TYPE peerload_serving gauge") == 1
    assert several.page("/readyz") == "OK\n"


def test_each_line_of_the_log_names_its_process(several: Several) -> None:
    assert {1, 2} <= {line.get("process") for line in several.events("serving")}


def test_what_one_process_is_told_every_process_knows(several: Several) -> None:
    several.wait_for_both()
    with Rpc(several.address) as rpc:
        assert rpc.publish(publication("org/everywhere")).success
    listing = ready(publication("org/everywhere").identity)
    for _ in range(16):
        with Rpc(several.address) as rpc:
            eventually(lambda rpc=rpc: len(rpc.list(listing).instances) == 1, what="the record")


async def test_a_process_that_is_killed_under_load_is_started_again_and_no_client_notices(several: Several) -> None:
    several.wait_for_both()
    async with asking(several.address) as answered:
        victim = several.children()[0]
        victim.kill()
        await asyncio.to_thread(eventually, lambda: victim.pid not in [each.pid for each in several.children()])
        await asyncio.to_thread(several.wait_for_both)
        before = answered()
        await asyncio.to_thread(eventually, lambda: answered() > before + CALLERS)
    assert [line["pid"] for line in several.events("a process ended by itself; another is started")] == [victim.pid]


async def test_all_are_exchanged_without_a_failed_call(several: Several, front: str) -> None:
    several.wait_for_both()
    before = {child.pid for child in several.children()}
    ended = threading.Event()
    told: list[grpc.RpcError] = []

    def ask_plainly() -> None:
        """Any gRPC client, without retries of its own: a connection that is kept, and new ones."""
        with Rpc(several.address) as kept:
            while not ended.wait(0.005):
                with Rpc(several.address) as fresh:
                    for rpc in (kept, fresh):
                        try:
                            rpc.list(ready())
                        except grpc.RpcError as error:
                            told.append(error)

    async with asking(several.address) as answered:
        asking_plainly = asyncio.create_task(asyncio.to_thread(ask_plainly))
        several.signal(signal.SIGHUP)
        exchanged = "a process was exchanged"
        try:
            await asyncio.to_thread(
                eventually, lambda: len(several.events(exchanged)) == 2, within=90.0, what="the exchange"
            )
            count = answered()
            await asyncio.to_thread(eventually, lambda: answered() > count + CALLERS)
        finally:
            ended.set()
        await asking_plainly
    assert not before & {child.pid for child in several.children()}
    if front == "h2corn":
        assert told == []
    # gRPC's server cannot let a connection go without turning calls away, which clients of ours repeat elsewhere; and one that
    # reaches its queue in the very moment of its end it cuts off.
    assert {error.code() for error in told} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_nobody_outlives_a_parent_that_is_killed_and_the_port_is_had_once(tmp_path: Path) -> None:
    with Several(tmp_path, "grpc") as server:
        server.start()
        server.wait_for_both()
        children = server.children()
        assert len(children) == 2
        server.kill()
        assert not psutil.wait_procs(children, timeout=20)[1]
        # Nothing holds the port, and nothing the store.
        assert server.start().running
        words = ("--listen", server.address, "--store", server.store, "--metrics", "off", "--processes", "2")
        for front in ("grpc", "h2corn"):
            done = peerload("serve", *words, "--front", front)
            assert done.returncode == 1
            assert f"{server.address} is in use" in done.stderr


def test_an_exchange_that_cannot_be_leaves_who_is_there(tmp_path: Path) -> None:
    access = tmp_path / "access.toml"
    write_access(access)
    with Several(tmp_path, "grpc", PEERLOAD_ACCESS=str(access)) as server:
        server.start()
        server.wait_for_both()
        before = [child.pid for child in server.children()]
        access.write_text("this is none")
        server.signal(signal.SIGHUP)
        (told,) = eventually(
            lambda: server.events("a new process does not serve; those that are there go on"), what="the refusal"
        )
        assert "access" in told["reason"]
        eventually(lambda: [child.pid for child in server.children()] == before, what="the new one to be gone")
        assert server.page("/readyz") == "OK\n"
        assert server.stop() == 0


def test_a_store_of_one_process_is_refused() -> None:
    done = peerload("serve", "--processes", "2", "--store", "memory:")
    assert done.returncode == 1
    assert "--store: memory: is within one process" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_keeps_the_first_process_from_serving_is_said_and_ends_all(tmp_path: Path) -> None:
    listen = ("--listen", f"127.0.0.1:{free_port()}", "--metrics", "off", "--log-level", "critical")
    words = ("--processes", "2", "--tls-cert", str(tmp_path / "none.pem"), "--tls-key", str(tmp_path / "none.pem"))
    done = peerload("serve", *listen, *words, "--store", sqlite_url(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"peerload: --tls-cert: {tmp_path / 'none.pem'} cannot be read")


def test_processes_that_keep_ending_are_started_ever_more_slowly() -> None:
    restarts = Restarts()
    assert [restarts.after(1.0) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    # One that lived for long enough starts anew.
    assert [restarts.after(lived) for lived in (60.0, 1.0, 1.0)] == [0, 0, 0.5]


def test_metrics_of_several_keep_their_labels() -> None:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["code"], registry=registry).labels("ok").inc(3)
    Histogram("seconds", "Times.", buckets=(1.0,), registry=registry).observe(0.5)
    merged = Merged()
    merged.gathered = dict.fromkeys((1, 2), json.loads(json.dumps(families(registry))))
    page = generate_latest(merged.registry).decode()
    for number in (1, 2):
        assert f'calls_total{{code="ok",process="{number}"}} 3.0' in page
        assert f'seconds_bucket{{le="1.0",process="{number}"}} 1.0' in page
    assert page.count("# TYPE calls_total counter") == 1


def test_signals_change_the_level_of_all_their_logs(several: Several) -> None:
    def told() -> int:
        return len({each.get("process") for each in several.events("told to change the level of the log")})

    several.signal(signal.SIGUSR1)
    eventually(lambda: told() == 3, what="the parent and both processes")
    with Rpc(several.address) as rpc:
        assert rpc.healthy()
    (ended, *_) = eventually(lambda: several.events("a call has ended"), what="a line for a call")
    assert ended["process"] in (1, 2)
    assert ended["request_id"]
    several.signal(signal.SIGUSR2)
    eventually(lambda: len(several.events("told to change the level of the log")) == 6, what="the way back")


def test_every_metric_is_told_for_each_process(several: Several) -> None:
    several.wait_for_both()
    page = several.page("/metrics")
    for name in ("peerload_feed_up", "peerload_rpc_in_flight", "peerload_directory_lag_seconds_count"):
        lines = [line for line in page.splitlines() if line.startswith(name)]
        assert {number for number in "12" for line in lines if f'process="{number}"' in line} == {"1", "2"}, name
