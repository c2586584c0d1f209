"""A real server process, and a plain gRPC client for it that knows only bytes and messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import psutil
from google.protobuf.message import Message

from peerload.wire import grpc_health_pb2, p2p_pb2, sources_pb2
from tests.support.ports import free_port

MAX_MESSAGE = 100 * 1024 * 1024
_DIE_WITH_PARENT = """
import ctypes, runpy
ctypes.CDLL(None).prctl(1, 9)
runpy.run_module("peerload", run_name="__main__", alter_sys=True)
"""
"""`python -m peerload`, but a test run that is itself killed leaves no server behind (PR_SET_PDEATHSIG, SIGKILL)."""
_FRONT = "PEERLOAD_FRONT"
"""The one setting that a test run as a whole is given: every test of the server can be run over either front."""
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_MessageT = TypeVar("_MessageT", bound=Message)


def eventually(condition: Callable[[], Any], *, within: float = 20.0, what: str = "it") -> Any:
    """The first true answer of `condition`, asked again and again for a bounded time: for facts nobody announces."""
    deadline = time.monotonic() + within
    pause = 0.005
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within:.0f} s in vain for {what}")
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)
    return answer


class Rpc:
    """A synchronous channel to a server; requests and answers are messages of our private pool, or raw bytes."""

    def __init__(
        self,
        address: str,
        *,
        options: tuple[tuple[str, Any], ...] = (),
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        connect = (
            grpc.insecure_channel if credentials is None else partial(grpc.secure_channel, credentials=credentials)
        )
        self.channel = connect(
            address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.initial_reconnect_backoff_ms", 50),
                # Also how long one attempt to connect may take: a busy server greets late.
                ("grpc.min_reconnect_backoff_ms", 10_000),
                ("grpc.use_local_subchannel_pool", 1),
                *options,
            ],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()

    def raw(self, path: str, request: bytes, *, timeout: float = 30.0, metadata: Any = None) -> bytes:
        answer: bytes = self.channel.unary_unary(path)(request, timeout=timeout, metadata=metadata)
        return answer

    def call(
        self,
        path: str,
        request: Message | bytes,
        answer: type[_MessageT],
        *,
        timeout: float = 30.0,
        metadata: Any = None,
    ) -> _MessageT:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return answer.FromString(self.raw(path, data, timeout=timeout, metadata=metadata))

    def publish(self, request: p2p_pb2.PublishMetadataRequest | bytes, **more: Any) -> p2p_pb2.PublishMetadataResponse:
        return self.call(
            "/model_express.p2p.P2pService/PublishMetadata", request, p2p_pb2.PublishMetadataResponse, **more
        )

    def list(self, request: p2p_pb2.ListSourcesRequest | bytes, **more: Any) -> p2p_pb2.ListSourcesResponse:
        return self.call("/model_express.p2p.P2pService/ListSources", request, p2p_pb2.ListSourcesResponse, **more)

    def get(self, source_id: str, worker_id: str, **more: Any) -> p2p_pb2.GetMetadataResponse:
        request = p2p_pb2.GetMetadataRequest(mx_source_id=source_id, worker_id=worker_id)
        return self.call("/model_express.p2p.P2pService/GetMetadata", request, p2p_pb2.GetMetadataResponse, **more)

    def update(self, request: p2p_pb2.UpdateStatusRequest | bytes, **more: Any) -> p2p_pb2.UpdateStatusResponse:
        return self.call("/model_express.p2p.P2pService/UpdateStatus", request, p2p_pb2.UpdateStatusResponse, **more)

    def withdraw(self, source_id: str, worker_id: str, rank: int | None = None, **more: Any) -> bool:
        request = sources_pb2.WithdrawRequest(source_id=source_id, worker_id=worker_id)
        if rank is not None:
            request.worker_rank = rank
        return self.call("/peerload.v1.SourceService/Withdraw", request, sources_pb2.WithdrawResponse, **more).withdrawn

    def healthy(self, *, timeout: float = 2.0) -> bool:
        try:
            answer = self.call(
                "/grpc.health.v1.Health/Check",
                grpc_health_pb2.HealthCheckRequest(),
                grpc_health_pb2.HealthCheckResponse,
                timeout=timeout,
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == grpc_health_pb2.HealthCheckResponse.SERVING)


def publication(
    model: str = "org/model",
    worker_id: str = "w0",
    *,
    rank: int = 0,
    status: p2p_pb2.SourceStatus = p2p_pb2.SOURCE_STATUS_READY,
    tensors: int = 1,
    **identity: Any,
) -> p2p_pb2.PublishMetadataRequest:
    """A publication as an engine sends it: NIXL blob, some tensors, one rank."""
    return p2p_pb2.PublishMetadataRequest(
        identity=p2p_pb2.SourceIdentity(mx_version="0.7.0", model_name=model, dtype="bfloat16", **identity),
        worker=p2p_pb2.WorkerMetadata(
            worker_rank=rank,
            nixl_metadata=b"agent",
            status=status,
            accelerator="cuda",
            tensor_source=p2p_pb2.TensorSourceMetadata(
                tensors=[
                    p2p_pb2.TensorDescriptor(name=f"layer.{i}", addr=4096 * i, size=4096, dtype="torch.bfloat16")
                    for i in range(tensors)
                ]
            ),
        ),
        worker_id=worker_id,
    )


def ready(identity: p2p_pb2.SourceIdentity | None = None) -> p2p_pb2.ListSourcesRequest:
    """The question that every starting worker asks: who is READY?"""
    return p2p_pb2.ListSourcesRequest(identity=identity, status_filter=p2p_pb2.SOURCE_STATUS_READY)


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code that a failed call ended with."""
    code = error.code()
    assert isinstance(code, grpc.StatusCode)
    return code


class LiveServer:
    """`peerload serve` in a process of its own, on a port that stays the same over restarts. `credentials` are needed where the
    environment asks for TLS."""

    def __init__(
        self,
        store: str,
        *,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.store = store
        self._credentials = credentials
        self._pinned = port is not None
        self.port = port or free_port()
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> Self:
        """Start the process and, unless told otherwise, wait until it says that it serves."""
        while True:
            self._spawn()
            if not wait or self._serves():
                self._pinned = True
                return self
            # Between our probe of the port and the server's bind another process may have taken it.
            if self._pinned or "in use" not in self.log():
                raise AssertionError(f"the server did not start:\n{self.log()}")
            self.port = free_port()

    def _spawn(self) -> None:
        assert not self.running, "it runs already"
        inherited = {
            name: text
            for name, text in os.environ.items()
            if name == _FRONT or not name.startswith(("PEERLOAD_", "MX_", "REDIS_"))
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DIE_WITH_PARENT, "serve", "--listen", self.address, "--store", self.store],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # One port for all would be taken by the first server on this machine.
            env=inherited | {"PEERLOAD_METRICS": "off"} | self._environment,
            start_new_session=True,
        )

    def _serves(self) -> bool:
        # While nobody listens yet, the channel tries again this often, instead of ever more seldom.
        often = (("grpc.max_reconnect_backoff_ms", 100),)
        with Rpc(self.address, credentials=self._credentials, options=often) as rpc:
            eventually(lambda: not self.running or rpc.healthy(), within=_START_SECONDS, what="the server to start")
        return self.running

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        if self._process is not None:
            if self._process.poll() is None:
                self.signal(signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit code, once the process has ended."""
        assert self._process is not None
        return self._process.wait(_STOP_SECONDS)

    def restart(self) -> None:
        """Kill it and start it again at once, on the same port and store."""
        self.kill()
        self.start()

    def rss(self) -> int:
        """Bytes of memory that the process holds now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def log(self) -> str:
        """What the process wrote."""
        # Where the processes write is theirs to move: they share the file's place with this one.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def close(self) -> None:
        self.kill()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sqlite_url(folder: Path) -> str:
    """A fresh sqlite store in a test's own folder."""
    return f"sqlite:{folder / 'peerload.sqlite'}"
