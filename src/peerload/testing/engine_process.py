"""A handle on `peerload.testing.engine_worker`."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["EngineProcess", "until"]

_PATIENCE = 60.0


class EngineProcess:
    """A worker process, ended at the latest when its `with` block is left.

    Standard error is this process's own, so that what a worker has to say is seen with the test that fails.
    """

    def __init__(self, engine: str, settings: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "peerload.testing.engine_worker", engine, json.dumps(settings)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._rest = b""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, do: str, **order: Any) -> Any:
        """Give an order and wait for what it came to. Raises `AssertionError` where the worker reports an error."""
        self.tell(do, **order)
        return self.answer()

    def tell(self, do: str, **order: Any) -> None:
        """Give an order; `answer` waits for what it comes to."""
        if self._process.stdin is None:
            raise AssertionError("the worker takes no more orders")
        self._process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")

    def answer(self) -> Any:
        """What the oldest order without an answer came to."""
        out = self._process.stdout
        if out is None:
            raise AssertionError("the worker gives no more answers")
        limit = time.monotonic() + _PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, limit - time.monotonic())):
                    raise AssertionError(f"the worker did not answer within {_PATIENCE:g} s")
                more = os.read(out.fileno(), 1 << 16)
                if not more:
                    raise AssertionError(f"the worker ended with {self._process.wait(_PATIENCE)}")
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"{answer['error']}: {answer['message']}")
        return answer["ok"]

    def stop(self) -> None:
        """SIGSTOP: it stands still, its sockets and memory stay. Returns when it does."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait(_PATIENCE)

    def leave(self) -> int:
        """Let it return from main with nothing closed; its exit status."""
        self.tell("leave")
        return self._process.wait(_PATIENCE)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def until(holds: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
    """Look again and again until it holds; `AssertionError` once `seconds` have passed."""
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
