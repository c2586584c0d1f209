"""`peerload health` as probes and people run it."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import grpc
import pytest

from peerload import Client, __version__
from tests.cli.commands import peerload
from tests.support.certificates import Authority
from tests.support.live import LiveServer, Rpc, eventually


def test_a_server_that_serves(server: LiveServer) -> None:
    ready = peerload("health", "--server", server.address)
    assert (ready.returncode, ready.stdout) == (0, f"The server at {server.address} can answer calls.\n")
    told = json.loads(peerload("health", "--json", settings={"PEERLOAD_LISTEN": f"0.0.0.0:{server.port}"}).stdout)
    assert told["server"] == server.address
    assert (told["serving"], told["reason"]) == (True, "")
    assert told["uptime"] >= 0
    with Client(server.address) as client:
        assert client.health().serving
        assert client.health(live=True).version
        info = client.server_info()
    assert (info.version, info.listen) == (__version__, server.address)
    assert info.uptime > 0
    assert abs(info.clock_ahead) < 5


def test_a_server_that_stops_is_alive_and_not_ready(tmp_path: Path) -> None:
    with LiveServer(f"sqlite:{tmp_path / 's'}", environment={"PEERLOAD_DRAIN_DELAY": "60"}) as server:
        server.start()
        server.signal(signal.SIGTERM)
        with Rpc(server.address) as rpc:
            eventually(lambda: not rpc.healthy(), what="the drain")
        at = ("--server", server.address)
        ready = peerload("health", *at)
        assert (ready.returncode, ready.stdout) == (
            1,
            f"The server at {server.address} cannot answer calls: the server is stopping.\n",
        )
        assert peerload("health", "--live", *at).returncode == 0


def test_nobody_there_and_what_is_no_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        nobody = peerload("health", "--timeout", "0.3", "--server", f"127.0.0.1:{port}")
    assert nobody.returncode == 4
    wrong = peerload("health", settings={"PEERLOAD_LISTEN": "nowhere"})
    assert wrong.returncode == 2
    assert "PEERLOAD_LISTEN: must be HOST:PORT" in wrong.stderr


@pytest.mark.parametrize("trusted", [True, False])
def test_over_tls(tmp_path: Path, trusted: bool) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue()
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    environment = {"PEERLOAD_TLS_CERT": str(issued.certificate), "PEERLOAD_TLS_KEY": str(issued.key)}
    with LiveServer("memory:", environment=environment, credentials=credentials) as server:
        server.start()
        options = ("--tls-ca", authority.certificate) if trusted else ("--tls",)
        done = peerload("health", "--server", f"localhost:{server.port}", *options)
        assert done.returncode == (0 if trusted else 4), done.stderr
