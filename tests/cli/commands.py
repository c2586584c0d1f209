"""`peerload` commands as processes of their own, for tests."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

LIMIT_S = 60.0
FOREIGN = ("PEERLOAD_", "MODEL_EXPRESS_", "MX_", "NO_COLOR", "FORCE_COLOR")


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of Peerload's, plus `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**inherited, **(settings or {})}


def peerload(
    *words: object, settings: Mapping[str, str] | None = None, limit: float = LIMIT_S
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "peerload", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit,
        env=environment(settings),
        check=False,
    )


class Running:
    """A command that runs until it is stopped. With `--json` its events can be waited for; a context manager."""

    def __init__(self, *words: object, settings: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peerload", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(settings),
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_err, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def line(self, containing: str) -> str:
        """The next line of output that contains this text."""
        while True:
            line = self._queue.get(timeout=LIMIT_S)
            assert line is not None, f"ended before saying {containing!r}: {self.lines} {self.errors}"
            if containing in line:
                return line

    def event(self, kind: str, **members: object) -> dict[str, Any]:
        """The next JSON line whose `event` is `kind` and that has these members."""
        while True:
            found: dict[str, Any] = json.loads(self.line("{"))
            if found.get("event") == kind and all(found.get(name) == value for name, value in members.items()):
                return found

    def signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self) -> int:
        """The exit status, once it has ended by itself."""
        status = self._process.wait(timeout=LIMIT_S)
        for thread in self._threads:
            thread.join(LIMIT_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return status

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def _read_err(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.errors.append(line)
