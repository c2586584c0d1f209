"""What a server tells Prometheus: of calls, of the store, of the fleet; and that the documents list it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from peerload.client.measures import Measures
from peerload.clock import SystemClock
from peerload.errors import Conflict, Unavailable
from peerload.metadata.transfers import Outcome
from peerload.server.app import Server
from peerload.server.measures.calls import CallMeasures
from peerload.server.measures.fleet import OTHER_MODELS
from peerload.server.measures.store import MeasuredStore
from peerload.server.rpc import BidiMethod, Code, Context, RpcError, StreamMethod, UnaryMethod
from peerload.server.settings import Settings
from peerload.store.base import ABSENT, Feed, Position
from peerload.store.memory import MemoryStore
from peerload.tally import Histogram
from peerload.testing import ManualClock
from peerload.wire import p2p_pb2
from tests.support.certificates import Authority
from tests.support.rpc import AsyncRpc, identity, publication
from tests.support.server import serving

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


def samples(server: Server) -> dict[str, float]:
    """Every sample by its name and labels, as in `name{value,value}`."""
    return {
        sample.name + ("{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""): sample.value
        for family in server.metrics.registry.collect()
        for sample in family.samples
    }


def row(family: Metric) -> str:
    """What the document says of a family."""
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = list(dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le"))
    shown = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {family.type} | {shown} | {family.documentation} |"


async def test_the_document_lists_every_metric(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue()
    async with serving(tls_cert=str(issued.certificate), tls_key=str(issued.key)) as server:
        await server.backend.publish_metadata(
            identity(), p2p_pb2.WorkerMetadata(status=p2p_pb2.SOURCE_STATUS_READY), "w"
        )
        families = list(server.metrics.registry.collect())
    client = Measures()
    client.read("tcp", Outcome.OK, 1, 1.0)
    rows = [row(family) for family in (*families, *client.collect()) if family.name.startswith("peerload_")]
    documented = [line for line in DOCUMENT.splitlines() if line.startswith("| `peerload_")]
    assert sorted(documented) == sorted(rows)
    assert len({each.split("`")[1] for each in documented}) == len(documented)


def test_names_keep_to_the_conventions() -> None:
    """https://prometheus.io/docs/practices/naming: base units, the unit last, `_total` for what only goes up."""
    for name, kind in re.findall(r"^\| `(peerload_\w+)` \| (\w+) ", DOCUMENT, re.MULTILINE):
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent|count|sum|bucket)(_|$)", name), name


async def test_calls_are_counted_by_method_and_status_and_timed() -> None:
    async with serving() as server, AsyncRpc(server.address) as rpc:
        await rpc.publish(publication())
        for _ in range(3):
            await rpc.list()
        with pytest.raises(grpc.aio.AioRpcError):
            await rpc.manifest(source_id="0" * 16, worker_id="w", worker_rank=0)
        watch = rpc.watch()
        await anext(watch)
        found = samples(server)
        assert found["peerload_rpc_handled_total{model_express.p2p.P2pService/ListSources,OK}"] == 3
        assert found["peerload_rpc_handled_total{model_express.p2p.P2pService/UpdateStatus,OK}"] == 0
        assert found["peerload_rpc_handled_total{peerload.v1.SourceService/GetManifest,NOT_FOUND}"] == 1
        assert found["peerload_rpc_duration_seconds_count{model_express.p2p.P2pService/ListSources}"] == 3
        assert found["peerload_rpc_in_flight{peerload.v1.SourceService/Watch}"] == 1
        assert found["peerload_rpc_messages_sent_total{peerload.v1.SourceService/Watch}"] == 1
        assert found["peerload_watches"] == 1
        assert found["peerload_admission_calls{watches}"] == 1
        assert found["peerload_admission_calls_limit{watches}"] == 20_000
        await watch.aclose()  # type: ignore[attr-defined]
        await until(lambda: samples(server)["peerload_rpc_in_flight{peerload.v1.SourceService/Watch}"] == 0)
        assert samples(server)["peerload_rpc_handled_total{peerload.v1.SourceService/Watch,CANCELLED}"] == 1


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("front", ["grpc", "h2corn"])
async def test_what_a_limit_turns_away_is_counted_by_the_limit(front: str) -> None:
    async with serving(front=front, limit_watches=1) as server, AsyncRpc(server.address) as rpc:
        async with contextlib.aclosing(rpc.watch()) as first:  # type: ignore[type-var]
            await anext(first)
            with pytest.raises(grpc.aio.AioRpcError, match="--limit-watches"):
                await anext(rpc.watch())
        found = samples(server)
        assert found["peerload_limit_refusals_total{limit_watches}"] == 1
        assert found["peerload_limit_refusals_total{limit_calls}"] == 0


async def test_the_fleet_is_counted_as_it_changes_and_models_are_bounded() -> None:
    clock = ManualClock()
    async with serving(clock=clock, metrics_models=2) as server, AsyncRpc(server.address) as rpc:
        for number, model in enumerate(["a", "a", "a", "b", "b", "c", "d"]):
            await rpc.publish(publication(f"w{number}", model))
        await rpc.publish(publication("w0", "a", status=p2p_pb2.SOURCE_STATUS_INITIALIZING))
        await rpc.withdraw(source_id=(await rpc.list(identity=identity("d")))[0].mx_source_id, worker_id="w6")
        found = {name: value for name, value in samples(server).items() if name.startswith("peerload_sources")}
        assert found == {
            "peerload_sources{a,initializing}": 1,
            "peerload_sources{a,ready}": 2,
            "peerload_sources{b,ready}": 2,
            f"peerload_sources{{{OTHER_MODELS},ready}}": 1,
        }
        await clock.advance(100)
        found = {name: value for name, value in samples(server).items() if name.startswith("peerload_sources")}
        assert found["peerload_sources{a,stale}"] + found["peerload_sources{b,stale}"] == 5
        assert not any(name.endswith(",ready}") for name in found)
        shown = samples(server)
        assert shown["peerload_directory_lag_seconds_count"] >= 9
        assert shown["peerload_feed_up"] == 1
        assert shown["peerload_feed_batch_size_sum"] >= 9


def test_a_histogram_counts_between_its_bounds() -> None:
    made = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        made.observe(value)
    assert made.buckets() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert (made.count, made.sum) == (4, 12.0)


@pytest.mark.parametrize(
    ("asked", "given", "named"), [(False, None, 100), (True, None, 0), (True, 7, 7), (False, 0, 0)]
)
def test_models_are_named_only_where_everybody_may_see_them(asked: bool, given: int | None, named: int) -> None:
    settings = Settings(store="memory:", access="/an/access/file" if asked else "", metrics_models=given)
    assert settings.models_in_metrics == named


class BrokenStore(MemoryStore):
    """One whose reads fail, and whose feed ends at once."""

    async def get(self, key: str) -> Any:
        raise Unavailable("away")

    async def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        yield Feed((), position)
        raise Unavailable("away")


async def test_a_store_is_measured_by_what_it_answers() -> None:
    clock = ManualClock()
    store = MeasuredStore(BrokenStore(clock), clock)
    await store.open()
    await store.put("k", {}, expect=ABSENT)
    with pytest.raises(Conflict):
        await store.put("k", {}, expect=ABSENT)
    with pytest.raises(Unavailable):
        await store.get("k")
    with pytest.raises(Unavailable):
        async for _ in store.watch((await store.list()).position):
            pass
    watch = store.watch((await store.list()).position)
    await anext(watch)
    await watch.aclose()
    outcomes = {
        name: {outcome: count for outcome, count in measures.outcomes.items() if count}
        for name, measures in store.operations.items()
    }
    assert outcomes["put"] == {"ok": 1, "conflict": 1}
    assert outcomes["get"] == {"unavailable": 1}
    assert outcomes["list"] == {"ok": 2}
    assert outcomes["watch"] == {"unavailable": 1, "cancelled": 1}
    assert store.operations["put"].seconds.count == 2
    assert (store.url, store.pace) == ("memory:", 0.0)
    await store.close()


async def test_every_way_in_which_a_call_ends() -> None:
    def failing(error: BaseException | None) -> Any:
        async def unary(request: bytes, context: Context) -> bytes:
            if error is not None:
                raise error
            return b""

        return unary

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"1"
        raise RpcError(Code.UNAVAILABLE, "gone")

    async def bidi(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"

    measures = CallMeasures(SystemClock())
    ends: dict[str, BaseException | None] = {
        "ok": None,
        "refused": RpcError(Code.NOT_FOUND, "no"),
        "taken back": asyncio.CancelledError(),
        "defect": ValueError("no"),
    }
    table = measures.wrap(
        {
            **{f"/{name}": UnaryMethod(failing(error)) for name, error in ends.items()},
            "/stream": StreamMethod(stream),
            "/bidi": BidiMethod(bidi),
        }
    )
    for name in ends:
        method = table[f"/{name}"]
        assert isinstance(method, UnaryMethod)
        with contextlib.suppress(RpcError, ValueError, asyncio.CancelledError):
            await method.handler(b"", None)  # type: ignore[arg-type]
    streaming = table["/stream"]
    assert isinstance(streaming, StreamMethod)
    with contextlib.suppress(RpcError):
        async for _ in streaming.handler(b"", None):  # type: ignore[arg-type]
            pass
    both = table["/bidi"]
    assert isinstance(both, BidiMethod)
    answers = both.handler(None, None)  # type: ignore[arg-type]
    await anext(answers)
    await answers.aclose()  # type: ignore[attr-defined]
    ended = {
        name: [Code(number).name for number, count in enumerate(each.codes) if count]
        for name, each in measures.methods.items()
    }
    assert ended == {
        "ok": ["OK"],
        "refused": ["NOT_FOUND"],
        "taken back": ["CANCELLED"],
        "defect": ["UNKNOWN"],
        "stream": ["UNAVAILABLE"],
        "bidi": ["CANCELLED"],
    }
    assert [each.in_flight for each in measures.methods.values()] == [0] * 6
    assert (measures.methods["stream"].sent, measures.methods["bidi"].sent) == (1, 1)


def test_clients_count_their_reads_by_engine() -> None:
    measures, registry = Measures(), CollectorRegistry()
    registry.register(measures)
    measures.read("tcp", Outcome.LOST, 10, 0.5)
    measures.retry("tcp")
    measures.read("tcp", Outcome.OK, 90, 1.5)
    measures.read("memfd", Outcome.UNSPECIFIED, 0, 0.1)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("peerload_client_read_bytes_total", engine="tcp") == 100
    assert value("peerload_client_read_seconds_total", engine="tcp") == 2.0
    assert value("peerload_client_read_retries_total", engine="tcp") == 1
    assert value("peerload_client_reads_total", engine="tcp", outcome="lost") == 1
    assert value("peerload_client_reads_total", engine="memfd", outcome="abandoned") == 1
