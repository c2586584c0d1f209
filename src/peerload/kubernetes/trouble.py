"""What a Kubernetes API server can answer instead of doing what was asked, and what that means for the caller.

Nothing here quotes a request, so no credential gets into a message.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

from peerload.errors import Compacted, InvalidArgument, NotFound, PeerloadError, StoreError, Unavailable
from peerload.wire.splice import submessage

__all__ = [
    "ENCODED",
    "Behind",
    "Broken",
    "Distrusted",
    "Exists",
    "Failing",
    "Forbidden",
    "Gone",
    "Moved",
    "NoNamespace",
    "NotInstalled",
    "NotThere",
    "Outage",
    "Overloaded",
    "Refused",
    "Terminating",
    "Unauthorized",
    "connection_words",
    "read_object",
    "refusal",
    "retry_after",
]

ENCODED: Final = b"k8s\0"
"""What an answer in Kubernetes' own encoding begins with."""
_QUOTED: Final = 300
_MOST_SECONDS: Final = 10**9
_MANIFESTS: Final = "peerload kubernetes manifests | kubectl apply -f -"


class Outage(Unavailable):
    """The API server did not do what was asked, or did not say so. `ambiguous`: it may have been done."""

    def __init__(self, message: str, *, ambiguous: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.ambiguous = ambiguous
        self.retry_after = retry_after
        """Seconds after which the API server wants to be asked again; None where it did not say."""


class Broken(Outage):
    """There was no connection, it broke, or no answer came in time."""


class Distrusted(Broken):
    """What answers there has not shown that it is the API server."""


class Failing(Outage):
    """The API server, or what it stands on, is in trouble."""


class Overloaded(Failing):
    """It does less than it is asked for. Nothing was done."""


class Behind(Failing):
    """It has not come as far as the resourceVersion that was asked for."""


class Refused(Outage):
    """The API server was reached and said no: nothing was done, and asking again would not help."""


class Unauthorized(Refused):
    """It does not know who we are."""


class Forbidden(Refused):
    """We may not do that."""


class Terminating(Refused):
    """The namespace is being deleted and takes nothing new."""


class NoNamespace(Refused):
    """There is no such namespace."""


class NotInstalled(Refused):
    """The kind of the objects is not known."""


class NotThere(NotFound):
    """There is no such object."""


class Exists(StoreError):
    """There already is an object of that name; nothing was done."""


class Moved(StoreError):
    """The object is not at the resourceVersion or of the uid that was given; nothing was done."""


class Gone(Compacted):
    """The API server no longer knows what was at that resourceVersion, or the page of a list has expired."""


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that is the body of an answer; an empty one where there is none. Of an encoded Status, which is what
    refuses to answer in that encoding, what it says."""
    if body.startswith(ENCODED):
        return _read_status(body[len(ENCODED) :])
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # plain text: of a path that it does not know, or of a proxy
        return {}
    return found if isinstance(found, dict) else {}


def _read_status(body: bytes) -> dict[str, Any]:
    """A Status (k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto) as if it were JSON."""

    def text(message: bytes, field: int) -> str:
        return (submessage(message, field) or b"").decode(errors="replace")

    try:
        raw = submessage(body, 2) or b""
        details = submessage(raw, 5) or b""
        named = {"name": text(details, 1), "group": text(details, 2), "kind": text(details, 3)}
        return {"message": text(raw, 3), "reason": text(raw, 4), "details": named}
    except InvalidArgument:
        return {}


def retry_after(headers: Mapping[str, str], status: Mapping[str, Any]) -> float | None:
    """Seconds, as the header or the Status says; None where neither does."""
    text = headers.get("Retry-After", "")
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    seconds = _details(status).get("retryAfterSeconds")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 < seconds < _MOST_SECONDS:
        return None
    return float(seconds)


def refusal(
    server: str, code: object, status: Mapping[str, Any], *, after: float | None = None, writes: bool = True
) -> PeerloadError:
    """The exception for an answer with HTTP status `code`. `writes`: the request would have changed something."""
    if not isinstance(code, int):
        code = 500
    name = f"the Kubernetes API server at {server}"
    reason = status.get("reason")
    causes = _causes(status)
    words = _words(status)
    said = f": {words}" if words else ""
    match code:
        case 401:
            return Unauthorized(
                f"{name} does not accept our credentials: the token or client certificate is missing, expired or of"
                " another cluster"
            )
        case 403 if "NamespaceTerminating" in causes:
            return Terminating(
                f"namespace {_namespace(words)} is being deleted and takes nothing new: use another one, or create it"
                " again when it is gone"
            )
        case 403:
            return Forbidden(_forbidden(name, words))
        case 404 if reason == "NotFound" and _details(status).get("kind") == "namespaces":
            return NoNamespace(
                f"{name} has no namespace {_details(status).get('name')}: kubectl create namespace"
                f" {_details(status).get('name')}"
            )
        case 404 if reason == "NotFound" and _details(status).get("name"):
            return NotThere(f"{name} has no {_details(status).get('kind')} {_details(status).get('name')!r}")
        case 404:
            return NotInstalled(f"{name} does not know Peerload's resources (the CRD is not installed): {_MANIFESTS}")
        case 409 if reason == "AlreadyExists":
            return Exists(f"{name} already has it{said}")
        case 409:
            return Moved(f"{name} has it changed since{said}")
        case 410:
            return Gone(f"{name} no longer reaches back that far{said}")
        case 429:
            return Overloaded(f"{name} is overloaded and turns requests away (429){said}", retry_after=after)
        case 503:
            return Failing(f"{name} is not able to serve now (503){said}", ambiguous=writes, retry_after=after)
        case 504 if "ResourceVersionTooLarge" in causes:
            return Behind(f"{name} has not come that far yet{said}", retry_after=after)
        case _ if code >= 500:
            return Failing(f"{name} failed ({code}){said}", ambiguous=writes, retry_after=after)
        case _:
            return Refused(f"{name} refuses the request ({code}){said}")


def _details(status: Mapping[str, Any]) -> dict[str, Any]:
    details = status.get("details")
    return details if isinstance(details, dict) else {}


def _causes(status: Mapping[str, Any]) -> list[object]:
    causes = _details(status).get("causes")
    return [cause.get("reason") for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []


def _words(status: Mapping[str, Any]) -> str:
    message = status.get("message")
    text = " ".join(message.split()) if isinstance(message, str) else ""
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "…"


_NAMESPACE: Final = re.compile(r"in namespace (\S+) because")
_RBAC: Final = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)")?'
)
_ACCOUNT: Final = re.compile(r"system:serviceaccount:([^:]+):[^:]+")


def _namespace(words: str) -> str:
    found = _NAMESPACE.search(words)
    return found[1] if found else "(see kubectl get namespaces)"


def _forbidden(name: str, words: str) -> str:
    found = _RBAC.search(words)
    if found is None:
        return f"{name} does not allow it: {words}"
    user, namespace = found["user"], found["namespace"]
    part = ""
    if found["resource"] == "tokenreviews" and (whose := _ACCOUNT.fullmatch(user)) is not None:
        namespace, part = whose[1], " --part reviewer"
    resource = f"{found['resource']}.{found['group']}" if found["group"] else found["resource"]
    options = f" --namespace {namespace}" if namespace else ""
    where = f" in namespace {namespace}" if namespace else ""
    account = user.removeprefix(f"system:serviceaccount:{namespace}:")
    if account not in (user, "peerload"):
        options += f" --service-account {account}"
    return (
        f"{name} does not allow {user} to {found['verb']} {resource}{where}:"
        f" peerload kubernetes manifests{part}{options} | kubectl apply -f -"
    )


_CERTIFICATE: Final = {
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired",
    62: "its certificate is for another name than the one we connect to",
    64: "its certificate is for another address than the one we connect to",
}
_UNTRUSTED: Final = "its certificate is not signed by an authority that we trust (certificate-authority, ca.crt)"


def connection_words(error: BaseException) -> str:
    """Why there is no connection, in words that a platform engineer can act on."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(error.verify_code, f"{_UNTRUSTED}: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        if error.reason == "WRONG_VERSION_NUMBER":
            return "it does not speak TLS there: is it http://?"
        return f"TLS failed ({(error.reason or 'no reason given').lower().replace('_', ' ')})"
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (connection refused)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
