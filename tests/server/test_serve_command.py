"""`peerload serve` as a process: what it prints, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerload import __version__
from tests.support.live import LiveServer, Rpc, eventually, publication, sqlite_url

SECONDS = 60


def peerload(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {
        name: text for name, text in os.environ.items() if not name.startswith(("PEERLOAD_", "MX_", "MODEL_EXPRESS_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "peerload", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=clean | {"NO_COLOR": "1", "COLUMNS": "120"} | (environment or {}),
        check=False,
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(sqlite_url(tmp_path), environment={"PEERLOAD_LOG_FORMAT": "json"}) as live:
        yield live.start()


def test_the_version() -> None:
    assert peerload("--version").stdout == f"peerload {__version__}\n"


def test_help_names_every_command_without_importing_any() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from peerload.cli import main, COMMANDS\n"
            "sys.argv = ['peerload', '--help']\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "print('loaded:', [c.module for c in COMMANDS.values() if c.module in sys.modules])\n"
            "print('heavy:', [m for m in ('grpc', 'google.protobuf', 'pydantic', 'structlog') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert "serve" in done.stdout
    assert "loaded: []" in done.stdout
    assert "heavy: []" in done.stdout


def test_the_configuration_is_printed_with_its_origins() -> None:
    environment = {"MX_GC_TIMEOUT_SECS": "7", "PEERLOAD_STORE": "redis://me:secret@h/0"}
    done = peerload("serve", "--print-config", "--json", "--listen", "[::1]:7", environment=environment)
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["listen"] == {"value": "[::1]:7", "from": "--listen"}
    assert shown["gc_timeout"] == {"value": 7.0, "from": "MX_GC_TIMEOUT_SECS"}
    assert shown["store"] == {"value": "redis://me:***@h/0", "from": "PEERLOAD_STORE"}
    assert shown["grace"] == {"value": 10.0, "from": "default"}
    table = peerload("serve", "--print-config", environment=environment)
    assert table.returncode == 0
    assert "MX_GC_TIMEOUT_SECS" in table.stdout
    assert "secret" not in table.stdout


@pytest.mark.parametrize(
    ("words", "environment", "text"),
    [
        ((), {"MX_HEARTBEAT_TIMEOUT_SECS": "x"}, "MX_HEARTBEAT_TIMEOUT_SECS"),
        (("--store", "etcd://h"), {}, "etcd: is not a store"),
        (("--store", "memory:x"), {}, "memory: takes nothing"),
        (("--store", "sqlite:/dev/null/x.sqlite"), {}, "/dev/null"),
        (("--listen", "nowhere"), {}, "--listen"),
        (("--listen", "203.0.113.1:1", "--store", "memory:"), {}, "203.0.113.1:1 is not an address of this machine"),
        (("--tls-cert", "/nowhere"), {"PEERLOAD_TLS_KEY": "k"}, "--tls-cert: /nowhere cannot be read: No such file"),
        ((), {"MODEL_EXPRESS_SECURITY_MODE": "enforce"}, "MODEL_EXPRESS_SECURITY_MODE"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(words: tuple[str, ...], environment: dict[str, str], text: str) -> None:
    done = peerload("serve", *words, environment=environment)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_in_use_is_refused_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = peerload("serve", "--listen", f"127.0.0.1:{port}", "--store", "memory:")
    assert done.returncode == 1
    assert f"127.0.0.1:{port} is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_server_on_one_address_is_refused_and_the_first_goes_on(server: LiveServer) -> None:
    done = peerload("serve", "--listen", server.address, "--store", "memory:")
    assert done.returncode == 1
    assert f"{server.address} is in use" in done.stderr
    with Rpc(server.address) as rpc:
        assert rpc.healthy()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(server: LiveServer, number: int) -> None:
    server.signal(number)
    assert server.wait() == 0
    written = [json.loads(line) for line in server.log().splitlines()]
    # A front that is a package of its own tells that it starts, too.
    events = [event for event in written if event.get("logger")]
    assert [event["event"] for event in events] == ["serving", "told to stop", "stopping", "stopped"]
    assert events[0]["listen"] == server.address
    assert events[0]["store"] == server.store
    assert events[0]["version"] == __version__


def test_health_says_not_serving_while_it_drains(tmp_path: Path) -> None:
    environment = {"PEERLOAD_DRAIN_DELAY": "3600", "PEERLOAD_LOG_FORMAT": "json"}
    with LiveServer(sqlite_url(tmp_path), environment=environment) as server:
        server.start()
        with Rpc(server.address) as rpc:
            server.signal(signal.SIGTERM)
            eventually(lambda: '"stopping"' in server.log(), what="the drain to begin")
            assert not rpc.healthy()
            # Until load balancers have noticed, calls are answered as ever.
            assert rpc.publish(publication()).success
