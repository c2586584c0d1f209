"""Service accounts' tokens of a real API server, at servers with the rights that the package ships."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from peerload.clock import SystemClock
from peerload.server.security.reviews import Reviewed, TokenReviews
from peerload.store.kubernetes.manifests import manifests
from tests.security.entries import TOKENS, write_access
from tests.support.kube import ControlPlane, Namespace
from tests.support.live import LiveServer, Rpc, code_of, eventually, publication
from tests.support.server import sqlite_url
from tests.support.stock import import_stock

AUDIENCE = "modelexpress"
Code = grpc.StatusCode


def account(namespace: Namespace, name: str) -> str:
    """A new service account; its name."""
    namespace.plane.admin.post(f"{namespace.core}/serviceaccounts", {"metadata": {"name": name}})
    return name


def token(namespace: Namespace, name: str, *audiences: str, seconds: int = 600) -> str:
    """A token as a Pod's projected volume has it."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": list(audiences), "expirationSeconds": seconds},
    }
    answer = namespace.plane.admin.post(f"{namespace.core}/serviceaccounts/{name}/token", body)
    return str(answer["status"]["token"])


def reviewing(namespace: Namespace) -> None:
    """What an administrator applies for servers that authenticate by service accounts."""
    namespace.plane.admin.apply(manifests("reviewer", namespace=namespace.name))
    attributes = {"verb": "create", "group": "authentication.k8s.io", "resource": "tokenreviews"}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{namespace.name}:peerload", "resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    eventually(lambda: namespace.plane.admin.post(path, review)["status"]["allowed"], what="the right to review")


def enforcing(namespace: Namespace, **more: str) -> dict[str, str]:
    """The environment of a server as existing deployments have it."""
    return {
        "MODEL_EXPRESS_SECURITY_MODE": "enforce",
        "MODEL_EXPRESS_SECURITY_TOKEN_AUDIENCES": AUDIENCE,
        "MODEL_EXPRESS_SECURITY_ALLOWED_SERVICE_ACCOUNTS": f"{namespace.name}/worker",
        **more,
    }


def bearing(secret: str) -> Any:
    return (("authorization", f"Bearer {secret}"),)


def asked(rpc: Rpc, secret: str | None) -> tuple[grpc.StatusCode, str]:
    """What becomes of a list that comes with this token."""
    try:
        rpc.list(b"", metadata=None if secret is None else bearing(secret))
    except grpc.RpcError as error:
        return code_of(error), str(error.details())  # type: ignore[attr-defined]
    return Code.OK, ""


@pytest.fixture(scope="module")
def namespace(shared_kube: ControlPlane) -> Namespace:
    """One whose servers may have tokens reviewed, with a worker's account and a stranger's."""
    made = shared_kube.fresh_namespace()
    reviewing(made)
    account(made, "worker")
    account(made, "stranger")
    return made


@pytest.fixture(scope="module")
def server(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    access = write_access(tmp_path_factory.mktemp("access") / "access.toml")
    environment = enforcing(namespace, PEERLOAD_ACCESS=str(access))
    with LiveServer(namespace.store_url(), environment=environment) as live:
        yield live.start()


def test_whom_it_lets_in(namespace: Namespace, server: LiveServer) -> None:
    good = token(namespace, "worker", AUDIENCE, "another")
    with Rpc(server.address) as rpc:
        assert asked(rpc, good) == (Code.OK, "")
        found, said = asked(rpc, None)
        assert found is Code.UNAUTHENTICATED
        assert "a token of a Kubernetes service account for the audience modelexpress" in said
        for bad in (
            "made-up",
            good[:-8] + "AAAAAAAA",
            token(namespace, "worker", "another"),
            token(namespace, "worker"),
            namespace.forged_token(-60, "worker"),
        ):
            assert asked(rpc, bad)[0] is Code.UNAUTHENTICATED
        found, said = asked(rpc, token(namespace, "stranger", AUDIENCE))
        assert found is Code.PERMISSION_DENIED
        assert f"service account {namespace.name}/stranger is not among those that may call" in said
        # Static tokens and service accounts at once.
        assert asked(rpc, TOKENS["reader"]) == (Code.OK, "")
        assert rpc.healthy()


def test_what_it_published_is_its_own(namespace: Namespace, server: LiveServer) -> None:
    """The same rules as anywhere, and the record in Kubernetes says whose it is."""
    good = bearing(token(namespace, "worker", AUDIENCE))
    with Rpc(server.address) as rpc:
        published = rpc.publish(publication(worker_id="mine"), metadata=good)
        assert published.success
        records = namespace.plane.admin.get(namespace.records)["items"]
        (value,) = [record["value"] for record in records if record["key"].endswith("/mine")]
        assert value["owner"] == f"system:serviceaccount:{namespace.name}:worker"
        for refused in (
            lambda: rpc.publish(publication(worker_id="mine"), metadata=bearing(TOKENS["alice"])),
            lambda: rpc.withdraw(published.mx_source_id, "mine", metadata=bearing(TOKENS["alice"])),
        ):
            with pytest.raises(grpc.RpcError) as error:
                refused()
            assert code_of(error.value) is Code.PERMISSION_DENIED
        assert rpc.publish(publication(worker_id="mine", tensors=2), metadata=good).success
        assert rpc.withdraw(published.mx_source_id, "mine", metadata=good)


def test_the_stock_client_in_its_enforce_mode(
    namespace: Namespace, server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("MX_AUTH_TOKEN_PATH", str(path))
    monkeypatch.setenv("MX_AUTH_TOKEN_TTL_SECONDS", "0")
    # One for the whole process, made when it is first wanted.
    monkeypatch.setattr(import_stock("auth"), "_SHARED_PROVIDER", None)
    p2p = import_stock("p2p_pb2")
    client = import_stock("client").MxClient(server_url=f"http://{server.address}")
    identity = p2p.SourceIdentity(mx_version="0.7.0", model_name="org/stock", dtype="bfloat16")
    worker = p2p.WorkerMetadata(status=p2p.SOURCE_STATUS_READY, metadata_endpoint="127.0.0.1:1", agent_name="a")
    try:
        with pytest.raises(grpc.RpcError) as refused:
            client.list_sources()
        assert code_of(refused.value) is Code.UNAUTHENTICATED
        path.write_text(token(namespace, "worker", AUDIENCE) + "\n")
        source_id = client.publish_metadata(identity, worker, "stock-1")
        assert client.update_status(source_id, "stock-1", 0, p2p.SOURCE_STATUS_READY)
        (ref,) = client.list_sources(identity, p2p.SOURCE_STATUS_READY).instances
        assert client.get_metadata(ref.mx_source_id, ref.worker_id).found
        # A rotated token is read again; this one is somebody else's.
        path.with_suffix(".new").write_text(token(namespace, "stranger", AUDIENCE))
        path.with_suffix(".new").replace(path)
        with pytest.raises(grpc.RpcError) as refused:
            client.list_sources()
        assert code_of(refused.value) is Code.PERMISSION_DENIED
    finally:
        client.close()


async def test_what_the_api_server_says(namespace: Namespace) -> None:
    reviews = TokenReviews(namespace.store_url(), SystemClock())
    await reviews.open()
    try:
        user = f"system:serviceaccount:{namespace.name}:worker"
        good = token(namespace, "worker", AUDIENCE)
        assert await reviews.review(good, ("x", AUDIENCE)) == Reviewed(user, (AUDIENCE,))
        for bad in (good + "x", "x", token(namespace, "worker", "y")):
            assert await reviews.review(bad, (AUDIENCE,)) == Reviewed("", ())
    finally:
        await reviews.close()


def test_whatever_the_store_is(namespace: Namespace, tmp_path: Path) -> None:
    """The API server is found as for a store there; and an account may be written as Kubernetes writes its users."""
    environment = enforcing(
        namespace,
        MODEL_EXPRESS_SECURITY_ALLOWED_SERVICE_ACCOUNTS=f"system:serviceaccount:{namespace.name}:worker",
        MODEL_EXPRESS_SECURITY_CACHE_TTL_SECS="0",
        KUBECONFIG=str(namespace.kubeconfig()),
    )
    with LiveServer(sqlite_url(tmp_path), environment=environment) as live, Rpc(live.start().address) as rpc:
        assert asked(rpc, token(namespace, "worker", AUDIENCE))[0] is Code.OK
        assert asked(rpc, token(namespace, "stranger", AUDIENCE))[0] is Code.PERMISSION_DENIED


def test_without_the_right_to_review_nobody_is_let_in_and_the_log_says_why(
    shared_kube: ControlPlane, tmp_path: Path
) -> None:
    """An outage of the reviewer is UNAVAILABLE, and over when it is."""
    namespace = shared_kube.fresh_namespace()
    account(namespace, "worker")
    secret = token(namespace, "worker", AUDIENCE)
    environment = enforcing(namespace, PEERLOAD_LOG_FORMAT="json")
    with LiveServer(namespace.store_url(), environment=environment) as live, Rpc(live.start().address) as rpc:
        found, said = asked(rpc, secret)
        assert (found, said) == (
            Code.UNAVAILABLE,
            "tokens of service accounts cannot be reviewed at the moment; try again",
        )
        (line,) = [json.loads(line) for line in live.log().splitlines() if "cannot be reviewed" in line]
        assert f"peerload kubernetes manifests --part reviewer --namespace {namespace.name} | kubectl" in line["error"]
        assert secret not in live.log()
        reviewing(namespace)
        eventually(lambda: asked(rpc, secret)[0] is Code.OK, what="the worker to be let in")
