"""What about a cluster would keep servers from using it: the way there, who we are, what we may do, what it knows.

Nothing is written: a record that is like none of ours and has all members is sent as a dry run, which goes through
everything but the last step.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import secrets
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from peerload.clock import Clock
from peerload.errors import Damaged, InvalidArgument
from peerload.finding import Finding, Level, worst
from peerload.kubernetes.access import Access, Login
from peerload.kubernetes.api import KubeApi
from peerload.kubernetes.configuration import SERVICE_ACCOUNT, Found, find
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import Forbidden, NoNamespace, NotInstalled, Refused, Terminating, Unauthorized
from peerload.store.kubernetes.layout import NewerLayout, read_layout
from peerload.store.kubernetes.names import API_VERSION, GROUP, PLURAL, Type, layout_name
from peerload.store.kubernetes.objects import body_of
from peerload.store.kubernetes.resources import Resources
from peerload.store.kubernetes.rights import ask_rights

__all__ = ["SAMPLE", "examine"]

_KIND: Final = f"{PLURAL}.{GROUP}"
_ONLY_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

SAMPLE: Final[Mapping[str, Any]] = {
    "key": "doctor/sample",
    "value": {"text": "", "number": 1.5, "truth": True, "nothing": None},
    "exact": "{}",
    "model": "org/name",
    "rank": 0,
    "status": "READY",
    "accelerator": "cuda",
    "beat": {"stamp": 0, "load": 0.5, "time": "1970-01-01T00:00:00Z"},
    "beats": "1=0,0.5 2=0",
    "blob": {"size": 0, "inline": "", "chunks": 1, "token": "0", "digest": "0" * 32},
    "revision": "1",
    "generation": "1",
    "mark": "0",
    "write": "0",
}
"""Every member that a record may have."""


async def examine(
    place: KubernetesPlace,
    clock: Clock,
    *,
    environment: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
) -> AsyncGenerator[Finding, None]:
    """Look at everything. Raises `Unavailable` where nobody can be asked."""
    access = Access(place, clock, environment=environment, service_account=service_account)
    api = KubeApi(place, clock, access=access)
    try:
        await api.open()
        login = await access.login()
        async with contextlib.aclosing(_facts(api, place, clock, login)) as facts:
            found: list[Finding] = []
            async for finding in facts:
                found.append(finding)
                yield finding
        if worst(found) is not Level.PROBLEM and login.authorization:
            yield _credential(await find(place, environment, service_account), clock)
    except InvalidArgument as error:
        yield Finding(
            Level.PROBLEM,
            str(error).removeprefix(f"{error.field}: "),
            "name a kubeconfig with kubernetes:NAMESPACE?kubeconfig=PATH or KUBECONFIG, or run it in a Pod whose service"
            " account's token is mounted",
        )
    except Unauthorized as error:
        yield Finding(
            Level.PROBLEM,
            str(error),
            "in a Pod, see that its service account exists and that its token is mounted (automountServiceAccountToken);"
            " elsewhere, see what the kubeconfig holds (kubectl auth whoami)",
        )
    except Refused as error:
        yield Finding(Level.PROBLEM, str(error), "see docs/kubernetes.md")
    finally:
        await api.close()


async def _facts(api: KubeApi, place: KubernetesPlace, clock: Clock, login: Login) -> AsyncGenerator[Finding, None]:
    yield await _server(api, clock, login)
    if login.tls is None or login.tls.verify_mode is ssl.CERT_NONE:
        yield Finding(
            Level.WARNING,
            "whoever is between here and the API server can read and change everything: "
            + ("there is no TLS" if login.tls is None else "its certificate is not looked at"),
            "use https://"
            if login.tls is None
            else "name its certificate-authority instead of insecure-skip-tls-verify",
        )
    rights = await ask_rights(api)
    for finding in rights:
        yield finding
    if worst(rights) is Level.PROBLEM:
        return
    trial = await _trial(api, place)
    yield trial
    if trial.level is not Level.PROBLEM:
        yield await _content(api, place)


async def _server(api: KubeApi, clock: Clock, login: Login) -> Finding:
    """Who answers, and how fast: of two requests the second, which finds a connection."""
    version = ""
    for _ in range(2):
        start = clock.monotonic()
        try:
            version = str((await api.call("GET", "/version")).get("gitVersion", ""))
        except Forbidden:
            pass  # it is for everybody, unless a careful administrator says otherwise
        took = 1_000 * (clock.monotonic() - start)
    return Finding(
        Level.OK,
        " ".join(["Kubernetes", *([version] if version else []), f"answers at {login.server} in {took:.1f} ms"]),
    )


async def _trial(api: KubeApi, place: KubernetesPlace) -> Finding:
    """What the API server would say to a record with everything in it."""
    body = body_of(place.instance, f"doctor-{secrets.token_hex(8)}", Type.OTHER, SAMPLE)
    install = "peerload kubernetes manifests --part crd | kubectl apply -f -"
    asked = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        # For two seconds after a kind was defined the API server holds up what is created of it.
        await api.call("POST", _path(api), query=asked, body=body, seconds=10.0)
    except NotInstalled:
        return Finding(Level.PROBLEM, f"the cluster does not know {_KIND}", install)
    except NoNamespace:
        return Finding(
            Level.PROBLEM, f"there is no namespace {api.namespace}", f"kubectl create namespace {api.namespace}"
        )
    except Terminating:
        return Finding(
            Level.PROBLEM,
            f"namespace {api.namespace} is being deleted and takes nothing new",
            "name another one, or create it again when it is gone",
        )
    except Forbidden as error:
        # RBAC has been asked: this is a quota, or somebody's webhook.
        return Finding(
            Level.PROBLEM,
            str(error),
            "see the quotas of the namespace (kubectl get resourcequotas), and its admission webhooks",
        )
    except Unauthorized:
        raise
    except Refused as error:
        return Finding(
            Level.PROBLEM, f"the definition of {_KIND} in the cluster is not this release's: {error}", install
        )
    return Finding(Level.OK, f"the cluster knows {_KIND} with all that this release keeps there")


async def _content(api: KubeApi, place: KubernetesPlace) -> Finding:
    where = f"instance {place.instance!r} in namespace {api.namespace}"
    held = await Resources(api, place.instance).get(layout_name(place.instance))
    if held is None:
        return Finding(Level.OK, f"{where} is empty; the first server makes what it needs")
    try:
        read_layout(held)
    except NewerLayout as error:
        return Finding(
            Level.PROBLEM, str(error), "upgrade Peerload, or give it another instance (?instance=NAME in the URL)"
        )
    except Damaged as error:
        return Finding(
            Level.PROBLEM, str(error), "see who has written it (kubectl get plr -o yaml --show-managed-fields)"
        )
    # Without a selector, so that the API server says how many there are after the first.
    page = await api.call("GET", _path(api), query={"limit": "1"}, accept=_ONLY_METADATA)
    count = len(page.get("items") or ()) + int(page.get("metadata", {}).get("remainingItemCount") or 0)
    records = f"{count:,} {'record' if count == 1 else 'records'}"
    return Finding(Level.OK, f"{where} is in layout {held['value']['layout']}; the namespace has {records} in all")


def _path(api: KubeApi) -> str:
    return f"/apis/{API_VERSION}/namespaces/{api.namespace}/{PLURAL}"


def _credential(found: Found, clock: Clock) -> Finding:
    """How long what we come with will be taken, and who renews it."""
    token = found.authorization.removeprefix("Bearer ")
    until = found.expires_ms if found.expires_ms is not None else _expiry_ms(token)
    if until is None:
        return Finding(Level.OK, "the credentials do not say that they expire")
    left = (until - clock.wall_ms()) / 1_000
    what = f"the token is good for another {_span(left)}"
    if found.expires_ms is not None or _in_a_file(token, found.files):
        return Finding(Level.OK, f"{what}, and is asked for again before")
    return Finding(
        Level.WARNING,
        f"{what}, and nobody renews it: then no server can read or write",
        "use a tokenFile or a credential plugin in the kubeconfig, or the service account of the Pod",
    )


def _expiry_ms(token: str) -> float | None:
    """When a token expires by what is written in it; None where nothing is."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    until = claims.get("exp") if isinstance(claims, dict) else None
    return 1_000.0 * until if isinstance(until, (int, float)) else None


def _in_a_file(token: str, files: Iterable[Path]) -> bool:
    """Whether a file has the token and nothing else: whoever writes that file renews it."""
    for file in files:
        try:
            if file.read_text().strip() == token:
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} seconds"
