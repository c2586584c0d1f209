"""All that the store does in a cluster, and what of it we may not.

The API server tells everybody what they may do themselves (SelfSubjectAccessReview); nothing is tried.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from shlex import quote
from typing import Final

from peerload.finding import Finding, Level
from peerload.kubernetes.api import KubeApi
from peerload.kubernetes.trouble import Forbidden, NotInstalled
from peerload.store.kubernetes.manifests import ACCOUNT, RIGHTS
from peerload.store.kubernetes.several import each

__all__ = ["ask_rights"]

_ACCOUNT: Final = "system:serviceaccount:"
"""What the user name of a service account begins with, before its namespace and name."""
_WITHOUT_PODS: Final = ("", "pods")
"""What the store can do without."""
_AT_ONCE: Final = 6


async def ask_rights(api: KubeApi) -> list[Finding]:
    """Whether we may do all that is needed, and what we may not."""
    user = await _user(api)
    namespace, name = api.namespace, user or "this user"
    wanted = [(group, resource, verb) for (group, resource), verbs in RIGHTS.items() for verb in verbs]
    try:
        allowed = await each((_may(api, *right) for right in wanted), _AT_ONCE)
    except Forbidden as error:
        return [
            Finding(Level.WARNING, f"what {name} may do cannot be asked: {error}", "see what the rehearsal comes to")
        ]
    missing: dict[tuple[str, str], list[str]] = {}
    for (group, resource, verb), may in zip(wanted, allowed, strict=True):
        if not may:
            missing.setdefault((group, resource), []).append(verb)
    without_pods = missing.pop(_WITHOUT_PODS, None)
    findings = []
    if missing:
        what = "; ".join(f"{_list(verbs)} {_resource(*where)}" for where, verbs in missing.items())
        findings.append(
            Finding(Level.PROBLEM, f"{name} may not {what} in namespace {namespace}", _give(namespace, user))
        )
    elif without_pods:
        findings.append(
            Finding(
                Level.WARNING,
                f"{name} may not get pods in namespace {namespace}, and records do not go with their Pods",
                _give(namespace, user),
            )
        )
    return findings or [Finding(Level.OK, f"{name} may do all that the store needs in namespace {namespace}")]


async def _user(api: KubeApi) -> str:
    """As whom the API server knows us; empty where it does not tell."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = await api.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=body)
    except (Forbidden, NotInstalled):  # the second: before Kubernetes 1.28
        return ""
    return str(answer.get("status", {}).get("userInfo", {}).get("username", ""))


async def _may(api: KubeApi, group: str, resource: str, verb: str) -> bool:
    attributes = {"namespace": api.namespace, "verb": verb, "group": group, "resource": resource}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
    return answer.get("status", {}).get("allowed") is True


def _give(namespace: str, user: str) -> str:
    """The commands that give somebody the rights."""
    where = f"peerload kubernetes manifests --part role --namespace {namespace}"
    home, colon, account = user.removeprefix(_ACCOUNT).partition(":")
    if user.startswith(_ACCOUNT) and colon and home == namespace:
        return f"{where}{'' if account == ACCOUNT else f' --service-account {quote(account)}'} | kubectl apply -f -"
    whom = quote(f"--serviceaccount={home}:{account}" if user.startswith(_ACCOUNT) else f"--user={user or 'NAME'}")
    return (
        f"{where} | kubectl apply -f - && kubectl create rolebinding peerload-{secrets.token_hex(2)} --role=peerload"
        f" {whom} --namespace {namespace}"
    )


def _resource(group: str, resource: str) -> str:
    return f"{resource}.{group}" if group else resource


def _list(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
