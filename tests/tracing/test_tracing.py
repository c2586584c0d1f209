"""Traces over real processes: one from a client's pull through server and store; and nothing of it where nobody traces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from peerload import Client
from tests.cli.commands import environment, peerload
from tests.support.live import LiveServer, eventually, sqlite_url
from tests.tracing.collector import Collector, Told

JOB = Path(__file__).with_name("job.py")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def server(collector: Collector, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(sqlite_url(tmp_path), environment=collector.environment) as running:
        yield running.start()


def chains(spans: list[Told]) -> set[tuple[str, ...]]:
    """Each span's names, from the root of its trace to itself; the servers' in capitals."""
    known = {told.span: told for told in spans}

    def chain(told: Told) -> tuple[str, ...]:
        name = told.name.rpartition("/")[2]
        name = name.upper() if told.kind == "server" else name
        return (*(chain(known[told.parent]) if told.parent in known else ()), name)

    return {chain(told) for told in spans}


PULL = {
    ("job",),
    ("job", "peerload.pull"),
    ("job", "peerload.pull", "peerload.find"),
    ("job", "peerload.pull", "peerload.find", "List"),
    ("job", "peerload.pull", "peerload.find", "List", "LIST"),
    ("job", "peerload.pull", "peerload.manifest"),
    ("job", "peerload.pull", "peerload.manifest", "GetManifest"),
    ("job", "peerload.pull", "peerload.manifest", "GetManifest", "GETMANIFEST"),
    ("job", "peerload.pull", "peerload.manifest", "GetManifest", "GETMANIFEST", "store blob"),
    ("job", "peerload.pull", "peerload.read"),
    ("job", "Publish", "PUBLISH", "store put"),
}


def test_one_trace_from_a_pull_through_server_and_store(collector: Collector, server: LiveServer) -> None:
    with Client(server.address) as client, client.publish({"w": np.zeros(1000, "f4")}, model="m"):
        process = subprocess.Popen(
            [sys.executable, JOB, server.address, "m"],
            stdin=subprocess.PIPE,
            env=environment({**collector.environment, "MX_HEARTBEAT_INTERVAL_SECS": "0.1", "PEERLOAD_ENGINES": "tcp"}),
        )
        try:
            eventually(lambda: any(told.name.endswith("UpdateStatus") for told in collector.spans()))
            process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    eventually(lambda: chains(collector.spans()) >= PULL, what="the trace")
    spans = collector.spans()
    job = next(told for told in spans if told.name == "job")
    traced = [told for told in spans if told.trace == job.trace]
    assert chains(traced) >= PULL
    assert {told.service for told in traced} == {"job", "peerload-server"}

    read = next(told for told in traced if told.name == "peerload.read")
    assert read.attributes["peerload.engine"] == "tcp"
    assert read.attributes["peerload.bytes"] == 4000
    listed = next(told for told in traced if told.kind == "server" and told.name.endswith("/List"))
    assert listed.attributes["rpc.grpc.status_code"] == 0
    assert len(listed.attributes["peerload.request_id"]) == 16
    stored = next(told for told in traced if told.name == "store blob")
    assert stored.attributes["peerload.store"] == "sqlite"
    # Heartbeats go on long after the pull, and are no part of it; nor are the server's own batches of anything.
    beats = [told for told in spans if told.name.endswith("UpdateStatus")]
    assert job.trace not in {told.trace for told in beats}
    assert "store touch" not in {told.name for told in spans if not told.parent}


def test_commands_trace_where_they_are_told_to(collector: Collector, server: LiveServer) -> None:
    settings = {**collector.environment, "OTEL_SERVICE_NAME": "nightly"}
    done = peerload("pull", "nobody/has", "--local-dir", "/nonexistent", "--server", server.address, settings=settings)
    assert done.returncode == 3, done.stderr
    # What a command ends with, its spans have been exported by then.
    pull = next(told for told in collector.spans() if told.name == "peerload.pull")
    assert (pull.service, pull.failed, pull.parent) == ("nightly", True, b"")
    assert "nobody/has" in pull.attributes["peerload.wanted"]


UNTRACED = """
import sys
import peerload, peerload.client, peerload.server.app, peerload.cli.serve, peerload.cli.pull
from peerload import tracing
with tracing.span("s") as span:
    span.set_attribute("a", 1)
assert tracing.span("a") is tracing.span("b")
assert (tracing.headers(), tracing.incoming([]), tracing.inside()) == ((), None, False)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry"] = None
try:
    tracing.start("x")
except peerload.errors.MissingExtra as error:
    print(error)
"""


def test_nothing_is_loaded_where_nobody_traces() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNTRACED],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
    )
    assert done.returncode == 0, done.stderr
    assert "peerload[otel]" in done.stdout
