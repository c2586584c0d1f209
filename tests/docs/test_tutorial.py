"""The tutorial, as it is written: its model is made, its commands run in their order, and what it says of them is so."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from peerload.cli.outcome import NOBODY
from tests.cli.commands import Running, peerload
from tests.support.live import eventually, free_port

TUTORIAL = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"```(python|sh|console)\n(.*?)```", TUTORIAL, re.DOTALL)
HERE = "127.0.0.1:8080"


def here(word: str, folder: Path) -> str:
    """A word of a command, with the folders of the tutorial in one of the test's, and its page on a port of its own."""
    return "127.0.0.1:0" if word == HERE else re.sub(r"^\./", f"{folder}/", word)


def test_the_tutorial_runs(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "PEERLOAD_LISTEN": address,
        "MODEL_EXPRESS_URL": address,
        "PEERLOAD_METRICS": "off",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    sharing: list[Running] = []
    with ExitStack() as running:
        for language, block in BLOCKS:
            if language == "python":
                subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True)
                continue
            for line in block.splitlines():
                if language == "console":
                    command = line.removeprefix("$ ")
                    if not re.search(r"\.venv", command):
                        subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
                    continue
                program, *words = shlex.split(line)
                assert program == "peerload"
                words = [here(word, tmp_path) for word in words]
                if words[0] == "serve":
                    running.enter_context(Running(*words, settings=settings))
                    eventually(lambda: peerload("health", settings=settings).returncode == 0, what="the server")
                elif words[0] == "share" or "--share" in words:
                    source = running.enter_context(Running(*words, "--json", settings=settings))
                    source.event("sharing")
                    sharing.append(source)
                else:
                    if "./again" in line:
                        sharing[0].signal(signal.SIGINT)
                        sharing[0].wait()
                    done = peerload(*words, settings=settings)
                    assert done.returncode == (NOBODY if "org/other" in words else 0), done.stderr
                    if words[0] == "sources":
                        assert "2 ready" in done.stdout
    assert len(sharing) == 2
    assert not list(tmp_path.glob("[!s]*"))
