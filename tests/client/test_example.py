"""The example runs as it stands, against a server as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.server import LiveServer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "weights.py"


def test_the_example_runs() -> None:
    with LiveServer("memory:") as live:
        live.start()
        environment = {**os.environ, "MODEL_EXPRESS_URL": f"http://{live.address}"}
        ran = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLE)], capture_output=True, text=True, timeout=60, env=environment
        )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.search(r"pulled \['embed', 'head'\] from 127\.0\.0\.1:\d+, checked xxh3-128 of 2 items", ran.stdout)
    assert "2 workers have it now" in ran.stdout
    assert "pulled 256,128 bytes again" in ran.stdout
    assert "filled 256,128 bytes in place" in ran.stdout
