"""`peerload doctor --engines`: real bytes by every engine that is installed, and what is said of those that move none."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from peerload.clock import SystemClock
from peerload.doctor.engines import examinable, examine_engine
from peerload.finding import Level
from tests.cli.commands import Running, peerload


def test_every_engine_in_use_works_and_programs_read_it() -> None:
    done = peerload("doctor", "--engines", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    engines = {each["name"]: each for each in found["engines"]}
    assert list(engines) == ["memfd", "tcp", *(name for name in examinable() if name not in ("memfd", "tcp"))]
    for name in ("memfd", "tcp"):
        assert (engines[name]["used"], engines[name]["works"], engines[name]["level"]) == (True, True, "ok")
        assert engines[name]["bytes_per_second"] > 1e6
        assert "between two processes" in engines[name]["findings"][0]["what"]
    assert "mapped" in engines["memfd"]["findings"][1]["what"]


def test_what_people_read_of_an_engine_that_is_not_there() -> None:
    done = peerload("doctor", "--engines", settings={"PEERLOAD_ENGINES": "tcp,teleport", "NO_COLOR": "1"})
    assert done.returncode == 1, done.stdout + done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["ENGINE", "IN", "USE", "LEVEL", "FOUND"]
    assert any(row.split()[:3] == ["tcp", "yes", "ok"] for row in rows)
    (row,) = (row for row in rows if row.startswith("teleport"))
    assert row.split()[1:3] == ["yes", "problem"]
    assert "not an engine that is installed" in row
    done = peerload("doctor", "--engines", "--store", "memory:")
    assert (done.returncode, "exclude" in done.stderr) == (2, True)


def test_what_is_missing_and_not_in_use_is_no_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "slow_boat.py"
    package.write_text(
        "from peerload.errors import MissingExtra\n"
        "def open_boat(**settings):\n"
        "    raise MissingExtra('the engine boat', 'boat')\n"
    )
    info = tmp_path / "slow_boat-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-boat\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[peerload.engines]\nboat = slow_boat:open_boat\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "boat" in examinable()
    for used, level in ((False, Level.OK), (True, Level.PROBLEM)):
        report = examine_engine("boat", used=used, clock=SystemClock(), stop=threading.Event())
        assert (report.works, report.level) == (False, level)
        assert "pip install 'peerload[boat]'" in report.findings[0].advice


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_its_source_too(number: int, status: int) -> None:
    with Running("doctor", "--engines") as doctor:
        this = psutil.Process(doctor.pid)
        children: list[psutil.Process] = []
        while not children and not doctor.ended:
            children = this.children(recursive=True)
        doctor.signal(number)
        assert doctor.wait() == status
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
