"""The port for metrics: where it is, what it answers, and how it gets out of the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peerload.errors import InvalidArgument, Unavailable
from peerload.server.app import Server
from peerload.server.metrics import Metrics
from peerload.server.metrics_http import MetricsPort
from peerload.server.readiness import Readiness
from peerload.server.resolving import resolve
from peerload.server.settings import Settings
from peerload.wire import diagnosis_pb2
from tests.support.live import LiveServer, free_port
from tests.support.rpc import AsyncRpc, identity, publication
from tests.support.server import serving

GET = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PEERLOAD_", "MX_", "MODEL_EXPRESS_", "REDIS_")):
            monkeypatch.delenv(name)


async def ask(address: str, request: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    with contextlib.closing(writer):
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""  # cut off before all of it was read


def samples(page: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.fixture
async def port() -> AsyncIterator[str]:
    made = MetricsPort(Metrics().registry, Readiness())
    yield await made.start("127.0.0.1", 0)
    await made.stop()
    await made.stop()


async def test_what_a_server_counts() -> None:
    async with serving(metrics="127.0.0.1:0") as server, AsyncRpc(server.address) as rpc:
        await rpc.publish(publication())
        await rpc.list(identity=identity(mx_version="0.6.1"))
        await rpc.call("/peerload.v1.DiagnosisService/Explain", b"", diagnosis_pb2.ExplainResponse)
        head, _, body = (await ask(server.metrics_address, GET)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
        found = samples(body.decode())
        assert found["peerload_serving"] == 1
        assert found["peerload_list_misses_total{mx_version}"] == 1
        assert found["peerload_list_misses_total{status}"] == 0
        assert found["peerload_lists_unanswered_total"] == 0
        assert any(name.startswith("peerload_build_info") for name in found)
    with pytest.raises(OSError):
        await ask(server.metrics_address, GET)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET /metrics?x=1 HTTP/1.0\r\nAccept: */*\r\n\r\n", b"200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET /secret HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"\xff\x00\r\n\r\n", b"400 Bad Request"),
    ],
)
async def test_requests(port: str, request_: bytes, status: bytes) -> None:
    answer = await ask(port, request_)
    assert answer.split(b"\r\n")[0] == b"HTTP/1.1 " + status
    if request_.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n")


async def test_what_is_no_request_is_cut_off(port: str) -> None:
    assert await ask(port, b"x" * 100_000) == b""
    with contextlib.closing(socket.create_connection(("127.0.0.1", int(port.rpartition(":")[2])))):
        assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")


async def test_idle_connections_are_bounded_and_do_not_hold_up_the_end() -> None:
    made = MetricsPort(Metrics().registry, Readiness())
    address = await made.start("127.0.0.1", 0)
    host, _, number = address.rpartition(":")
    idle = [await asyncio.open_connection(host, int(number)) for _ in range(70)]
    assert await ask(address, GET) == b""
    await made.stop()
    for reader, writer in idle:
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        writer.close()


async def test_a_default_port_that_is_taken_is_gone_without_and_a_named_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setattr("peerload.server.settings.DEFAULT_METRICS_PORT", number)
        async with serving(metrics="auto") as server, AsyncRpc(server.address) as rpc:
            assert server.metrics_address == ""
            assert (await rpc.publish(publication())).success
        with pytest.raises(Unavailable, match=f"metrics: 127.0.0.1:{number} cannot be listened on"):
            await Server(Settings(listen="127.0.0.1:0", store="memory:", metrics=str(number))).start()


@pytest.mark.parametrize(
    ("given", "listen", "address"),
    [
        ("auto", "0.0.0.0:8001", ("0.0.0.0", 9401)),
        ("off", "h:1", None),
        ("0", "h:1", None),
        ("9500", "[::1]:8001", ("::1", 9500)),
        ("[::]:9", "h:1", ("::", 9)),
        ("10.0.0.1:0", "h:1", ("10.0.0.1", 0)),
    ],
)
def test_where_it_is(given: str, listen: str, address: tuple[str, int] | None) -> None:
    assert resolve({"metrics": given, "listen": listen, "store": "memory:"}).settings.metrics_address == address


@pytest.mark.parametrize(
    ("environment", "value", "origin"),
    [
        ({}, "auto", "default"),
        ({"MODEL_EXPRESS_SERVER_METRICS_PORT": "9402"}, "9402", "MODEL_EXPRESS_SERVER_METRICS_PORT"),
        ({"MODEL_EXPRESS_SERVER_METRICS_PORT": "0"}, "off", "MODEL_EXPRESS_SERVER_METRICS_PORT"),
        ({"MODEL_EXPRESS_SERVER_METRICS_PORT": "9402", "PEERLOAD_METRICS": "off"}, "off", "PEERLOAD_METRICS"),
    ],
)
def test_who_says_where(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], value: str, origin: str) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    resolved = resolve({})
    assert (resolved.settings.metrics, resolved.origins["metrics"]) == (value, origin)


@pytest.mark.parametrize("value", ["70000", "nowhere", "h:70000", "-1"])
def test_a_place_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PEERLOAD_METRICS", value)
    with pytest.raises(InvalidArgument, match="port from 1 to 65535") as error:
        resolve({})
    assert error.value.field == "PEERLOAD_METRICS"


def test_a_process_serves_them_where_a_deployment_says() -> None:
    number = free_port()
    environment = {
        "MODEL_EXPRESS_SERVER_METRICS_PORT": str(number),
        "PEERLOAD_METRICS": "",
        "PEERLOAD_LOG_FORMAT": "json",
    }
    with LiveServer("memory:", environment=environment) as server:
        server.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/metrics", timeout=20) as page:
            assert samples(page.read().decode())["peerload_serving"] == 1
        said = map(json.loads, server.log().splitlines())
        assert next(each for each in said if each["event"] == "serving")["metrics"] == f"127.0.0.1:{number}"
        assert server.stop() == 0


async def test_probes_are_answered_beside_the_metrics() -> None:
    """As the kubelet asks: its own probes by gRPC do not speak TLS."""
    readiness = Readiness()
    made = MetricsPort(Metrics().registry, readiness)
    address = await made.start("127.0.0.1", 0)

    async def probe(path: str) -> tuple[bytes, bytes]:
        head, _, body = (await ask(address, f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())).partition(b"\r\n\r\n")
        return head.partition(b"\r\n")[0], body

    alive = (b"HTTP/1.1 200 OK", b"OK\n")
    assert await probe("/livez") == alive
    assert await probe("/readyz") == (b"HTTP/1.1 503 Service Unavailable", b"the server is starting\n")
    readiness.set(True)
    assert await probe("/readyz?verbose") == alive
    readiness.stop()
    assert await probe("/readyz") == (b"HTTP/1.1 503 Service Unavailable", b"the server is stopping\n")
    assert await probe("/livez") == alive
    await made.stop()
