"""What the store needs in a cluster before it can be used, as YAML for `kubectl apply -f -`.

The files beside this module are the documents; `$namespace` and `$account` in them are filled in. Nothing here needs the
extra `peerload[kubernetes]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Final

from peerload.errors import InvalidArgument

__all__ = ["ACCOUNT", "PARTS", "RIGHTS", "check_account", "check_namespace", "manifests"]

ACCOUNT: Final = "peerload"
"""The service account, unless another is named."""

PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "crd": ("crd",),
    "role": ("account", "role", "binding"),
    "all": ("crd", "account", "role", "binding"),
    "reviewer": ("reviewer",),
}
"""What can be asked for, and the files that it is: the kind of object, once a cluster; who may do what, in each
namespace; both. And for servers that authenticate by service accounts, that they may have tokens reviewed."""

RIGHTS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("peerload.dev", "peerloadrecords"): ("get", "list", "watch", "create", "patch", "delete"),
    ("", "configmaps"): ("get", "list", "create", "patch", "delete"),
    ("", "pods"): ("get",),
}
"""What the Role allows: by API group and resource, the verbs."""

_LABEL: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAMESPACE: Final = re.compile(_LABEL)
_ACCOUNT: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


def manifests(part: str, *, namespace: str, account: str = ACCOUNT) -> str:
    """The documents of a part of `PARTS`, for servers that run in `namespace` as the service account `account`.

    Raises `InvalidArgument` for a name that Kubernetes would refuse.
    """
    names = {"namespace": check_namespace(namespace), "account": check_account(account)}
    folder = resources.files(__name__)
    documents = []
    for file in PARTS[part]:
        text = folder.joinpath(f"{file}.yaml").read_text("utf-8")
        # A definition is the same for everybody, and its patterns have dollars of their own.
        documents.append(text if file == "crd" else Template(text).substitute(names))
    return "---\n".join(documents)


def check_namespace(name: str) -> str:
    """The name, if a namespace can have it. Raises `InvalidArgument`."""
    if not _NAMESPACE.fullmatch(name):
        raise InvalidArgument(
            "namespace",
            f"must have 1 to 63 lower-case letters, digits or -, and neither begin nor end with - (it is {name[:200]!r})",
        )
    return name


def check_account(name: str) -> str:
    """The name, if a service account can have it. Raises `InvalidArgument`."""
    if not _ACCOUNT.fullmatch(name):
        raise InvalidArgument(
            "service account",
            f"must have 1 to 253 lower-case letters, digits, - or ., each part beginning and ending with a letter or digit (it is {name[:200]!r})",
        )
    return name
