"""The doctor on a real Kubernetes: what keeps servers from using it, and that its advice, carried out, mends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from peerload.clock import SystemClock
from peerload.errors import Unavailable
from peerload.finding import Finding, Level, worst
from peerload.kubernetes.place import KubernetesPlace
from peerload.store.base import Beat, Entry
from peerload.store.kubernetes.examination import SAMPLE, examine
from peerload.store.kubernetes.manifests import manifests
from peerload.store.kubernetes.objects import BlobRef, Content, Record, beat_patch, create_body, mark_patch
from peerload.store.kubernetes.store import KubernetesStore
from tests.doctor.examined import examined
from tests.support.kube import ControlPlane, Namespace, program
from tests.support.live import free_port

LIMIT_S = 60


async def found(url: str) -> list[Finding]:
    return [finding async for finding in examine(KubernetesPlace.parse(url), SystemClock())]


def problem(findings: list[Finding]) -> Finding:
    (one,) = [finding for finding in findings if finding.level is Level.PROBLEM]
    assert findings[-1] is one  # nothing after it would be of use
    return one


def about(findings: list[Finding], text: str) -> Finding:
    (one,) = [finding for finding in findings if text in str(finding)]
    return one


def follow(advice: str, plane: ControlPlane) -> None:
    """Do what is advised, as an administrator would: in a shell, with `peerload` and `kubectl` at hand."""
    folders = [str(Path(sys.executable).parent), str(Path(program("kubectl")).parent)]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", advice],
        env={
            **os.environ,
            "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
            "KUBECONFIG": str(plane.kubeconfig()),
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{advice}\n{done.stdout}{done.stderr}"


def test_the_sample_has_all_that_is_written() -> None:
    value = {"model": "a/b", "accelerator": "cuda", "status": "READY", "big": 1 << 70}
    beat = Beat(1, 0.5)
    for blob in (BlobRef(0, ""), BlobRef(2_000, None, "0", 1, "0" * 32)):
        body = create_body("main", Content("source/a/0/w", value, "{}", "w", beat, blob))
        record = Record("n", "source/a/0/w", "u", 1, 1, 1, beat, None, "", "")
        steps = [*beat_patch(record, beat), *mark_patch(record, "m")]
        written = body.keys() | {step["path"].split("/")[1] for step in steps}
        assert written - {"apiVersion", "kind", "metadata"} <= SAMPLE.keys()
        assert body["blob"].keys() <= SAMPLE["blob"].keys()
        assert body["beat"].keys() == SAMPLE["beat"].keys()


def whats(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings]


def test_the_sample_has_every_member_of_the_definition() -> None:
    definition = yaml.safe_load(manifests("crd", namespace="any"))
    (version,) = definition["spec"]["versions"]

    def members(schema: dict[str, Any]) -> Any:
        return {name: members(each) for name, each in schema.get("properties", {}).items()}

    def given(sample: Any, like: dict[str, Any]) -> Any:
        return {name: given(member, like[name]) for name, member in sample.items()} if like else {}

    wanted = members(version["schema"]["openAPIV3Schema"])
    for name in ("apiVersion", "kind", "metadata"):
        del wanted[name]
    assert given(SAMPLE, wanted) == wanted


async def test_a_namespace_that_is_ready(kube_namespace: Namespace) -> None:
    name = kube_namespace.name
    user = f"system:serviceaccount:{name}:peerload"
    token = kube_namespace.plane.folder / f"{name}.token"
    token.write_text(kube_namespace.token())
    url = kube_namespace.store_url(kube_namespace.kubeconfig(token_file=token))
    findings = await found(url)
    assert worst(findings) is Level.OK
    server, rights, known, content, credential = whats(findings)
    assert server.startswith("Kubernetes v")
    assert f"answers at {kube_namespace.plane.url} in " in server
    assert rights == f"{user} may do all that the store needs in namespace {name}"
    assert known == "the cluster knows peerloadrecords.peerload.dev with all that this release keeps there"
    assert content == f"instance 'main' in namespace {name} is empty; the first server makes what it needs"
    assert credential == "the token is good for another 60 minutes, and is asked for again before"
    assert kube_namespace.plane.admin.get(kube_namespace.records)["items"] == []  # it has written nothing


async def test_the_whole_of_the_doctor(kube_namespace: Namespace) -> None:
    url = kube_namespace.store_url()
    store = KubernetesStore(url, SystemClock())
    await store.open()
    await store.put("other/a", {"n": 1}, blob=b"x" * 5_000)
    before = await store.list()
    report = await examined(url)
    assert (report.url, report.reached, report.rehearsed) == (url, True, True)
    assert report.level is not Level.PROBLEM
    assert about([*report.findings], "rounds of put, get, blob, touch, delete and the feed of changes went through")
    assert about(
        [*report.findings], f"in namespace {kube_namespace.name} is in layout 1; the namespace has 2 records in all"
    )
    # Who uses it has noticed nothing, and nothing is left.
    assert (await store.list()).entries == before.entries
    async with contextlib.aclosing(store.watch(before.position)) as feeds:
        assert (await anext(feeds)).changes == ()
    await store.close()
    for path in (kube_namespace.records, f"{kube_namespace.core}/configmaps"):
        labels = [each["metadata"].get("labels", {}) for each in kube_namespace.plane.admin.get(path)["items"]]
        assert not [each for each in labels if each.get("peerload.dev/instance", "main") != "main"]


async def test_whoever_ends_it_leaves_nothing(kube_namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()
    get = KubernetesStore.get

    async def waiting(self: KubernetesStore, key: str) -> Entry | None:
        reached.set()
        await asyncio.sleep(60)
        return await get(self, key)

    def left() -> list[str]:
        admin = kube_namespace.plane.admin
        paths = (kube_namespace.records, f"{kube_namespace.core}/configmaps")
        found = [each["metadata"] for path in paths for each in admin.get(path)["items"]]
        return [each["name"] for each in found if "peerload.dev/instance" in each.get("labels", {})]

    monkeypatch.setattr(KubernetesStore, "get", waiting)
    task = asyncio.create_task(examined(kube_namespace.store_url()))
    await reached.wait()
    assert left()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert left() == []


async def test_a_newer_layout(kube_namespace: Namespace) -> None:
    store = KubernetesStore(kube_namespace.store_url(), SystemClock())
    await store.open()
    await store.close()
    admin = kube_namespace.plane.admin
    (layout,) = admin.get(kube_namespace.records, labelSelector="peerload.dev/type=layout")["items"]
    path = f"{kube_namespace.records}/{layout['metadata']['name']}"
    merge = "application/merge-patch+json"
    admin.ask("PATCH", path, {"value": {"layout": 2}}, content_type=merge)
    report = await examined(kube_namespace.store_url())
    assert not report.rehearsed
    assert "layout 2, which a newer Peerload wrote" in problem([*report.findings]).what
    admin.ask("PATCH", path, {"value": {"layout": 1, "base": "x"}}, content_type=merge)
    assert "cannot be read" in problem(await found(kube_namespace.store_url())).what


async def test_an_administrator_before_anything_was_done(shared_kube: ControlPlane) -> None:
    shared_kube.admin.apply(manifests("crd", namespace="any"))
    name = f"new-{secrets.token_hex(4)}"
    url = f"kubernetes:{name}?kubeconfig={shared_kube.kubeconfig()}"
    one = problem(await found(url))
    assert one.what == f"there is no namespace {name}"
    follow(one.advice, shared_kube)
    findings = await found(url)
    assert worst(findings) is Level.OK
    assert about(findings, "admin may do all")
    assert about(findings, "the credentials do not say that they expire")


async def test_a_namespace_that_is_being_deleted(kube_namespace: Namespace) -> None:
    url = kube_namespace.store_url()
    # Its controller does not run here, so it stays like that.
    kube_namespace.plane.admin.delete(f"/api/v1/namespaces/{kube_namespace.name}")
    one = problem(await found(url))
    assert one.what == f"namespace {kube_namespace.name} is being deleted and takes nothing new"


async def test_an_account_without_the_role(shared_kube: ControlPlane) -> None:
    namespace = shared_kube.fresh_namespace(ready=False)
    shared_kube.admin.apply(manifests("crd", namespace=namespace.name))
    urls: list[str] = []
    for account in ("peerload", "mine"):
        shared_kube.admin.post(f"{namespace.core}/serviceaccounts", {"metadata": {"name": account}})
        url = namespace.store_url(namespace.kubeconfig(token=namespace.token(account)))
        one = problem(await found(url))
        assert one.what == (
            f"system:serviceaccount:{namespace.name}:{account} may not get, list, watch, create, patch or delete"
            f" peerloadrecords.peerload.dev; get, list, create, patch or delete configmaps in namespace {namespace.name}"
        )
        follow(one.advice, shared_kube)
        urls.append(url)
        for each in urls:  # nobody has lost what he had
            assert worst(await found(each)) is not Level.PROBLEM


async def test_an_account_of_another_namespace(kube_namespace: Namespace, shared_kube: ControlPlane) -> None:
    other = shared_kube.fresh_namespace(ready=False)
    shared_kube.admin.post(f"{other.core}/serviceaccounts", {"metadata": {"name": "guest"}})
    url = kube_namespace.store_url(other.kubeconfig(token=other.token("guest")))
    one = problem(await found(url))
    assert f"system:serviceaccount:{other.name}:guest may not" in one.what
    follow(one.advice, shared_kube)
    assert worst(await found(url)) is not Level.PROBLEM


async def test_some_rights_are_missing(kube_namespace: Namespace) -> None:
    admin = kube_namespace.plane.admin
    role = admin.get(kube_namespace.allowed)
    records, chunks, _ = role["rules"]
    records["verbs"].remove("watch")
    admin.ask("PUT", kube_namespace.allowed, {**role, "rules": [records, chunks]})
    one = problem(await found(kube_namespace.store_url()))
    assert f":peerload may not watch peerloadrecords.peerload.dev in namespace {kube_namespace.name}" in one.what
    records["verbs"].append("watch")
    role = admin.get(kube_namespace.allowed)
    admin.ask("PUT", kube_namespace.allowed, {**role, "rules": [records, chunks]})
    findings = await found(kube_namespace.store_url())
    assert about(findings, "records do not go with their Pods").level is Level.WARNING
    assert worst(findings) is Level.WARNING


async def test_a_definition_that_is_missing_or_older(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "kube").running() as plane:
        namespace = plane.fresh_namespace(ready=False)
        namespace.prepare("role")
        one = problem(await found(namespace.store_url()))
        assert one.what == "the cluster does not know peerloadrecords.peerload.dev"
        older = yaml.safe_load(manifests("crd", namespace="any"))
        fields = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        del fields["generation"]
        del fields["blob"]["properties"]["digest"]
        plane.admin.apply(yaml.safe_dump(older))
        one = problem(await found(namespace.store_url()))
        assert "in the cluster is not this release's" in one.what
        assert 'unknown field "blob.digest", unknown field "generation"' in one.what
        follow(one.advice.replace("kubectl apply", "kubectl apply --server-side --force-conflicts"), plane)
        assert worst(await found(namespace.store_url())) is not Level.PROBLEM


async def test_a_token_that_nobody_renews_or_that_is_refused(kube_namespace: Namespace) -> None:
    findings = await found(
        kube_namespace.store_url(kube_namespace.kubeconfig(token=kube_namespace.token(seconds=14_400)))
    )
    credential = about(findings, "nobody renews it")
    assert credential.level is Level.WARNING
    assert credential.what.startswith("the token is good for another 4 hours")
    one = problem(await found(kube_namespace.store_url(kube_namespace.kubeconfig(token="nonsense"))))
    assert "does not accept our credentials" in one.what
    assert "nonsense" not in str(one)


async def test_a_server_whose_certificate_nobody_looks_at(kube_namespace: Namespace, tmp_path: Path) -> None:
    config = yaml.safe_load(kube_namespace.kubeconfig().read_text())
    (cluster,) = config["clusters"]
    cluster["cluster"] = {"server": kube_namespace.plane.url, "insecure-skip-tls-verify": True}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    findings = await found(kube_namespace.store_url(file))
    assert about(findings, "its certificate is not looked at").level is Level.WARNING
    assert worst(findings) is Level.WARNING


async def test_nobody_there(kube_namespace: Namespace) -> None:
    url = kube_namespace.store_url(kube_namespace.kubeconfig(url=f"https://127.0.0.1:{free_port()}"))
    with pytest.raises(Unavailable, match="nobody listens there"):
        await found(url)


async def test_no_configuration(tmp_path: Path) -> None:
    one = problem(await found(f"kubernetes:a?kubeconfig={tmp_path}/none"))
    assert f"{tmp_path}/none" in one.what
    assert "KUBECONFIG" in one.advice
