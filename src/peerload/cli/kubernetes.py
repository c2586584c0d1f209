"""`peerload kubernetes`."""

from __future__ import annotations

import enum
import os
from typing import Annotated, Final

import typer

from peerload.cli.outcome import usage_error
from peerload.errors import InvalidArgument

__all__ = ["command"]

_NAMESPACES: Final = ("MX_METADATA_NAMESPACE", "POD_NAMESPACE")


class What(enum.StrEnum):
    """What can be asked for."""

    MANIFESTS = "manifests"


class Part(enum.StrEnum):
    """Which of the manifests."""

    CRD = "crd"
    ROLE = "role"
    ALL = "all"
    REVIEWER = "reviewer"


def command(
    what: Annotated[What, typer.Argument(metavar="manifests", help="Print the manifests.", show_default=False)],
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            metavar="NS",
            help="Where the servers run. Else MX_METADATA_NAMESPACE or POD_NAMESPACE, else default.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        Part,
        typer.Option(
            help="crd: the kind of object, once a cluster. role: service account, Role and RoleBinding, in each namespace. "
            "reviewer: the right to review tokens, for servers that authenticate by service accounts."
        ),
    ] = Part.ALL,
    service_account: Annotated[
        str, typer.Option(metavar="NAME", help="The account that the servers run as.")
    ] = "peerload",
) -> None:
    """Print what the Kubernetes store needs in a cluster, for kubectl.

    The definition of the kind of object in which it keeps everything, and a service account with the rights that a server
    needs in its namespace, and no others. Applying it again changes nothing. The right to review tokens, which is no
    namespace's, is a part of its own.

    \b
      peerload kubernetes manifests --namespace inference | kubectl apply -f -
      peerload kubernetes manifests --part crd | kubectl apply -f -
      peerload kubernetes manifests --part role -n inference --service-account mine | kubectl apply -f -
    """
    from peerload.plugins import kubernetes_manifests

    chosen = namespace or next(filter(None, map(os.environ.get, _NAMESPACES)), "default")
    try:
        text = kubernetes_manifests(part, namespace=chosen, account=service_account)
    except InvalidArgument as error:
        usage_error(str(error))
    typer.echo(text, nl=False)
