"""What docs/systemd.md and its unit say is so: commands, settings and extras exist, and systemd can read the units."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from peerload.client.addresses import ADDRESS_VARIABLES
from peerload.server.limits import Limits
from peerload.server.settings import Settings
from tests.docs.test_documents import options

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "systemd.md").read_text()
UNIT = (ROOT / "deploy" / "systemd" / "peerload.service").read_text()
BLOCKS = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
(SHARING,) = [block for block in BLOCKS if "[Install]" in block]
PROGRAM = "/opt/peerload/bin/peerload"


def test_settings_are_those_of_the_server() -> None:
    named = set(re.findall(r"\bPEERLOAD_([A-Z_]+)", UNIT + PAGE))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    assert set(re.findall(r"\bMODEL_EXPRESS_[A-Z_]+", UNIT + PAGE)) <= set(ADDRESS_VARIABLES)


def test_commands_exist_with_their_options() -> None:
    for line in re.findall(rf"^ExecStart={PROGRAM} (.*)$", UNIT + PAGE, re.MULTILINE):
        name, *words = line.split()
        assert {word for word in words if word.startswith("--")} <= options(name)
    assert f"ExecStart={PROGRAM} serve\n" in UNIT


def test_the_unit_gives_time_and_files_enough() -> None:
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    fields = Settings.model_fields
    assert int(stop) > fields["grace"].default + fields["drain_delay"].default
    (files,) = re.findall(r"^LimitNOFILE=(\d+)$", UNIT, re.MULTILINE)
    assert int(files) > Limits().limit_connections


def test_extras_exist() -> None:
    (extras,) = re.findall(r"pip install '\.\[([a-z,]+)\]'", PAGE)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize(("name", "unit"), [("peerload.service", UNIT), ("peerload-share@.service", SHARING)])
def test_systemd_reads_the_units(tmp_path: Path, name: str, unit: str) -> None:
    (tmp_path / name).write_text(unit.replace(PROGRAM, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
