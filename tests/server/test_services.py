"""Every service through a real channel to a server in this process, over both embedded stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from peerload import __version__
from peerload.server.app import Server
from peerload.wire import api_pb2, p2p_pb2, sources_pb2, transfers_pb2
from peerload.wire import health_pb2 as our_health_pb2
from peerload.wire.identity import source_id
from tests.support.rpc import P2P, SOURCES, AsyncRpc, identity, publication
from tests.support.server import serving, store_url

READY = p2p_pb2.SOURCE_STATUS_READY
STALE = p2p_pb2.SOURCE_STATUS_STALE


@pytest.fixture(params=["memory", "sqlite", "redis", "kubernetes"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request, tmp_path)


@pytest.fixture
async def server(url: str) -> AsyncIterator[Server]:
    async with serving(url) as made:
        yield made


@pytest.fixture
async def rpc(server: Server) -> AsyncIterator[AsyncRpc]:
    async with AsyncRpc(server.address) as made:
        yield made


@contextlib.contextmanager
def refused(code: grpc.StatusCode, *texts: str):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        yield
    assert failure.value.code() is code, failure.value.details()
    for text in texts:
        assert text in failure.value.details()


async def until(rpc: AsyncRpc, condition: Callable[[p2p_pb2.SourceInstanceRef], bool]) -> None:
    """A mere heartbeat is answered before its batch is stored, so what it says is seen a moment later."""
    async with asyncio.timeout(30):
        while True:
            (listed,) = await rpc.list()
            if condition(listed):
                return


def manifest(*names: str) -> sources_pb2.Manifest:
    return sources_pb2.Manifest(
        form=sources_pb2.FORM_CHECKPOINT,
        items=[
            sources_pb2.Item(name=name, size=8, dtype="BF16", shape=[4], digest=bytes(16), offset=8 * index)
            for index, name in enumerate(names)
        ],
        files=[sources_pb2.File(path="model.safetensors", size=8 * len(names), digest=bytes(16))],
        endpoints=[sources_pb2.Endpoint(engine="tcp", address="127.0.0.1:9", descriptor=b"\x00\xff")],
        content="c0ffee",
    )


# P2pService


async def test_a_publication_comes_back_as_it_was_sent(rpc: AsyncRpc) -> None:
    sent = publication(accelerator="cuda", topology={"host": "h1", "rack": "r"}, agent_name="a", worker_rank=3)
    sent.worker.updated_at = 1
    answer = await rpc.publish(sent)
    assert (answer.success, answer.mx_source_id, answer.worker_id) == (True, source_id(sent.identity), "w0")
    got = await rpc.get(answer.mx_source_id, "w0")
    assert (got.found, got.mx_source_id, got.worker_id) == (True, answer.mx_source_id, "w0")
    assert got.identity == sent.identity
    assert got.worker.updated_at > 1_700_000_000_000
    got.worker.updated_at = sent.worker.updated_at
    assert got.worker == sent.worker
    (listed,) = await rpc.list(identity=sent.identity, status_filter=READY)
    assert (listed.mx_source_id, listed.worker_id, listed.model_name) == (answer.mx_source_id, "w0", "org/model")
    assert (listed.worker_rank, listed.accelerator, dict(listed.topology)) == (3, "cuda", {"host": "h1", "rack": "r"})
    assert not listed.HasField("source_load")


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (p2p_pb2.PublishMetadataRequest(), "identity"),
        (p2p_pb2.PublishMetadataRequest(identity=identity(""), worker={}, worker_id="w"), "model_name"),
        (p2p_pb2.PublishMetadataRequest(identity=identity(), worker_id="w"), "worker"),
        (p2p_pb2.PublishMetadataRequest(identity=identity(), worker={}), "worker_id"),
    ],
)
async def test_a_publication_that_lacks_something_is_not_a_success(
    rpc: AsyncRpc, missing: p2p_pb2.PublishMetadataRequest, named: str
) -> None:
    answer = await rpc.publish(missing)
    assert not answer.success
    assert named in answer.message
    assert await rpc.list() == []


async def test_rank_0_and_parallel_sizes_0_are_valid(rpc: AsyncRpc) -> None:
    request = p2p_pb2.PublishMetadataRequest(identity=identity(), worker={"status": READY}, worker_id="w")
    assert (await rpc.publish(request)).success
    (listed,) = await rpc.list(worker_rank_filter=0)
    assert listed.worker_rank == 0
    assert await rpc.list(worker_rank_filter=1) == []


async def test_an_unknown_worker_is_not_found_with_its_ids(rpc: AsyncRpc) -> None:
    for ids in (("0" * 16, "nobody"), ("", ""), ("x" * 100_000, "y" * 100_000), ("a/b\n", "\x00")):
        answer = await rpc.get(*ids)
        assert (answer.found, answer.mx_source_id, answer.worker_id) == (False, *ids)


async def test_status_updates(rpc: AsyncRpc) -> None:
    source = (await rpc.publish(publication(status=p2p_pb2.SOURCE_STATUS_INITIALIZING))).mx_source_id
    assert await rpc.list(status_filter=READY) == []
    assert (await rpc.update(mx_source_id=source, worker_id="w0", status=READY, source_load=0.25)).success
    (listed,) = await rpc.list(status_filter=READY)
    assert listed.source_load == 0.25
    assert (await rpc.update(mx_source_id=source, worker_id="w0", status=READY)).success
    await until(rpc, lambda listed: not listed.HasField("source_load"))
    assert (await rpc.update(mx_source_id=source, worker_id="w0", status=STALE)).success
    assert await rpc.list(status_filter=READY) == []
    assert (await rpc.get(source, "w0")).worker.status == STALE
    assert (await rpc.update(mx_source_id=source, worker_id="w0", status=READY)).success
    assert len(await rpc.list(status_filter=READY)) == 1


async def test_status_updates_that_are_none(rpc: AsyncRpc) -> None:
    source = (await rpc.publish(publication())).mx_source_id
    for request, named in (
        ({"worker_id": "w0", "status": READY}, "mx_source_id"),
        ({"mx_source_id": source, "status": READY}, "worker_id"),
        ({"mx_source_id": source, "worker_id": "w0", "status": 99}, "99"),
        ({"mx_source_id": source, "worker_id": "w0", "status": -1}, "-1"),
        ({"mx_source_id": source, "worker_id": "w1", "status": READY}, "'w1'"),
        ({"mx_source_id": source, "worker_id": "w0", "worker_rank": 7, "status": READY}, "rank 7"),
        ({"mx_source_id": "f" * 16, "worker_id": "w0", "status": READY}, "unknown"),
        ({"mx_source_id": "f" * 1_000_000, "worker_id": "w" * 1_000_000, "status": READY}, "1000000 characters"),
    ):
        answer = await rpc.update(**request)
        assert not answer.success
        assert named in answer.message
        assert len(answer.message) < 2_000
    assert len(await rpc.list(status_filter=READY)) == 1


async def test_a_load_is_kept_between_0_and_1(rpc: AsyncRpc) -> None:
    source = (await rpc.publish(publication())).mx_source_id
    for sent, kept in ((-3.0, 0.0), (0.0, 0.0), (0.5, 0.5), (17.0, 1.0)):
        assert (await rpc.update(mx_source_id=source, worker_id="w0", status=READY, source_load=sent)).success
        await until(rpc, lambda listed: listed.HasField("source_load") and listed.source_load == kept)  # noqa: B023
    for sent in (float("nan"), float("inf")):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "source_load"):
            await rpc.update(mx_source_id=source, worker_id="w0", status=READY, source_load=sent)


async def test_an_unknown_status_filter_is_bad_input(rpc: AsyncRpc) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "status_filter", "17"):
        await rpc.list(status_filter=17)


async def test_worker_ids_are_never_parsed(rpc: AsyncRpc) -> None:
    for worker_id in ("a/b/../c", "line\nline", "nul\x00nul", "\N{SNOWMAN}\U0010ffff", " ", "x" * 1024):
        source = (await rpc.publish(publication(worker_id))).mx_source_id
        assert (await rpc.get(source, worker_id)).found
        assert (await rpc.update(mx_source_id=source, worker_id=worker_id, status=READY)).success
        assert [ref.worker_id for ref in await rpc.list()] == [worker_id]
        assert await rpc.withdraw(source_id=source, worker_id=worker_id)
        assert await rpc.list() == []


# Bad input


async def test_garbage_is_bad_input(rpc: AsyncRpc) -> None:
    for path in (
        f"{P2P}/PublishMetadata",
        f"{P2P}/ListSources",
        f"{P2P}/GetMetadata",
        f"{P2P}/UpdateStatus",
        f"{SOURCES}/Publish",
        f"{SOURCES}/Withdraw",
        f"{SOURCES}/GetManifest",
        f"{SOURCES}/List",
        "/model_express.api.ApiService/SendRequest",
        "/grpc.health.v1.Health/Check",
    ):
        # A text in field 1; where that is a message, a text within it; and so on.
        text = b"\x0a\x02\xff\xfe"
        if path.endswith(("PublishMetadata", "ListSources")):
            text = b"\x0a\x04\x1a\x02\xff\xfe"
        elif path.endswith(("/Publish", "/List")):
            text = b"\x0a\x06\x0a\x04\x1a\x02\xff\xfe"
        for garbage in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", text, b"\x07", b"\x00"):
            with refused(grpc.StatusCode.INVALID_ARGUMENT):
                await rpc.call(path, garbage, p2p_pb2.UpdateStatusResponse)


async def test_names_of_a_megabyte_are_refused_and_not_repeated(rpc: AsyncRpc) -> None:
    name = "m" * 1_000_000
    for request in (publication(model=name), publication(worker_id=name)):
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "1000000 bytes, more than"):
            await rpc.publish(request)
    assert await rpc.list(model_name_filter=name) == []


async def test_duplicate_tensors_are_refused(rpc: AsyncRpc) -> None:
    request = publication()
    request.worker.tensors.append(request.worker.tensors[0])
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "worker.tensors", "layer.0"):
        await rpc.publish(request)
    assert await rpc.list() == []


async def test_numbers_at_their_limits(rpc: AsyncRpc) -> None:
    request = publication(worker_rank=2**32 - 1, tensors=0)
    request.worker.tensor_source.tensors.add(name="t", addr=2**64 - 1, size=2**63 - 1, device_id=2**32 - 1)
    request.identity.tensor_parallel_size = 2**32 - 1
    request.identity.extra_parameters["training_step"] = str(2**64 - 1)
    answer = await rpc.publish(request)
    assert answer.success
    (listed,) = await rpc.list(min_training_step=2**64 - 1)
    assert (listed.worker_rank, listed.training_step) == (2**32 - 1, 2**64 - 1)
    request.worker.tensor_source.tensors.add(name="u", size=2)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "worker.tensor_source.tensors"):
        await rpc.publish(request)


async def test_200_000_tensors_work(rpc: AsyncRpc) -> None:
    request = publication(tensors=0)
    request.worker.tensor_source.tensors.extend(
        p2p_pb2.TensorDescriptor(name=f"model.layers.{index}.weight", addr=index, size=16, dtype="torch.bfloat16")
        for index in range(200_000)
    )
    answer = await rpc.publish(request)
    assert answer.success
    got = await rpc.get(answer.mx_source_id, "w0")
    assert len(got.worker.tensor_source.tensors) == 200_000
    assert got.worker.tensor_source == request.worker.tensor_source


async def test_a_message_over_the_limit_is_refused(rpc: AsyncRpc) -> None:
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(100 * 1024 * 1024)):
        await rpc.publish(bytes(100 * 1024 * 1024 + 1))
    assert (await rpc.publish(publication())).success


# SourceService


async def test_a_manifest_comes_back_as_it_was_sent(rpc: AsyncRpc) -> None:
    sent = sources_pb2.PublishRequest(record=publication(tensors=0), manifest=manifest("a", "b"))
    answer = await rpc.publish_v1(sent)
    assert (answer.source_id, answer.worker_id) == (source_id(sent.record.identity), "w0")
    got = await rpc.manifest(source_id=answer.source_id, worker_id="w0")
    assert got.manifest == sent.manifest
    assert got.identity == sent.record.identity
    assert got.worker.nixl_metadata == b"agent"
    assert got.source.status == READY
    listed = await rpc.list_v1(model_name="org/model", form=sources_pb2.FORM_CHECKPOINT)
    (source,) = listed.sources
    assert got.source == source
    assert (source.content, source.item_count, source.total_size, list(source.engines)) == ("c0ffee", 2, 16, ["tcp"])
    assert 0 < source.published_at <= listed.now
    assert (await rpc.get(answer.source_id, "w0")).found  # stock readers see it too


async def test_what_a_stock_client_published_has_no_manifest(rpc: AsyncRpc) -> None:
    answer = await rpc.publish(publication())
    got = await rpc.manifest(source_id=answer.mx_source_id, worker_id="w0")
    assert not got.HasField("manifest")
    assert len(got.worker.tensor_source.tensors) == 2


async def test_source_service_errors_are_statuses(rpc: AsyncRpc) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "manifest"):
        await rpc.publish_v1(sources_pb2.PublishRequest(record=publication()))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "manifest.items", "'a'"):
        await rpc.publish_v1(sources_pb2.PublishRequest(record=publication(), manifest=manifest("a", "a")))
    with refused(grpc.StatusCode.NOT_FOUND, "'nobody'", "rank 2"):
        await rpc.manifest(source_id="0" * 16, worker_id="nobody", worker_rank=2)
    for call in (rpc.manifest, rpc.withdraw):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "source_id"):
            await call(worker_id="w")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "worker_id"):
            await call(source_id="0" * 16)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "selector.status"):
        await rpc.list_v1(status=9)
    assert await rpc.list() == []


async def test_withdrawing_one_rank_or_all(rpc: AsyncRpc) -> None:
    for rank in range(3):
        source = (await rpc.publish(publication(worker_rank=rank))).mx_source_id
    assert await rpc.withdraw(source_id=source, worker_id="w0", worker_rank=1)
    assert not await rpc.withdraw(source_id=source, worker_id="w0", worker_rank=1)
    assert sorted(found.worker_rank for found in (await rpc.list_v1()).sources) == [0, 2]
    assert await rpc.withdraw(source_id=source, worker_id="w0")
    assert (await rpc.list_v1()).sources == []
    assert not await rpc.withdraw(source_id=source, worker_id="w0")


async def test_a_watcher_hears_what_is_there_and_every_change(rpc: AsyncRpc) -> None:
    await rpc.publish(publication("w0"))
    watch = rpc.watch(model_name="org/model", status=READY)
    first = await anext(watch)
    assert first.complete
    assert [source.worker_id for source in first.present] == ["w0"]
    source = (await rpc.publish(publication("w1"))).mx_source_id
    await rpc.publish(publication("elsewhere", model="org/other"))
    second = await anext(watch)
    assert not second.complete
    assert [found.worker_id for found in second.present] == ["w1"]
    await rpc.withdraw(source_id=source, worker_id="w0")
    third = await anext(watch)
    assert [(gone.source_id, gone.worker_id) for gone in third.gone] == [(source, "w0")]
    await watch.aclose()
    # Going on from the second answer, only the third is news.
    again = rpc.watch(second.resume_token, model_name="org/model", status=READY)
    resumed = await anext(again)
    assert resumed.complete or [gone.worker_id for gone in resumed.gone] == ["w0"]
    await again.aclose()


async def test_a_watcher_is_told_when_the_server_stops(url: str) -> None:
    async with serving(url) as server, AsyncRpc(server.address) as rpc:
        watch = rpc.watch()
        assert (await anext(watch)).complete
        stopping = asyncio.create_task(server.stop())
        with refused(grpc.StatusCode.UNAVAILABLE, "stopping"):
            await anext(watch)
        await stopping


# TransferService


async def test_a_report_changes_an_order_and_its_errors_are_statuses(rpc: AsyncRpc) -> None:
    for worker_id in ("w0", "w1"):
        await rpc.publish(publication(worker_id))
    path = "/peerload.v1.TransferService/Report"
    (first, second) = await rpc.list()
    failed = transfers_pb2.Transfer(
        source=sources_pb2.SourceRef(source_id=first.mx_source_id, worker_id=first.worker_id),
        outcome=transfers_pb2.OUTCOME_STALLED,
    )
    nobody = transfers_pb2.Transfer(
        source=sources_pb2.SourceRef(source_id="0" * 16, worker_id="nobody"), outcome=transfers_pb2.OUTCOME_OK
    )
    request = transfers_pb2.ReportRequest(transfers=[nobody, failed])
    await rpc.call(path, request, transfers_pb2.ReportResponse)
    assert [ref.worker_id for ref in await rpc.list()] == [second.worker_id, first.worker_id]
    listed = {source.worker_id: source.suspect for source in (await rpc.list_v1()).sources}
    assert listed == {first.worker_id: True, second.worker_id: False}
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "transfers[0].source.source_id"):
        await rpc.call(path, transfers_pb2.ReportRequest(transfers=[{}]), transfers_pb2.ReportResponse)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "request"):
        await rpc.call(path, b"\x0a\xff", transfers_pb2.ReportResponse)


# Health, API, reflection


async def test_health(rpc: AsyncRpc) -> None:
    answer = await rpc.call("/model_express.health.HealthService/GetHealth", b"", our_health_pb2.HealthResponse)
    assert (answer.version, answer.status) == (__version__, "ok")
    assert answer.uptime < 60


async def test_the_standard_health_service(server: Server, rpc: AsyncRpc) -> None:
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    for name in ("", "model_express.p2p.P2pService", "peerload.v1.SourceService", "grpc.health.v1.Health"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with refused(grpc.StatusCode.NOT_FOUND, "no.such.Service"):
        await stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    server.readiness.set(False, "the store is away")
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    told = await rpc.call("/model_express.health.HealthService/GetHealth", b"", our_health_pb2.HealthResponse)
    assert told.status == "unavailable: the store is away"
    alive = await stub.Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert alive.status == health_pb2.HealthCheckResponse.SERVING
    living = stub.Watch(health_pb2.HealthCheckRequest(service="liveness"))
    assert (await living.read()).status == health_pb2.HealthCheckResponse.SERVING
    server.readiness.set(True)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    unknown.cancel()
    living.cancel()
    watch.cancel()


async def test_ping(rpc: AsyncRpc) -> None:
    path = "/model_express.api.ApiService/SendRequest"
    answer = await rpc.call(path, api_pb2.ApiRequest(id="1", action="ping"), api_pb2.ApiResponse)
    assert (answer.success, answer.data, answer.HasField("error")) == (True, b'{"message":"pong"}', False)
    answer = await rpc.call(path, api_pb2.ApiRequest(action="dance"), api_pb2.ApiResponse)
    assert (answer.success, answer.error) == (False, "Unknown action: dance")
    answer = await rpc.call(path, api_pb2.ApiRequest(action="d" * 1_000_000), api_pb2.ApiResponse)
    assert len(answer.error) < 300


async def test_reflection_tells_what_is_served(server: Server) -> None:
    def look() -> None:
        with grpc.insecure_channel(server.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert sorted(database.get_services()) == [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                "model_express.api.ApiService",
                "model_express.health.HealthService",
                "model_express.p2p.P2pService",
                "peerload.v1.ClaimService",
                "peerload.v1.DiagnosisService",
                "peerload.v1.ServerService",
                "peerload.v1.SourceService",
                "peerload.v1.TransferService",
            ]
            file = database.FindFileContainingSymbol("model_express.p2p.P2pService")
            assert [service.name for service in file.service] == ["P2pService", "WorkerService"]
            assert database.FindFileByName("sources.proto").package == "peerload.v1"
            for missing in ("no.such.Thing", "peerload.stored.Publication"):
                with pytest.raises(KeyError):
                    database.FindFileContainingSymbol(missing)
            with pytest.raises(KeyError):
                database.FindFileByName("stored.proto")

    await asyncio.to_thread(look)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_answers_every_question(rpc: AsyncRpc, version: str) -> None:
    from peerload.wire import grpc_reflection_v1_pb2, grpc_reflection_v1alpha_pb2

    messages = grpc_reflection_v1_pb2 if version == "v1" else grpc_reflection_v1alpha_pb2
    call = rpc.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")()

    async def ask(**question):
        request = messages.ServerReflectionRequest(host="h", **question)
        await call.write(request.SerializeToString())
        answer = messages.ServerReflectionResponse.FromString(await call.read())
        assert answer.original_request == request
        assert answer.valid_host == "h"
        return answer

    files = await ask(file_containing_symbol="peerload.v1.Manifest")
    assert len(files.file_descriptor_response.file_descriptor_proto) == 2  # with what it imports
    numbers = await ask(all_extension_numbers_of_type="peerload.v1.Manifest")
    assert numbers.all_extension_numbers_response.base_type_name == "peerload.v1.Manifest"
    extension = {"containing_type": "peerload.v1.Manifest", "extension_number": 9}
    assert (await ask(file_containing_extension=extension)).error_response.error_code == 5
    assert (await ask(all_extension_numbers_of_type="no.Such")).error_response.error_code == 5
    assert (await ask()).error_response.error_code == 3
    call.cancel()


async def test_services_of_later_releases_are_unimplemented(rpc: AsyncRpc) -> None:
    for path in (
        "/model_express.model.ModelService/ListModelFiles",
        "/model_express.p2p.WorkerService/GetTensorManifest",
    ):
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            await rpc.call(path, b"", p2p_pb2.GetMetadataResponse)
