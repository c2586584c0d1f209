"""`peerload doctor server` and `peerload doctor worker` as they are run."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import peerload
from tests.support.live import LiveServer, free_port


def test_a_servers_place(tmp_path: Path) -> None:
    settings = {"PEERLOAD_LISTEN": "127.0.0.1:0", "PEERLOAD_METRICS": "off"}
    store = f"sqlite:{tmp_path}/peerload.sqlite"
    done = peerload("doctor", "server", "--store", store, "--json", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert [part["name"] for part in told["parts"]] == ["port", "metrics", "tls", "access", "process", "store"]
    assert told["parts"][0]["findings"][0].keys() == {"level", "what", "advice"}
    wrong = peerload("doctor", "server", "--store", store, settings={**settings, "PEERLOAD_ACCESS": str(tmp_path)})
    assert wrong.returncode == 1
    assert "mend that: no server starts with it" in wrong.stdout


def test_a_workers_place(server: LiveServer) -> None:
    settings = {"PEERLOAD_ENGINES": "tcp", "NO_COLOR": "1"}
    done = peerload("doctor", "worker", "--server", server.address, settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["PART", "LEVEL", "FOUND"]
    assert [row.split()[0] for row in rows[:5]] == ["tls", "token", "server", "server", "port"]
    assert any(row.startswith("engine tcp") and "between two processes" in row for row in rows)
    away = peerload("doctor", "worker", "--server", f"127.0.0.1:{free_port()}", "--json", settings=settings)
    assert away.returncode == 4
    assert json.loads(away.stdout)["level"] == "problem"


def test_what_excludes_each_other() -> None:
    for words in (("worker", "--store", "memory:"), ("server", "--engines"), ("nothing",)):
        assert peerload("doctor", *words).returncode == 2
