"""The gate in a server: who gets in, as whom, and what is said to everybody else. Real sockets; time stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from structlog.testing import capture_logs

from peerload.client import AsyncClient, ClientSettings
from peerload.errors import InvalidArgument, NotAllowed, Unauthenticated
from peerload.metadata.principals import Role
from peerload.server.app import Server
from peerload.server.rpc import Method
from peerload.server.security.roles import OPEN, ROLES
from peerload.testing import ManualClock
from peerload.wire import api_pb2, claims_pb2, diagnosis_pb2, grpc_health_pb2, health_pb2, p2p_pb2, transfers_pb2
from peerload.wire.identity import source_id
from tests.security.entries import TOKENS, write_access
from tests.support.rpc import AsyncRpc, identity, publication
from tests.support.server import serving

SOURCE = source_id(identity())
Code = grpc.StatusCode


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def access(tmp_path: Path) -> Path:
    return write_access(tmp_path / "access.toml")


@pytest.fixture(params=["grpc", "h2corn"])
async def server(request: pytest.FixtureRequest, access: Path, clock: ManualClock) -> AsyncIterator[Server]:
    async with serving(clock=clock, access=str(access), front=request.param) as made:
        yield made


def methods(server: Server) -> dict[str, Method]:
    return server._methods()


async def code(rpc: AsyncRpc, path: str, request: bytes = b"") -> tuple[grpc.StatusCode, str]:
    """What the gate makes of a call: the status, and what was said."""
    try:
        await rpc.channel.unary_unary(path)(request, metadata=rpc.metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return Code.OK, ""


async def test_every_method_has_a_role(server: Server) -> None:
    assert set(methods(server)) == {*OPEN, *ROLES}, "a new method needs a line in server/security/roles.py"
    assert not OPEN & set(ROLES)
    assert all("health" in path.lower() for path in OPEN)


async def test_a_method_without_a_role_is_for_nobody(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/model_express.api.ApiService/SendRequest"
    monkeypatch.setattr("peerload.server.security.gate.ROLES", {})
    async with AsyncRpc(server.address, TOKENS["admin"]) as rpc:
        assert await code(rpc, path) == (Code.PERMISSION_DENIED, "SendRequest is for nobody; token:admin has admin")


async def test_who_may_call_what(server: Server) -> None:
    roles = {"reader": Role.READ, "alice": Role.PUBLISH, "admin": Role.ADMIN}
    for name, role in roles.items():
        async with AsyncRpc(server.address, TOKENS[name]) as rpc:
            for path, needed in ROLES.items():
                if "Reflection" in path or "Watch" in path:
                    continue
                found, said = await code(rpc, path)
                assert (found is Code.PERMISSION_DENIED) is (role < needed), (name, path, said)
                assert found is not Code.UNAUTHENTICATED


async def test_without_credentials_there_is_health_only(server: Server) -> None:
    async with AsyncRpc(server.address) as rpc:
        for path in sorted({*methods(server)} - {"/grpc.health.v1.Health/Watch"}):
            found, said = await code(rpc, path)
            if path in OPEN:
                assert found is not Code.UNAUTHENTICATED
            else:
                assert (found, said) == (
                    Code.UNAUTHENTICATED,
                    "no credentials came with the call; accepted is a bearer token of the access file",
                )
        health = await rpc.call("/grpc.health.v1.Health/Check", b"", grpc_health_pb2.HealthCheckResponse)
        assert health.status == grpc_health_pb2.HealthCheckResponse.SERVING
        assert (await rpc.call("/model_express.health.HealthService/GetHealth", b"", health_pb2.HealthResponse)).status


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Bearer nobody-has-this", "the token is not known"),
        (f"Bearer {TOKENS['alice']}x", "the token is not known"),
        (f"Bearer {TOKENS['alice'][:-1]}", "the token is not known"),
        (TOKENS["alice"], "must be one, of the form: Bearer TOKEN"),
        (f"Basic {TOKENS['alice']}", "must be one"),
        ("Bearer", "must be one"),
        ("", "must be one"),
    ],
)
async def test_what_is_no_token(server: Server, header: str, said: str) -> None:
    async with AsyncRpc(server.address) as rpc:
        rpc.metadata = (("authorization", header),)
        found, words = await code(rpc, "/model_express.p2p.P2pService/ListSources")
        assert found is Code.UNAUTHENTICATED
        assert said in words
        assert TOKENS["alice"][:8] not in words
        rpc.metadata = (("authorization", f"Bearer {TOKENS['alice']}"), ("authorization", f"Bearer {TOKENS['bob']}"))
        assert (await code(rpc, "/model_express.p2p.P2pService/ListSources"))[0] is Code.UNAUTHENTICATED
        rpc.metadata = (("authorization", f"bearer  {TOKENS['alice']}"),)
        assert (await code(rpc, "/model_express.p2p.P2pService/ListSources"))[0] is Code.OK


async def test_whose_a_source_is(server: Server) -> None:
    async with (
        AsyncRpc(server.address, TOKENS["alice"]) as alice,
        AsyncRpc(server.address, TOKENS["bob"]) as bob,
        AsyncRpc(server.address, TOKENS["admin"]) as admin,
    ):
        assert (await alice.publish(publication())).success
        update = {"mx_source_id": SOURCE, "worker_id": "w0", "status": p2p_pb2.SOURCE_STATUS_READY}
        for refused in (
            bob.publish(publication(tensors=3)),
            bob.update(**update),
            bob.withdraw(source_id=SOURCE, worker_id="w0"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await refused
            assert error.value.code() is Code.PERMISSION_DENIED
            assert "belongs to another principal than token:bob" in (error.value.details() or "")
            assert "alice" not in (error.value.details() or "")
        assert (await alice.update(**update)).success
        assert len((await bob.get(SOURCE, "w0")).worker.tensors) == 2
        assert (await admin.update(**update)).success
        assert await admin.withdraw(source_id=SOURCE, worker_id="w0")
        claim = claims_pb2.AcquireClaimRequest(name="n", holder="h", lease_ms=5000)
        acquire = "/peerload.v1.ClaimService/Acquire"
        assert (await alice.call(acquire, claim, claims_pb2.AcquireClaimResponse)).acquired
        assert not (await bob.call(acquire, claim, claims_pb2.AcquireClaimResponse)).acquired


async def test_what_a_scope_shows(server: Server) -> None:
    async with AsyncRpc(server.address, TOKENS["alice"]) as alice, AsyncRpc(server.address, TOKENS["team"]) as team:
        for model in ("team/a", "org/model", "team/similar", "other/similar"):
            await alice.publish(publication(f"w-{model}", model))
        for _ in range(2):
            assert len(await alice.list()) == 4
            assert {ref.model_name for ref in await team.list()} == {"team/a", "team/similar"}
        assert {source.model_name for source in (await team.list_v1()).sources} == {"team/a", "team/similar"}
        async for first in team.watch():
            assert {source.model_name for source in first.present} == {"team/a", "team/similar"}
            break
        mine = source_id(identity("team/a"))
        assert (await team.get(mine, "w-team/a")).found
        assert (await team.manifest(source_id=mine, worker_id="w-team/a")).source.model_name == "team/a"
        assert not (await team.get(mine, "nobody")).found

        async def explained(**what: str) -> diagnosis_pb2.ExplainResponse:
            path = "/peerload.v1.DiagnosisService/Explain"
            return await team.call(path, diagnosis_pb2.ExplainRequest(**what), diagnosis_pb2.ExplainResponse)

        for refused in (
            team.list(identity=identity()),
            team.list_v1(model_name="org/model"),
            team.get(SOURCE, "w-org/model"),
            team.manifest(source_id=SOURCE, worker_id="w-org/model"),
            team.publish(publication("w", "org/new")),
            anext(team.watch(source_id=SOURCE)),
            explained(model_name="org/model"),
            explained(source_id=SOURCE),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await refused
            assert error.value.code() is Code.PERMISSION_DENIED
            assert "token:team may" in (error.value.details() or "")
        # What is asked in vain leads to nothing that is out of scope either.
        assert await alice.list(identity=identity("org/modle"), status_filter=2) == []
        assert await team.list(identity=identity("team/simila"), status_filter=2) == []
        found = await explained()
        assert [miss.verdict.nearest_model for miss in found.misses] in ([], ["team/similar"])
        live = (await explained(model_name="team/simila")).SerializeToString()
        assert b"team/similar" in live
        assert b"other/similar" not in live


async def test_reports_and_pings_are_reading(server: Server) -> None:
    async with AsyncRpc(server.address, TOKENS["reader"]) as reader:
        answer = await reader.call(
            "/model_express.api.ApiService/SendRequest", api_pb2.ApiRequest(action="ping"), api_pb2.ApiResponse
        )
        assert answer.success
        await reader.call("/peerload.v1.TransferService/Report", b"", transfers_pb2.ReportResponse)


async def test_a_changed_file_holds_within_a_second(server: Server, access: Path, clock: ManualClock) -> None:
    async with AsyncRpc(server.address, TOKENS["alice"]) as alice:
        assert await alice.list() == []
        write_access(access, without=["alice"])
        await clock.advance(1.1)
        for _ in range(100):  # the file is read by a thread
            found, _ = await code(alice, "/model_express.p2p.P2pService/ListSources")
            if found is not Code.OK:
                break
            await clock.advance(1.1)
        assert found is Code.UNAUTHENTICATED


async def test_a_watch_does_not_outlive_its_right(server: Server, access: Path, clock: ManualClock) -> None:
    async with AsyncRpc(server.address, TOKENS["alice"]) as alice, AsyncRpc(server.address, TOKENS["team"]) as team:
        watches = alice.watch(), team.watch()
        first = [await anext(watch) for watch in watches]
        waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
        write_access(access, without=["alice"])
        while not all(each.done() for each in waiting):  # the file is read by a thread
            await clock.advance(1.1)
            await asyncio.sleep(0.01)
        for each in waiting:
            with pytest.raises(grpc.aio.AioRpcError, match="who may do what has changed; watch again") as error:
                await each
            assert error.value.code() is Code.UNAVAILABLE
        again = team.watch(first[1].resume_token)
        waiting = [asyncio.ensure_future(anext(again))]
        async with AsyncRpc(server.address, TOKENS["admin"]) as admin:
            await admin.publish(publication("w", "team/a"))
        assert [source.model_name for source in (await waiting[0]).present] == ["team/a"]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await anext(alice.watch(first[0].resume_token))
        assert error.value.code() is Code.UNAUTHENTICATED


async def test_refusals_are_counted(server: Server) -> None:
    async with AsyncRpc(server.address) as stranger, AsyncRpc(server.address, TOKENS["reader"]) as reader:
        for rpc in (stranger, stranger, reader):
            await code(rpc, "/model_express.p2p.P2pService/PublishMetadata")
    sample = server._metrics.registry.get_sample_value
    assert sample("peerload_calls_refused_total", {"code": "unauthenticated"}) == 2
    assert sample("peerload_calls_refused_total", {"code": "permission_denied"}) == 1


async def test_a_file_that_names_nobody_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    async with serving(access=str(tmp_path / "empty.toml")) as server, AsyncRpc(server.address, "anything") as rpc:
        found, said = await code(rpc, "/model_express.p2p.P2pService/ListSources")
        assert (found, said) == (Code.UNAUTHENTICATED, "no credentials came with the call; accepted is nothing")


async def test_a_server_does_not_start_without_what_it_was_told_to_ask(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    rule = '[[service_account]]\nname = "a/b"\nrole = "read"'
    cases: list[tuple[str, dict[str, str], str]] = [
        ("[[token\nname", {}, "is not TOML, at line 1"),
        (rule, {}, "token_audiences: is missing: the access file names service accounts"),
        ("", {"service_accounts": "a/b"}, "token_audiences: is missing"),
        ("", {"token_audiences": "a"}, "service_accounts: is missing"),
    ]
    for text, settings, said in cases:
        path.write_text(text)
        with pytest.raises(InvalidArgument, match=said):
            async with serving(access=str(path), **settings):
                pass


async def test_without_settings_nobody_is_asked() -> None:
    async with serving() as server, AsyncRpc(server.address, "whatever") as rpc:
        assert server._gate is None
        assert (await rpc.publish(publication())).success


async def test_whoever_is_asked_beyond_loopback_is_warned_of_tls_alone(access: Path) -> None:
    with capture_logs() as lines:
        async with serving(listen="0.0.0.0:0", access=str(access)):
            pass
    (told,) = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert told == "whoever reaches this port is served without TLS: see docs/security.md"


async def test_clients_say_why_they_are_not_let_in(server: Server, tmp_path: Path) -> None:
    """Peerload's own, whose errors name what to do."""
    path = tmp_path / "token"
    settings = ClientSettings(token_path=str(path), patience=0.0)
    weights = {"w": np.ones(4, "float32")}
    async with AsyncClient(server.address, settings=settings) as client:
        with pytest.raises(Unauthenticated, match="accepted is a bearer token") as without:
            await client.find("org/model")
        assert str(without.value).endswith(f"no token was sent: there is none in {path} (MX_AUTH_TOKEN_PATH)")
        path.write_text("unknown")
        with pytest.raises(Unauthenticated) as unknown:
            await client.find("org/model")
        assert str(unknown.value).endswith(f"the token sent is that in {path} (MX_AUTH_TOKEN_PATH)")
        path.write_text(TOKENS["reader"])
        assert await client.find("org/model") == []
        with pytest.raises(NotAllowed, match="Publish is for the role publish; token:reader has read"):
            async with client.publish(weights, model="org/model"):
                pass
        path.write_text(TOKENS["alice"] + "\n")
        async with client.publish(weights, model="org/model"):
            async with AsyncClient(server.address, settings=settings) as other:
                pulled = await other.pull("org/model")
                assert (pulled["w"].numpy() == weights["w"]).all()
        assert await client.find("org/model") == []


async def test_a_principal_has_as_many_records_as_it_may(access: Path) -> None:
    async with (
        serving(access=str(access), limit_principal_records=1) as server,
        AsyncRpc(server.address, TOKENS["alice"]) as alice,
        AsyncRpc(server.address, TOKENS["bob"]) as bob,
    ):
        for _ in range(2):
            await alice.publish(publication("w1"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await alice.publish(publication("w2"))
        assert error.value.code() is Code.RESOURCE_EXHAUSTED
        assert error.value.details() == "--limit-principal-records: token:alice has 1 records already"
        await bob.publish(publication("w2"))
