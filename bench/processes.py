"""The processes that are measured, and those that measure: servers, bare handlers, a Redis, and our own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import IO, Any, Final

import grpc
import psutil
import structlog

from peerload.wire import grpc_health_pb2

__all__ = [
    "ESTABLISHED",
    "Process",
    "Spawned",
    "bare",
    "established",
    "free_port",
    "quiet",
    "redis",
    "served",
    "spawned",
]

_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_DAY: Final = 24 * 3600
ESTABLISHED: Final = "modelexpress-server"
"""The program of the established server of this protocol."""


class Process:
    """A process that serves at `address`."""

    def __init__(self, process: subprocess.Popen[Any], address: str) -> None:
        self._process = process
        self.address = address
        self.started = 0.0
        """Seconds from its start until it served."""

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def _all(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds of processor time so far, its children's too."""
        return sum(sum(each.cpu_times()[:2]) for each in self._all())

    def memory(self) -> int:
        """Bytes that it holds and shares with nobody, its children's too."""
        return sum(int(each.memory_full_info().uss) for each in self._all())


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process of our own, and the pipe to it: what it sends is received here."""

    pid: int
    pipe: Pipe


def quiet() -> None:
    """Have stores and servers of this process log only errors: what else they say is for their operator."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def _act(act: Callable[..., None], pipe: Pipe, arguments: tuple[object, ...]) -> None:
    quiet()
    # Where the pipe has ended, nobody wants to know any more.
    with contextlib.suppress(EOFError, BrokenPipeError):
        act(pipe, *arguments)


@contextlib.contextmanager
def spawned(act: Callable[..., None], *arguments: object) -> Iterator[Spawned]:
    """A process that runs `act(pipe, *arguments)`, where `act` is a module's function. The other end of its pipe raises `EOFError`
    once it has ended. It is gone afterwards, whatever it was doing."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_act, args=(act, there, arguments))
    process.start()
    there.close()
    assert process.pid is not None
    try:
        yield Spawned(process.pid, here)
    except BaseException:
        process.kill()
        raise
    finally:
        here.close()
        process.join(_STOP_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(
    words: list[str], log: IO[bytes], settings: Mapping[str, str] | None = None, **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    ours = ("PEERLOAD_", "MX_", "MODEL_EXPRESS_")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(ours)} | dict(settings or {})
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=log, env=environment, **{"stdout": log, **more})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def served(store: str, front: str, *flags: str, settle: bool = True) -> Iterator[Process]:
    """`peerload serve` over a store. Sources stay READY however long a run takes."""
    address = f"127.0.0.1:{free_port()}"
    still = (
        "--heartbeat-timeout",
        str(_DAY),
        "--no-probe",
        "--metrics",
        "off",
        "--log-level",
        "warning",
        "--grace",
        "1",
    )
    words = [sys.executable, "-m", "peerload", "serve", "--listen", address, "--store", store, "--front", front]
    with _serving([*words, *still, *flags], address) as made:
        yield made


@contextlib.contextmanager
def established(redis_url: str) -> Iterator[Process]:
    """The established server of this protocol over a Redis. Its sources stay READY as ours do."""
    port = free_port()
    settings = {
        "MX_METADATA_BACKEND": "redis",
        "REDIS_URL": redis_url,
        "MX_HEARTBEAT_TIMEOUT_SECS": str(_DAY),
        "MODEL_EXPRESS_SERVER_METRICS_PORT": "0",
        "MODEL_EXPRESS_LOG_LEVEL": "warn",
    }
    with tempfile.TemporaryDirectory(prefix="peerload-established-") as folder:
        words = [ESTABLISHED, "--host", "127.0.0.1", "--port", str(port), "--cache-directory", folder]
        with _serving(words, f"127.0.0.1:{port}", settings) as made:
            yield made


@contextlib.contextmanager
def _serving(words: list[str], address: str, settings: Mapping[str, str] | None = None) -> Iterator[Process]:
    with tempfile.TemporaryFile() as log, _running(words, log, settings) as process:
        begun = time.perf_counter()
        made = Process(process, address)
        try:
            _wait_for(made, process)
        except RuntimeError:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-2000:]) from None
        made.started = time.perf_counter() - begun
        yield made


def _wait_for(made: Process, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    with grpc.insecure_channel(made.address, options=[("grpc.max_reconnect_backoff_ms", 50)]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        while time.monotonic() < end and process.poll() is None:
            try:
                answer = check(b"", timeout=5)
            except grpc.RpcError:
                time.sleep(0.01)
                continue
            if grpc_health_pb2.HealthCheckResponse.FromString(answer).status == 1:
                return
            time.sleep(0.01)
    raise RuntimeError("the server did not start")


@contextlib.contextmanager
def bare(front: str, answers: Mapping[str, bytes], store: str = "") -> Iterator[Process]:
    """A bare handler of those answers, by path; one that keeps publications, if it is given the URL of a store."""
    with tempfile.TemporaryDirectory(prefix="peerload-bare-") as folder, tempfile.TemporaryFile() as log:
        file = Path(folder) / "answers"
        file.write_bytes(pickle.dumps(dict(answers)))
        words = [sys.executable, "-m", "bench.bare", front, str(file), *filter(None, [store])]
        with _running(words, log, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            yield Process(process, process.stdout.readline().decode().strip())
            process.stdout.close()


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A redis-server without persistence; its URL without a namespace."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="peerload-redis-") as folder, tempfile.TemporaryFile() as log:
        words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with _running(words, log):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}"
