"""The Kubernetes store beside the API server that it stands on: what one server does, and what the bare requests allow.

The bound of a call is what the API server does a second of the very requests that the call cannot do without (objects of the same size,
as many callers), measured right after. Everything shares the machine, the callers too. `make kube` builds etcd and kube-apiserver.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import psutil

from bench.figures import Figure
from bench.messages import Fleet
from bench.setting import Setting
from peerload.clock import SystemClock
from peerload.kubernetes.api import JSON_PATCH, KubeApi
from peerload.kubernetes.place import KubernetesPlace
from peerload.wire import p2p_pb2

_kube: Any = importlib.import_module("tests.support.kube")
_live: Any = importlib.import_module("tests.support.live")
_build: Any = importlib.import_module("tools.build_kubernetes")

_P2P: Final = "/model_express.p2p.P2pService/"
_CALLERS: Final = 16
_RANKS: Final = 64
_PATIENCE_SECONDS: Final = 30.0
_ATTEMPTS: Final = 50
_PAUSE_SECONDS: Final = 0.1
_Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True)
class Rate:
    """Calls a second, and what each cost: writes by the API server's own count, and CPU time in milliseconds, of our server
    and of etcd and the API server together."""

    calls: float
    writes: float
    server_ms: float
    cluster_ms: float


class Meter:
    """Measures calls, some at a time."""

    def __init__(self, plane: Any, server: Any) -> None:
        self._plane = plane
        self._server = server

    def _spent(self) -> tuple[float, float]:
        def of(*pids: int) -> float:
            return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids) * 1_000.0

        return of(self._server.pid), of(self._plane.server.pid, *(member.pid for member in self._plane.etcd))

    async def rate(self, call: _Call, numbers: Iterable[int], seconds: float = 3_600.0) -> Rate:
        """One call for each number, or as many as begin within the seconds."""
        remaining = iter(numbers)
        written = self._plane.admin.writes()
        before = self._spent()
        begun = time.perf_counter()
        done = 0

        async def caller() -> None:
            nonlocal done
            for number in remaining:
                await call(number)
                done += 1
                if time.perf_counter() - begun > seconds:
                    return

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        took = time.perf_counter() - begun
        server, cluster = (after - held for after, held in zip(self._spent(), before, strict=True))
        return Rate(done / took, (self._plane.admin.writes() - written) / done, server / done, cluster / done)


class Calls:
    """The calls of a fleet's workers to a server."""

    def __init__(self, address: str, fleet: Fleet, workers: int) -> None:
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        )
        self._fleet = fleet
        self._workers = workers
        self.source_id = ""
        self.unavailable = 0
        """How many calls had to be repeated."""

    async def close(self) -> None:
        await self._channel.close()

    async def _ask(self, name: str, request: bytes) -> bytes:
        call = self._channel.unary_unary(_P2P + name)
        for _ in range(_ATTEMPTS):
            try:
                answer: bytes = await call(request, timeout=_PATIENCE_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                self.unavailable += 1  # a machine that is busy enough; what it takes to ask again is part of the figure
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return answer
        raise RuntimeError(f"{name} stays unavailable")

    async def publish(self, number: int) -> None:
        data = await self._ask("PublishMetadata", self._fleet.request(number))
        answer = p2p_pb2.PublishMetadataResponse.FromString(data)
        if not answer.success:
            raise RuntimeError(answer.message)
        self.source_id = answer.mx_source_id

    async def _update(self, number: int, status: p2p_pb2.SourceStatus) -> None:
        worker = number % self._workers
        request = p2p_pb2.UpdateStatusRequest(
            mx_source_id=self.source_id,
            worker_id=self._fleet.worker_id(worker),
            worker_rank=worker % _RANKS,
            status=status,
        )
        data = await self._ask("UpdateStatus", request.SerializeToString())
        if not p2p_pb2.UpdateStatusResponse.FromString(data).success:
            raise RuntimeError("an update was refused")

    async def refresh(self, number: int) -> None:
        await self._update(number, p2p_pb2.SOURCE_STATUS_READY)

    async def change(self, number: int) -> None:
        turn = number // self._workers % 2
        await self._update(number, p2p_pb2.SOURCE_STATUS_READY if turn else p2p_pb2.SOURCE_STATUS_INITIALIZING)

    async def list(self, number: int) -> None:
        request = p2p_pb2.ListSourcesRequest(status_filter=p2p_pb2.SOURCE_STATUS_READY)
        data = await self._ask("ListSources", request.SerializeToString())
        if len(p2p_pb2.ListSourcesResponse.FromString(data).instances) != self._workers:
            raise RuntimeError("a list is not whole")

    async def get(self, number: int) -> None:
        request = p2p_pb2.GetMetadataRequest(
            mx_source_id=self.source_id, worker_id=self._fleet.worker_id(number % self._workers)
        )
        data = await self._ask("GetMetadata", request.SerializeToString())
        if len(data) < 20 * self._fleet.tensors:
            raise RuntimeError("a worker came back without its tensors")


class Bare:
    """The same objects, written and read with nothing around it."""

    def __init__(self, api: KubeApi, namespace: Any, instance: str) -> None:
        self._api = api
        self._records = namespace.records
        self._chunks = f"{namespace.core}/configmaps"
        self._instance = f"bare-{instance}"
        self._shown = {"labelSelector": f"peerload.dev/instance={self._instance}"}
        self._written = 0
        self._idle: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        """Records that nobody is changing, and their versions."""
        self._templates: tuple[dict[str, Any], list[dict[str, Any]]]

    async def learn(self, instance: str) -> str:
        """Take one worker's objects for a model; what they are, in words."""
        sources = {"labelSelector": f"peerload.dev/instance={instance},peerload.dev/type=source", "limit": "1"}
        (record,) = (await self._ask("GET", self._records, query=sources))["items"]
        token, count = record["blob"].get("token", ""), record["blob"].get("chunks", 0)
        chunks = [await self._ask("GET", f"{self._chunks}/peerload-{token}-{number}") for number in range(count)]
        self._templates = record, chunks
        size = sum(len(chunk["binaryData"]["part"]) for chunk in chunks)
        return f"{count} ConfigMaps, {size:,} bytes of base64" if count else "all in its record"

    async def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        return await self._api.call(method, path, seconds=_PATIENCE_SECONDS, **more)

    def _copy(self, template: dict[str, Any], name: str) -> dict[str, Any]:
        labels = template["metadata"]["labels"] | {"peerload.dev/instance": self._instance}
        return template | {"metadata": {"name": name, "labels": labels}}

    def _name(self, number: int) -> str:
        return f"{self._instance}-{number}"

    async def publish(self, number: int) -> None:
        record, chunks = self._templates
        for part, chunk in enumerate(chunks):
            await self._ask("POST", self._chunks, body=self._copy(chunk, f"{self._name(number)}-{part}"))
        written = await self._ask("POST", self._records, body=self._copy(record, self._name(number)))
        self._idle.put_nowait((number, written["metadata"]["resourceVersion"]))
        self._written += 1

    async def change(self, number: int) -> None:
        """One field, conditionally."""
        worker, version = await self._idle.get()
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/write", "value": str(number)},
        ]
        path = f"{self._records}/{self._name(worker)}"
        written = await self._ask("PATCH", path, body=patch, content_type=JSON_PATCH)
        self._idle.put_nowait((worker, written["metadata"]["resourceVersion"]))

    async def list(self, number: int) -> None:
        await self._ask("GET", self._records, query=self._shown | {"limit": "500"})

    async def get(self, number: int) -> None:
        name = self._name(number % self._written)
        await self._ask("GET", f"{self._records}/{name}")
        for part in range(len(self._templates[1])):
            await self._ask("GET", f"{self._chunks}/{name}-{part}")


def _figure(case: str, front: str, ours: Rate, bare: Rate) -> Figure:
    return Figure(
        row="kubernetes",
        case=case,
        store="kubernetes",
        front=front,
        unit="/s",
        value=ours.calls,
        bound=bare.calls,
        bounded_by="bare requests",
        more={
            "writes a call": ours.writes,
            "bare": bare.writes,
            "CPU ms a call": ours.server_ms,
            "of the cluster": ours.cluster_ms,
            "bare of the cluster": bare.cluster_ms,
        },
    )


async def _measured(plane: Any, tensors: int, workers: int, setting: Setting) -> list[Figure]:
    """A fleet of so many workers, on a server of its own."""
    front, seconds = setting.fronts[-1], setting.seconds * setting.rounds
    namespace = plane.fresh_namespace()
    kubeconfig = namespace.kubeconfig()
    instance = f"tensors-{tensors}"
    fleet = Fleet(tensors)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(
            _live.LiveServer(namespace.store_url(kubeconfig, instance=instance), environment={"PEERLOAD_FRONT": front})
        ).start()
        api = KubeApi(KubernetesPlace(kubeconfig=str(kubeconfig)), SystemClock())
        await api.open()
        stack.push_async_callback(api.close)
        calls, bare = Calls(server.address, fleet, workers), Bare(api, namespace, instance)
        stack.push_async_callback(calls.close)
        meter = Meter(plane, server)

        def timed(call: _Call) -> Awaitable[Rate]:
            return meter.rate(call, itertools.count(), seconds)

        published = await meter.rate(calls.publish, range(workers))
        size = await bare.learn(instance)
        shape = f"{workers} workers, {tensors:,} tensors ({size})"
        figures: list[Figure] = []

        def say(name: str, ours: Rate, bare: Rate) -> None:
            figures.append(_figure(f"{name}: {shape}", front, ours, bare))

        say("publish", published, await meter.rate(bare.publish, range(workers)))
        patched = await timed(bare.change)
        say("UpdateStatus, the status it has", await timed(calls.refresh), patched)
        say("UpdateStatus, another status", await timed(calls.change), patched)
        await meter.rate(calls.refresh, range(workers))
        say("ListSources READY", await timed(calls.list), await timed(bare.list))
        got = await timed(bare.get)
        await meter.rate(calls.get, range(workers))
        say("GetMetadata, again", await timed(calls.get), got)
        server.restart()
        await calls.get(0)
        say("GetMetadata, for the first time", await meter.rate(calls.get, range(1, workers)), got)
        if calls.unavailable:
            print(f"    {calls.unavailable} calls were answered UNAVAILABLE, and made again")
        return figures


def measure(setting: Setting) -> Iterator[Figure]:
    """Small records, and manifests of two sizes."""
    if not (_build.found("etcd") and _build.found("kube-apiserver")):
        raise RuntimeError("there is no kube-apiserver and no etcd: make kube builds them")
    with _kube.ControlPlane(setting.folder / "kube").running() as plane:
        for tensors, workers in ((1, 64), (1_500, 64), (20_000, 16)):
            yield from asyncio.run(_measured(plane, tensors, workers, setting))
