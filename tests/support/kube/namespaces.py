"""A test's own namespace, and Peerload's service account in it."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peerload.store.kubernetes.manifests import ACCOUNT, manifests
from tests.support.kube.certificates import ISSUER
from tests.support.kube.kubeconfig import write_kubeconfig
from tests.support.live import eventually

if TYPE_CHECKING:
    from tests.support.kube.plane import ControlPlane

__all__ = ["Namespace"]


class Namespace:
    """A namespace of a control plane. It stays until that is closed: without its controller none is ever quite deleted."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane = plane
        self.name = name

    def create(self, *, ready: bool = True) -> None:
        """Create it; with what Peerload needs in it, unless `ready` is false."""
        self.plane.admin.post("/api/v1/namespaces", {"metadata": {"name": self.name}})
        if ready:
            self.prepare()

    def prepare(self, part: str = "all") -> None:
        """What an administrator does: apply what the package prints. Returns once the API server goes by it."""
        self.plane.admin.apply(manifests(part, namespace=self.name))
        if part != "crd":
            eventually(lambda: self.may("list", "peerload.dev", "peerloadrecords"), what="the rights")

    def may(self, verb: str, group: str, resource: str, account: str = ACCOUNT) -> bool:
        """Whether a service account may do this here."""
        attributes = {"namespace": self.name, "verb": verb, "group": group, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": f"system:serviceaccount:{self.name}:{account}", "resourceAttributes": attributes},
        }
        answer = self.plane.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    @property
    def core(self) -> str:
        """The path of Kubernetes' own objects here: `/configmaps`, `/pods`, … below it."""
        return f"/api/v1/namespaces/{self.name}"

    @property
    def records(self) -> str:
        """The path of Peerload's records here."""
        return f"/apis/peerload.dev/v1/namespaces/{self.name}/peerloadrecords"

    @property
    def allowed(self) -> str:
        """The path of the Role, for tests that change what may be done."""
        return f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.name}/roles/peerload"

    def token(self, account: str = ACCOUNT, *, seconds: int = 3600) -> str:
        """A token of a service account, as the API server hands them out (600 seconds at least)."""
        request: dict[str, Any] = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        answer = self.plane.admin.post(f"{self.core}/serviceaccounts/{account}/token", request)
        return str(answer["status"]["token"])

    def forged_token(self, seconds: float, account: str = ACCOUNT) -> str:
        """A token that is good for so long, which may be less than the API server hands out, or already over."""
        known = self.plane.admin.get(f"{self.core}/serviceaccounts/{account}")["metadata"]
        now = int(time.time())
        return self.plane.certificates.token(
            {
                "iss": ISSUER,
                "aud": [ISSUER],
                "sub": f"system:serviceaccount:{self.name}:{account}",
                "iat": now - 3600,
                "nbf": now - 3600,
                "exp": int(now + seconds),
                "kubernetes.io": {
                    "namespace": self.name,
                    "serviceaccount": {"name": account, "uid": known["uid"]},
                },
            }
        )

    def kubeconfig(self, *, url: str = "", token: str = "", token_file: Path | None = None) -> Path:
        """A file with which one comes as the service account; by way of `url` if that is given."""
        user = {"tokenFile": str(token_file)} if token_file else {"token": token or self.token()}
        return write_kubeconfig(
            self.plane.folder / f"{self.name}-{secrets.token_hex(4)}.kubeconfig",
            url or self.plane.url,
            self.plane.certificates.authority,
            user,
            self.name,
        )

    def store_url(self, kubeconfig: Path | None = None, *, instance: str = "") -> str:
        """What `--store` is told."""
        more = f"&instance={instance}" if instance else ""
        return f"kubernetes:{self.name}?kubeconfig={kubeconfig or self.kubeconfig()}{more}"

    def pod(self, name: str = "worker") -> Any:
        """A Pod that no node will ever run; its object."""
        spec = {"containers": [{"name": "main", "image": "none"}], "automountServiceAccountToken": False}
        return self.plane.admin.post(f"{self.core}/pods", {"metadata": {"name": name}, "spec": spec})
