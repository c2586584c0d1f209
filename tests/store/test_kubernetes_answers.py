"""What a real API server answers, as what it means; and what is left of it where the network fails."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from peerload.clock import SystemClock
from peerload.errors import PeerloadError
from peerload.kubernetes.access import Access
from peerload.kubernetes.api import JSON_PATCH, KubeApi
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import (
    Behind,
    Broken,
    Distrusted,
    Exists,
    Forbidden,
    Gone,
    Moved,
    NoNamespace,
    NotInstalled,
    NotThere,
    Refused,
    Terminating,
    Unauthorized,
)
from peerload.store.kubernetes.kubetime import KubeTime
from tests.support.following import in_time
from tests.support.kube import ControlPlane, Cut, FaultProxy, Hold, Lose, Namespace
from tests.support.kube.kubeconfig import write_kubeconfig


class Patient(KubeApi):
    """Waits longer than a server can: the machine may be busy with other tests."""

    watching = False

    async def call(self, method: str, path: str, *, seconds: float = 20.0, **more: Any) -> dict[str, Any]:
        return await super().call(method, path, seconds=seconds, **more)

    async def follow(self, path: str, *, silence: float = 20.0, **query: str) -> AsyncGenerator[dict[str, Any], None]:
        """A watch from now on."""
        listed = await self.call("GET", path, query={"limit": "1"})
        self.watching = True
        query = {"resourceVersion": listed["metadata"]["resourceVersion"], **query}
        async with contextlib.aclosing(self.watch(path, query, silence=silence)) as watch:
            async for event in watch:
                yield event


@contextlib.asynccontextmanager
async def opened(kubeconfig: Path, url: str = "kubernetes:") -> AsyncIterator[Patient]:
    place, clock = KubernetesPlace.parse(url), SystemClock()
    api = Patient(place, clock, access=Access(place, clock, environment={"KUBECONFIG": str(kubeconfig)}))
    await api.open()
    try:
        yield api
    finally:
        await api.close()


@pytest.fixture
async def api(kube_namespace: Namespace) -> AsyncIterator[Patient]:
    """One who comes as Peerload's service account."""
    async with opened(kube_namespace.kubeconfig()) as api:
        yield api


def record(name: str, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"peerload.dev/instance": "main"}}
    kind = {"apiVersion": "peerload.dev/v1", "kind": "PeerloadRecord"}
    return {**kind, "metadata": metadata, "key": f"other/{name}", "value": {}, **more}


def moved_to(version: str, value: object) -> list[dict[str, object]]:
    return [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
        {"op": "replace", "path": "/value", "value": value},
    ]


async def test_writes_and_what_stands_in_their_way(api: Patient, kube_namespace: Namespace) -> None:
    records = kube_namespace.records
    assert api.namespace == kube_namespace.name
    created = await api.call("POST", records, body=record("a"))
    with pytest.raises(Exists, match="already exists"):
        await api.call("POST", records, body=record("a"))
    version = created["metadata"]["resourceVersion"]
    one = f"{records}/a"
    written = await api.call("PATCH", one, body=moved_to(version, {"x": 1}), content_type=JSON_PATCH)
    assert written["value"] == {"x": 1}
    with pytest.raises(Moved, match="modified"):
        await api.call("PATCH", one, body=moved_to(version, {"x": 2}), content_type=JSON_PATCH)
    with pytest.raises(Refused, match="422"):
        await api.call("PATCH", one, body=[{"op": "test", "path": "/key", "value": "b"}], content_type=JSON_PATCH)
    stale = {"preconditions": {"uid": created["metadata"]["uid"], "resourceVersion": version}}
    with pytest.raises(Moved, match="precondition"):
        await api.call("DELETE", one, body=stale)
    with pytest.raises(Moved, match="the UID in the precondition"):
        await api.call("DELETE", one, body={"preconditions": {"uid": "another"}})
    fresh = {"preconditions": {"resourceVersion": written["metadata"]["resourceVersion"]}}
    await api.call("DELETE", one, body=fresh)
    for method, body in (("GET", None), ("DELETE", fresh), ("PATCH", moved_to(version, {}))):
        content_type = JSON_PATCH if method == "PATCH" else "application/json"
        with pytest.raises(NotThere, match="no peerloadrecords 'a'"):
            await api.call(method, one, body=body, content_type=content_type)


async def test_lists_in_pages_and_of_metadata_alone(api: Patient, kube_namespace: Namespace) -> None:
    records = kube_namespace.records
    for name in "abcde":
        await api.call("POST", records, body=record(name))
    found, query = [], {"limit": "2", "labelSelector": "peerload.dev/instance=main"}
    while True:
        page = await api.call("GET", records, query=query)
        found += [item["metadata"]["name"] for item in page["items"]]
        if not page["metadata"].get("continue"):
            break
        query["continue"] = page["metadata"]["continue"]
    assert found == list("abcde")
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    brief = await api.call("GET", records, accept=accept)
    assert brief["kind"] == "PartialObjectMetadataList"
    assert {item["metadata"]["name"] for item in brief["items"]} == set("abcde")
    assert "key" not in brief["items"][0]


async def test_a_large_object(api: Patient, kube_namespace: Namespace) -> None:
    path = f"{kube_namespace.core}/configmaps"
    chunk = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "binaryData": {"b": "AAAA" * 333_333}}
    await api.call("POST", path, body=chunk)
    assert (await api.call("GET", f"{path}/a"))["binaryData"] == chunk["binaryData"]
    chunk["binaryData"] = {"b": "AAAA" * 1_000_000}
    with pytest.raises(Refused, match="413"):
        await api.call("POST", path, body=chunk)


async def test_a_watch_from_a_list_on(api: Patient, kube_namespace: Namespace) -> None:
    records = kube_namespace.records
    async with contextlib.aclosing(api.follow(records, labelSelector="peerload.dev/instance=main")) as watch:
        first = asyncio.ensure_future(anext(watch))
        while not api.watching:
            await asyncio.sleep(0.005)
        created = await api.call("POST", records, body=record("a"))
        event = await first
        assert (event["type"], event["object"]["metadata"]["uid"]) == ("ADDED", created["metadata"]["uid"])
        await api.call("DELETE", f"{records}/a")
        assert (await anext(watch))["type"] == "DELETED"
        version = created["metadata"]["resourceVersion"]
    query = {"resourceVersion": version, "timeoutSeconds": "1"}
    assert (await anext(api.watch(records, query, silence=20)))["type"] == "DELETED"
    ended = [event async for event in api.watch(records, query, silence=20)]
    assert [event["type"] for event in ended][:1] == ["DELETED"]


async def test_what_the_api_server_has_forgotten_or_not_yet_seen(api: Patient, kube_namespace: Namespace) -> None:
    records = kube_namespace.records
    with pytest.raises(Gone, match="too old"):
        async for _ in api.watch(records, {"resourceVersion": "1"}, silence=10):
            pass
    kube_namespace.plane.etcd[0].compact()
    old = base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":1,"start":"a"}').decode().rstrip("=")
    with pytest.raises(Gone, match="continue"):
        await api.call("GET", records, query={"limit": "1", "continue": old})
    with pytest.raises((Behind, Broken)):
        await api.call("GET", records, query={"resourceVersion": "999999999"}, seconds=0.5)


async def test_who_is_not_known_and_who_may_not(shared_kube: ControlPlane, kube_namespace: Namespace) -> None:
    records = kube_namespace.records
    late = kube_namespace.forged_token(-60)
    async with opened(kube_namespace.kubeconfig(token=late)) as api:
        with pytest.raises(Unauthorized, match="missing, expired or of another cluster"):
            await api.call("GET", records)
    async with opened(kube_namespace.kubeconfig()) as api:
        with pytest.raises(Forbidden) as error:
            await api.call("GET", "/api/v1/namespaces/default/secrets")
        assert (
            f"does not allow system:serviceaccount:{kube_namespace.name}:peerload to list secrets in namespace default:"
            " peerload kubernetes manifests --namespace default | kubectl apply -f -"
        ) in str(error.value)
        with pytest.raises(Forbidden, match="get nodes: peerload kubernetes manifests "):
            await api.call("GET", "/api/v1/nodes/x")
    account = {"metadata": {"name": "bare"}}
    shared_kube.admin.post(f"{kube_namespace.core}/serviceaccounts", account)
    async with opened(kube_namespace.kubeconfig(token=kube_namespace.token("bare"))) as api:
        with pytest.raises(Forbidden) as error:
            await api.call("POST", records, body=record("a"))
        assert (
            f"to create peerloadrecords.peerload.dev in namespace {kube_namespace.name}: peerload kubernetes manifests"
            f" --namespace {kube_namespace.name} --service-account bare | kubectl apply -f -"
        ) in str(error.value)


async def test_what_is_not_there_to_write_to(shared_kube: ControlPlane) -> None:
    namespace = shared_kube.fresh_namespace()
    async with opened(shared_kube.kubeconfig()) as api:
        with pytest.raises(NoNamespace, match="no namespace nowhere: kubectl create namespace nowhere"):
            await api.call("POST", "/apis/peerload.dev/v1/namespaces/nowhere/peerloadrecords", body=record("a"))
        with pytest.raises(NotInstalled, match=r"peerload kubernetes manifests \| kubectl apply -f -"):
            await api.call("GET", f"/apis/unknown.dev/v1/namespaces/{namespace.name}/things")
        shared_kube.admin.delete(f"/api/v1/namespaces/{namespace.name}")
        with pytest.raises(Terminating, match=f"namespace {namespace.name} is being deleted"):
            await api.call("POST", namespace.records, body=record("a"))


async def test_all_ways_to_come_in(shared_kube: ControlPlane, kube_namespace: Namespace, tmp_path: Path) -> None:
    certificate, key = shared_kube.certificates.client("operator", "system:masters")
    status = {"token": kube_namespace.token()}
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    plugin.chmod(0o755)
    token = tmp_path / "token"
    token.write_text(kube_namespace.token() + "\n")
    ways: list[dict[str, object]] = [
        {"client-certificate": str(certificate), "client-key": str(key)},
        {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin"}},
        {"tokenFile": "token"},
    ]
    for user in ways:
        path = tmp_path / "config"
        write_kubeconfig(path, shared_kube.url, shared_kube.certificates.authority, user, kube_namespace.name)
        async with opened(path) as api:
            assert (await api.call("GET", kube_namespace.records))["items"] == []
    write_kubeconfig(path, shared_kube.url, certificate, {"token": "x"}, kube_namespace.name)
    async with opened(path) as api:
        with pytest.raises(Distrusted, match="not signed by an authority that we trust"):
            await api.call("GET", kube_namespace.records)


async def test_in_a_pod(shared_kube: ControlPlane, kube_namespace: Namespace, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(kube_namespace.forged_token(-60))
    (tmp_path / "ca.crt").write_text(shared_kube.certificates.authority.read_text())
    (tmp_path / "namespace").write_text(kube_namespace.name)
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(shared_kube.port)}
    place, clock = KubernetesPlace(), SystemClock()
    api = Patient(place, clock, access=Access(place, clock, environment=environment, service_account=tmp_path))
    await api.open()
    try:
        with pytest.raises(Unauthorized):
            await api.call("GET", kube_namespace.records)
        (tmp_path / "token").write_text(kube_namespace.token())
        assert (await api.call("GET", kube_namespace.records))["items"] == []
    finally:
        await api.close()


async def test_the_api_servers_time(api: Patient, kube_namespace: Namespace) -> None:
    clock = SystemClock()
    time = KubeTime(clock)
    api.on_date = time.heard
    for _ in range(20):
        await api.call("GET", kube_namespace.records)
    low, high = time.bounds_ms
    assert low <= clock.wall_ms() + 1 - clock.monotonic() * 1_000
    assert clock.wall_ms() - 1 - clock.monotonic() * 1_000 <= high


# Where the network fails.


@pytest.fixture
def proxy(shared_kube: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(shared_kube) as running:
        yield running


async def test_a_write_whose_answer_is_lost_may_have_been_done(kube_namespace: Namespace, proxy: FaultProxy) -> None:
    records = kube_namespace.records
    async with opened(kube_namespace.kubeconfig(url=proxy.url)) as api:
        for name, action in (("a", Lose()), ("b", Cut())):
            with proxy.fault(action, method="POST"), pytest.raises(Broken) as error:
                await api.call("POST", records, body=record(name))
            assert error.value.ambiguous
        assert sum(asked.method == "POST" for asked in proxy.asked) == 2
        assert [item["key"] for item in (await api.call("GET", records))["items"]] == ["other/a"]
        with proxy.fault(Lose(), method="DELETE"), pytest.raises(Broken) as error:
            await api.call("DELETE", f"{records}/a")
        assert error.value.ambiguous
        assert sum(asked.method == "DELETE" for asked in proxy.asked) == 1
        with pytest.raises(NotThere):
            await api.call("GET", f"{records}/a")


async def test_silence_and_what_comes_after_it(kube_namespace: Namespace, proxy: FaultProxy) -> None:
    records = kube_namespace.records
    async with opened(kube_namespace.kubeconfig(url=proxy.url)) as api:
        await api.call("GET", records)
        with proxy.fault(Hold()):
            with pytest.raises(Broken, match="did not answer in time") as error:
                await api.call("POST", records, body=record("a"), seconds=1.0)
            assert error.value.ambiguous
            await in_time(lambda: not proxy.held())  # it has hung up, too
        with pytest.raises(PeerloadError):
            await api.call("GET", f"{records}/a")  # what was given up did not go on
        async with contextlib.aclosing(api.follow(records, silence=1.0)) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            while not proxy.watches():
                await asyncio.sleep(0.005)
            assert proxy.hush() == 1
            with pytest.raises(Broken, match=r"sent nothing on a watch for 1 s"):
                await waiting


@pytest.mark.parametrize("kind", [Gone, Broken])
async def test_a_watch_that_is_told_that_it_is_too_old_or_cut(
    kube_namespace: Namespace, proxy: FaultProxy, kind: type[PeerloadError]
) -> None:
    async with opened(kube_namespace.kubeconfig(url=proxy.url)) as api:
        async with contextlib.aclosing(api.follow(kube_namespace.records)) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            while not proxy.watches():
                await asyncio.sleep(0.005)
            if kind is Gone:
                assert proxy.tell({"type": "ERROR", "object": {"code": 410, "message": "too old"}}) == 1
            else:
                assert proxy.cut(watching=True) == 1
            with pytest.raises(kind):
                await waiting
