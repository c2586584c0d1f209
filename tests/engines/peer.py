"""Another process, with a library in it, that runs what it is given: for tests of libraries themselves.

As a program: lines of JSON, {"code": ...}, on standard input; each is executed in one namespace and answered by one line, {"ok": the
value of `result`} or {"error": ...}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any


class Memory:
    """Bytes with an address."""

    def __init__(self, nbytes: int, fill: int = 0) -> None:
        self.mapping = mmap.mmap(-1, nbytes)
        self.nbytes = nbytes
        if fill:
            self.mapping[:] = bytes([fill]) * nbytes
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))

    def count(self, byte: int) -> int:
        return self.mapping[:].count(byte)


class Peer:
    """The handle on it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **environment},
        )

    def run(self, code: str, patience: float = 60.0) -> Any:
        """Execute it there; what `result` is afterwards. Raises `EOFError` where the process is gone."""
        self.start(code)
        return self.answer(patience)

    def start(self, code: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"code": code}).encode() + b"\n")

    def answer(self, patience: float = 60.0) -> Any:
        out = self.process.stdout
        assert out is not None
        line = b""
        limit = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, limit - time.monotonic())):
                    raise TimeoutError(f"no answer within {patience} s")
                more = os.read(out.fileno(), 1 << 16)
                if not more:
                    raise EOFError(f"the process ended with {self.process.wait()}")
                line += more
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def peers(environment: Mapping[str, str], count: int = 2) -> Iterator[list[Peer]]:
    """So many of them, ended at the latest at the end."""
    started = [Peer(environment) for _ in range(count)]
    try:
        yield started
    finally:
        for each in started:
            each.close()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    namespace: dict[str, Any] = {"Memory": Memory}
    for line in sys.stdin:
        namespace["result"] = None
        try:
            exec(json.loads(line)["code"], namespace)
            answer = {"ok": namespace["result"]}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
