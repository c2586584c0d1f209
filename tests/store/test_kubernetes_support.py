"""The tests' own Kubernetes is what they take it for: real, with RBAC, and with failures that come when they are told to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kube import (
    Admin,
    Answer,
    ControlPlane,
    Cut,
    FaultProxy,
    Hold,
    KubeRefused,
    Lose,
    Namespace,
)
from tests.support.live import eventually


def client(namespace: Namespace, port: int | None = None, *, token: str = "") -> Admin:
    """One who comes as Peerload's service account."""
    plane = namespace.plane
    return Admin(port or plane.port, plane.certificates.authority, token or namespace.token())


def record(name: str) -> dict[str, object]:
    return {
        "apiVersion": "peerload.dev/v1",
        "kind": "PeerloadRecord",
        "metadata": {"name": name},
        "key": f"other/{name}",
        "value": {},
    }


@pytest.fixture
def proxy(shared_kube: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(shared_kube) as running:
        yield running


def test_an_account_may_do_what_the_role_says_and_nothing_else(kube_namespace: Namespace) -> None:
    one = client(kube_namespace)
    one.post(kube_namespace.records, record("a"))
    assert [item["key"] for item in one.get(kube_namespace.records)["items"]] == ["other/a"]
    for path in ("/api/v1/nodes", f"{kube_namespace.core}/secrets", "/apis/peerload.dev/v1/peerloadrecords"):
        with pytest.raises(KubeRefused, match="Forbidden"):
            one.get(path)


def test_a_token_that_has_run_out_is_refused(kube_namespace: Namespace) -> None:
    good, late = (kube_namespace.forged_token(seconds) for seconds in (60, -60))
    assert client(kube_namespace, token=good).get(kube_namespace.records)["items"] == []
    with pytest.raises(KubeRefused, match="401"):
        client(kube_namespace, token=late).get(kube_namespace.records)


def test_a_client_certificate_names_a_user(shared_kube: ControlPlane) -> None:
    certificate, key = shared_kube.certificates.client("operator", "system:masters")
    one = Admin(shared_kube.port, shared_kube.certificates.authority, "")
    one.present(certificate, key)
    assert one.get("/api/v1/namespaces")["items"]


def test_the_proxy_fails_what_it_is_told_to(kube_namespace: Namespace, proxy: FaultProxy) -> None:
    one = client(kube_namespace, proxy.port)
    with proxy.fault(Answer(429, "TooManyRequests", retry_after=1), method="POST", times=1) as rule:
        assert one.get(kube_namespace.records)["items"] == []
        with pytest.raises(KubeRefused, match="TooManyRequests"):
            one.post(kube_namespace.records, record("a"))
        one.post(kube_namespace.records, record("a"))
    assert rule.met == 1
    with proxy.fault(Cut(), method="POST"), pytest.raises(OSError):
        one.post(kube_namespace.records, record("b"))
    with proxy.fault(Lose(), method="POST"), pytest.raises(OSError):
        one.post(kube_namespace.records, record("c"))
    assert {item["key"] for item in one.get(kube_namespace.records)["items"]} == {"other/a", "other/c"}
    with proxy.fault(Hold(), method="POST") as rule:
        with pytest.raises(TimeoutError):
            one.ask("POST", kube_namespace.records, record("d"), timeout=1.0)
        eventually(lambda: rule.met and not proxy.held(), what="the request, and its client's hanging up, to be seen")
    with pytest.raises(KubeRefused, match="NotFound"):
        one.get(f"{kube_namespace.records}/d")


def test_watches_are_told_what_the_test_wants_and_then_nothing(kube_namespace: Namespace, proxy: FaultProxy) -> None:
    one = client(kube_namespace, proxy.port)
    with one.stream(f"{kube_namespace.records}?watch=1") as lines:
        one.post(kube_namespace.records, record("a"))
        assert next(lines)["object"]["key"] == "other/a"
        assert proxy.tell({"type": "ERROR", "object": {"code": 410}}) == 1
        assert next(lines) == {"type": "ERROR", "object": {"code": 410}}
        assert proxy.hush() == 1
        one.post(kube_namespace.records, record("b"))
        lines.settimeout(0.2)
        with pytest.raises(TimeoutError):
            next(lines)
        assert proxy.cut(watching=True) == 1


def test_a_watch_from_before_all_that_is_kept_is_refused(kube_namespace: Namespace) -> None:
    with client(kube_namespace).stream(f"{kube_namespace.records}?watch=1&resourceVersion=1") as lines:
        assert next(lines)["object"]["code"] == 410
