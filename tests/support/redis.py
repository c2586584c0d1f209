"""A real Redis of the tests' own: started on a free loopback port in a folder of its own, ended by its process id.

A Redis that runs on the machine already is never touched. Tests share one process and have a namespace each; those
that stop, kill or fill it start one for themselves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import hiredis
import pytest

from peerload.clock import Clock
from peerload.store.redis.link import Link
from peerload.store.redis.store import RedisStore
from peerload.store.servertime import Measured
from tests.support.ports import free_port
from tests.support.stopping import stop

__all__ = ["HandTimedRedisStore", "RedisProcess", "free_port", "needs_redis", "redis_process"]

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


def needs_redis() -> str:
    """The path of redis-server: that which REDIS_SERVER names, or the one on the PATH.

    Skips the test where there is none; in CI that is a failure.
    """
    named = os.environ.get("REDIS_SERVER", "")
    if named and shutil.which(named) is None:
        pytest.fail(f"REDIS_SERVER={named} is not a program")
    path = shutil.which(named or "redis-server")
    if path is None:
        message = "there is no redis-server on the PATH (Debian: apt-get install redis-server)"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(message)
        pytest.skip(message)
    return path


class RedisProcess:
    """One redis-server (or, with `sentinel`, one sentinel), which can be killed, stopped and started again."""

    def __init__(
        self, folder: Path, *options: str, sentinel: str | None = None, ports: Callable[[], int] = free_port
    ) -> None:
        self.path = needs_redis()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._ports = ports
        self.port = ports()
        self.socket = f"/tmp/peerload-redis-{os.getpid()}-{self.port}.sock"
        self.options = [*options]
        self._sentinel = sentinel
        self._pinned = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return "redis" if self._sentinel is None else "sentinel"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def fresh_url(self) -> str:
        """A URL with a namespace that nobody has used."""
        return f"{self.url}?namespace=test-{secrets.token_hex(6)}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> Self:
        """Start it; returns once it answers."""
        assert self._process is None
        while True:
            self._spawn()
            if not wait or self._waited():
                self._pinned = True
                return self
            # Between our probe of the port and its bind another process may have taken it.
            text = (self.folder / "log").read_text()
            self.kill()
            assert not self._pinned, text
            assert "already in use" in text, text
            self.port = self._ports()

    def _spawn(self) -> None:
        if self._sentinel is not None:
            config = self.folder / "sentinel.conf"
            if not config.exists():
                config.write_text(self._sentinel)
            command = [self.path, str(config), "--sentinel"]
        else:
            command = [self.path, "--appendonly", "no"]
            # Not both: before 7.0 the first of two counts.
            command += [] if "--save" in self.options else ["--save", ""]
        # A socket too, in a folder whose name is short enough for one.
        command += ["--unixsocket", self.socket] if self._sentinel is None else []
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *self.options]
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "KILL", *command]  # where the tests are killed, nothing is left behind
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _waited(self) -> bool:
        """Whether it answers; False if it has ended."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError, hiredis.ReplyError):
                # That it is ours that answers, and that it has loaded its file.
                if self.ask("PING") and b"process_id:%d\r" % self.pid in self.ask("INFO", "server"):
                    return True
            assert self._process is not None
            if self._process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.01)

    def ask(self, *command: str | bytes | int, timeout: float = 5.0) -> Any:
        """One command on a connection of its own. Raises OSError, or hiredis.ReplyError for an error."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
            reader = hiredis.Reader()
            while (answer := reader.gets()) is False:
                data = connection.recv(1 << 16)
                if not data:
                    raise ConnectionResetError("Redis hung up")
                reader.feed(data)
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer

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
            process.wait(_STOP_SECONDS)
        Path(self.socket).unlink(missing_ok=True)

    def restart(self, *, wait: bool = True) -> None:
        """Kill it, and start it again on the same port and folder."""
        self.kill()
        self.start(wait=wait)

    def forget(self, namespace: str) -> None:
        """Remove what a test left behind."""
        cursor = b"0"
        while True:
            cursor, keys = self.ask("SCAN", cursor, "MATCH", f"{{{namespace}}}*", "COUNT", 1000)
            if keys:
                self.ask("UNLINK", *keys)
            if cursor == b"0":
                return


class HandTimedRedisStore(RedisStore):
    """A store over a Redis whose clock a test moves, which Redis itself does not let anybody do."""

    def __init__(self, url: str, clock: Clock, time_ms: Callable[[], float] | None = None) -> None:
        super().__init__(url, clock)
        self._time_ms = time_ms or clock.wall_ms

    async def _measure(self, link: Link) -> Measured:
        await super()._measure(link)
        return Measured(self._time_ms())


@contextlib.contextmanager
def redis_process(folder: Path, *options: str) -> Iterator[RedisProcess]:
    """One that runs while the block does."""
    process = RedisProcess(folder, *options)
    try:
        yield process.start()
    finally:
        process.kill()
