"""What the page's port answers: files, pages of manifests, and nobody who came by a foreign name."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from structlog.testing import capture_logs

from peerload import AsyncClient
from peerload.errors import InvalidArgument, MissingExtra, Unavailable
from peerload.server.app import Server
from peerload.server.page.files import Files
from peerload.server.resolving import resolve
from peerload.server.settings import Settings
from peerload.wire.identity import source_id
from tests.security.entries import TOKENS, write_access
from tests.support.certificates import Authority
from tests.support.http import Answer, get, looking
from tests.support.rpc import AsyncRpc, identity, publication
from tests.support.server import serving

SOURCE = source_id(identity())


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(ui="127.0.0.1:0") as made:
        yield made


async def manifest(server: Server, source: str, worker: str, token: str | None = None, **more: object) -> Answer:
    asked = urlencode({"source": source, "worker": worker, **more})
    return await get(server.ui_address, f"/api/manifest?{asked}", token)


async def test_every_file_comes_with_strict_headers(server: Server) -> None:
    for name in ("", *(f"files/{quote(name)}" for name in Files().names)):
        answer = await get(server.ui_address, f"/{name}")
        assert answer.status == 200, name
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = await get(server.ui_address, f"/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        packed = await get(server.ui_address, f"/{name}", headers={"Accept-Encoding": "gzip"})
        assert gzip.decompress(packed.body) == answer.body


@pytest.mark.parametrize(
    "path", ["/files/../application.py", "/files/..%2fapplication.py", "/files//etc/passwd", "/files/", "/x", "/api/"]
)
async def test_nothing_else_is_there(server: Server, path: str) -> None:
    answer = await get(server.ui_address, path)
    assert answer.status == 404
    assert "content-security-policy" in answer.headers


async def test_nothing_can_be_changed(server: Server) -> None:
    for path in ("/", "/api/events", "/api/manifest"):
        assert (await get(server.ui_address, path, method="POST")).status == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example:80", 421), ("", 421), ("a:b:c", 421)],
)
async def test_a_foreign_name_for_this_machine_is_refused(server: Server, host: str, status: int) -> None:
    assert (await get(server.ui_address, "/", headers={"Host": host})).status == status


async def test_a_manifest_comes_in_pages(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        tensors = {f"layer.{index:02}": np.zeros((2, index + 1), "float32") for index in range(30)}
        async with client.publish(tensors, model="org/model") as source:

            async def page(**more: object) -> dict[str, Any]:
                found: dict[str, Any] = (await manifest(server, source.source_id, source.worker_id, **more)).json
                return found

            first = await page(limit=10)
            assert (first["total"], first["matched"]) == (30, 30)
            assert [row[1] for row in first["rows"]] == [f"layer.{index:02}" for index in range(10)]
            assert first["rows"][1][2:5] == ["torch.float32", "2 × 2", 16]
            assert len(first["rows"][1][5]) == 32
            assert {engine for engine, _ in first["endpoints"]} >= {"tcp"}
            assert ["model_name", "org/model"] in first["identity"]
            last = await page(limit=10, offset=25)
            assert len(last["rows"]) == 5
            found = await page(find="LAYER.1", sort="-size")
            assert (found["total"], found["matched"], found["rows"][0][1]) == (30, 10, "layer.19")
            assert (await page(sort="name", find="none"))["rows"] == []
            # Whoever has a descriptor may read.
            async with AsyncRpc(server.address) as rpc:
                stored = await rpc.manifest(source_id=source.source_id, worker_id=source.worker_id)
            assert stored.manifest.endpoints
            for endpoint in stored.manifest.endpoints:
                assert endpoint.descriptor.hex() not in str(first)
                assert b64encode(endpoint.descriptor).decode() not in str(first)


async def test_a_stock_worker_has_a_manifest_too(server: Server) -> None:
    async with AsyncRpc(server.address) as rpc:
        await rpc.publish(publication("w/0 ?&", tensors=3))
        answer = await manifest(server, SOURCE, "w/0 ?&", sort="size")
        assert [row[1] for row in answer.json["rows"]] == ["layer.0", "layer.1", "layer.2"]


@pytest.mark.parametrize(
    ("parameters", "status", "words"),
    [
        ({"worker": ""}, 400, "worker"),
        ({"source": ""}, 400, "source"),
        ({"rank": "-1"}, 400, "rank"),
        ({"offset": "x"}, 400, "offset"),
        ({"limit": "501"}, 400, "limit"),
        ({"sort": "digest"}, 400, "sort"),
        ({"find": "f" * 201}, 400, "find"),
        ({"worker": "nobody"}, 404, "not there"),
        ({"source": "no id"}, 404, "not there"),
    ],
)
async def test_bad_questions_are_named(server: Server, parameters: dict[str, str], status: int, words: str) -> None:
    asked = {"source": SOURCE, "worker": "w0", **parameters}
    answer = await get(server.ui_address, f"/api/manifest?{urlencode(asked)}")
    assert answer.status == status
    assert words in answer.json["reason"]


async def test_a_manifest_out_of_scope_is_refused(tmp_path: Path) -> None:
    access = write_access(tmp_path / "access.toml")
    async with serving(ui="127.0.0.1:0", access=str(access)) as server:
        async with AsyncRpc(server.address, TOKENS["alice"]) as rpc:
            await rpc.publish(publication("w0"))
        for token, status in ((None, 401), (TOKENS["team"], 403), (TOKENS["reader"], 200)):
            answer = await manifest(server, SOURCE, "w0", token)
            assert answer.status == status


async def test_tls_as_on_the_other_port(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued, client = authority.issue(), authority.issue("client")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    files = {"tls_cert": str(issued.certificate), "tls_key": str(issued.key)}
    async with serving(ui="127.0.0.1:0", **files) as server:
        assert (await get(server.ui_address, "/", tls=context)).status == 200
        async with looking(server.ui_address, tls=context) as events:
            assert (await events.until("hello"))["tls"]
    access = write_access(tmp_path / "access.toml", '[[certificate]]\nname = "client"\nrole = "read"')
    async with serving(
        ui="127.0.0.1:0", access=str(access), tls_client_ca=str(authority.certificate), **files
    ) as server:
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await get(server.ui_address, "/", tls=context)
        context.load_cert_chain(client.certificate, client.key)
        async with looking(server.ui_address, tls=context) as events:
            assert (await events.until("hello"))["principal"] == "certificate:client"


async def test_a_port_that_cannot_be_had_is_named(server: Server) -> None:
    with pytest.raises(Unavailable, match=f"ui: {server.ui_address} is in use"):
        await Server(Settings(listen="127.0.0.1:0", store="memory:", metrics="off", ui=server.ui_address)).start()


async def test_without_its_packages_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "peerload.server.page.application", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(MissingExtra, match=r"peerload\[ui\]"):
        await Server(Settings(listen="127.0.0.1:0", store="memory:", metrics="off", ui="127.0.0.1:0")).start()


async def test_strangers_that_are_let_in_are_warned_of() -> None:
    with capture_logs() as logs:
        async with serving(ui="0.0.0.0:0"):
            pass
    (warning,) = [log["event"] for log in logs if "web page" in log["event"]]
    assert "without TLS and authentication" in warning


@pytest.mark.parametrize(("given", "address"), [("off", None), ("h:80", ("h", 80)), ("[::1]:0", ("::1", 0))])
def test_where_it_is(given: str, address: tuple[str, int] | None) -> None:
    assert resolve({"ui": given, "store": "memory:"}).settings.ui_address == address


def test_a_place_that_is_none_is_named() -> None:
    with pytest.raises(InvalidArgument, match="must be HOST:PORT") as error:
        resolve({"ui": "8080", "store": "memory:"})
    assert error.value.field == "--ui"


def test_several_processes_have_none() -> None:
    with pytest.raises(InvalidArgument, match="one process") as error:
        resolve({"ui": "h:80", "processes": 2, "store": "memory:"})
    assert error.value.field == "--ui"
