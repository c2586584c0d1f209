"""What a Kubernetes URL says: which namespace, which Peerload in it, and by which configuration.

    kubernetes:[NAMESPACE][?instance=main&kubeconfig=PATH&context=NAME]

Without a namespace it is the one that the Pod runs in, or that the kubeconfig's context names. Several Peerloads share a
namespace without hearing of each other where each has an `instance` of its own. Without `kubeconfig` and `context` the
configuration is what `peerload.kubernetes.access` finds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import parse_qsl, unquote, urlencode

from peerload.errors import InvalidArgument

__all__ = ["SCHEME", "KubernetesPlace"]

SCHEME: Final = "kubernetes"

_SETTINGS: Final = ("instance", "kubeconfig", "context")
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class KubernetesPlace:
    """A parsed URL. Nothing in it is secret."""

    namespace: str = ""
    """Empty: that of the Pod, or of the context."""
    instance: str = "main"
    """The value of the label that everything of this Peerload has."""
    kubeconfig: str = ""
    """Paths as in $KUBECONFIG; empty: what is found."""
    context: str = ""
    """Empty: the current one."""

    @classmethod
    def parse(cls, url: str) -> KubernetesPlace:
        """Read a URL. Raises `InvalidArgument`."""
        scheme, colon, rest = url.partition(":")
        if scheme != SCHEME or not colon:
            _refuse(f"must begin with {SCHEME}:")
        namespace, _, query = rest.partition("?")
        if namespace.startswith("/"):
            _refuse(f"takes no slashes: it is {SCHEME}:NAMESPACE")
        namespace = unquote(namespace)
        if namespace and not _NAMESPACE.fullmatch(namespace):
            _refuse(f"namespace {namespace[:63]!r} must have 1 to 63 lower-case letters, digits or inner hyphens")
        settings: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in _SETTINGS:
                _refuse(f"knows no setting {name[:50]!r}; there are {', '.join(_SETTINGS)}")
            if name in settings:
                _refuse(f"says {name} twice")
            if not value:
                _refuse(f"{name} must not be empty")
            if "\0" in value:
                _refuse(f"{name} must not contain NUL")
            settings[name] = value
        if not _LABEL.fullmatch(settings.get("instance", "main")):
            _refuse("instance must have 1 to 63 letters, digits, or inner . _ -")
        return cls(namespace, **settings)

    @property
    def shown(self) -> str:
        """The URL, for people."""
        given = {
            name: value
            for name, value in (
                ("instance", "" if self.instance == "main" else self.instance),
                ("kubeconfig", self.kubeconfig),
                ("context", self.context),
            )
            if value
        }
        return f"{SCHEME}:{self.namespace}" + (f"?{urlencode(given, safe='/:@')}" if given else "")


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument("store", message)
