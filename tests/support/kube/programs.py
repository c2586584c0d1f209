"""Programs of Kubernetes as processes: started on ports of their own, ended by their process ids."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.stopping import stop
from tools.build_kubernetes import found

__all__ = ["Program", "needs_kube", "program"]

START_SECONDS = 90.0
"""Until a program answers, on a machine that is busy with other tests."""
STOP_SECONDS = 20.0


def needs_kube(*programs: str) -> None:
    """Skip the test where Kubernetes is not wanted (KUBE=0), or is not there; in CI the latter is a failure."""
    if os.environ.get("KUBE") == "0":
        pytest.skip("KUBE=0 leaves out what needs a Kubernetes")
    missing = [f"{name} (make kube builds it)" for name in programs or ("etcd", "kube-apiserver") if not found(name)]
    if shutil.which("openssl") is None:
        missing.append("openssl")
    if missing:
        message = f"there is no {', no '.join(missing)}"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(message)
        pytest.skip(message)


def program(name: str) -> str:
    """The path of one of Kubernetes' programs. Skips the test as `needs_kube` does."""
    needs_kube(name)
    return str(found(name))


class Program:
    """One process, which can be killed, stopped and started again with the same words."""

    def __init__(
        self, folder: Path, name: str, command: Callable[[], Sequence[str]], ready: Callable[[], bool]
    ) -> None:
        self.name = name
        self.path = program(name)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._command = command
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start it; returns once it answers."""
        assert self._process is None, f"{self.name} runs"
        command = [self.path, *self._command()]
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "KILL", *command]  # where the tests are killed, nothing is left behind
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """Returns once it answers."""
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            assert self.running, f"{self.name} has ended:\n{self.log()[-3000:]}"
            assert time.monotonic() < deadline, f"{self.name} does not start:\n{self.log()[-3000:]}"
            time.sleep(0.02)

    def pause(self) -> None:
        """SIGSTOP: it is there and says nothing."""
        stop(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, in bounded time. Nothing happens if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """SIGTERM: it ends in its own way, in bounded time."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(STOP_SECONDS)

    def restart(self, *, wait: bool = True) -> None:
        """Kill it and start it again, with what it had."""
        self.kill()
        self.start(wait=wait)

    def log(self) -> str:
        """What it wrote, in all its lives."""
        return (self.folder / "log").read_text(errors="replace")
