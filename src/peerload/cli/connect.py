"""A client as the commands' options and the environment ask for it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from peerload.cli.text import parse_size

if TYPE_CHECKING:
    from peerload.client import AsyncClient, ClientSettings

__all__ = ["ServerOptions", "connect", "with_server"]

_FILE: Final[dict[str, Any]] = {"metavar": "FILE", "show_default": False}


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where the server is and how it is spoken to, as far as options say so."""

    address: str | None
    tls: bool
    tls_ca: str
    tls_client_cert: str
    tls_client_key: str
    tls_name: str

    def settings(self) -> ClientSettings:
        """What the environment says, changed by what was given. Raises `InvalidArgument`."""
        from peerload.client import ClientSettings

        names = ("tls", "tls_ca", "tls_client_cert", "tls_client_key", "tls_name")
        given = {name: getattr(self, name) for name in names if getattr(self, name)}
        return replace(ClientSettings.from_env(), **given)


def _options(
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            "-s",
            metavar="HOST:PORT",
            help="The directory server; several with commas between them, https:// before one for TLS. Else PEERLOAD_SERVER, MODEL_EXPRESS_URL or MX_SERVER_ADDRESS, else localhost:8001.",
            show_default=False,
        ),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS, as with https:// (PEERLOAD_TLS=1).")] = False,
    tls_ca: Annotated[
        str,
        typer.Option(
            help="Who may have signed the server's certificate (PEERLOAD_TLS_CA); without it, whom the system trusts.",
            **_FILE,
        ),
    ] = "",
    tls_client_cert: Annotated[
        str, typer.Option(help="The certificate to show to the server (PEERLOAD_TLS_CLIENT_CERT).", **_FILE)
    ] = "",
    tls_client_key: Annotated[
        str, typer.Option(help="The key of --tls-client-cert (PEERLOAD_TLS_CLIENT_KEY).", **_FILE)
    ] = "",
    tls_name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The name that the server's certificate must be for, if not the one in the address (PEERLOAD_TLS_NAME).",
            show_default=False,
        ),
    ] = "",
) -> ServerOptions:
    return ServerOptions(server, tls, tls_ca, tls_client_cert, tls_client_key, tls_name)


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which a server is found, in place of its parameter `server`, which gets all of them."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.name != "server"]
    shared = list(inspect.signature(_options, eval_str=True).parameters.values())

    @functools.wraps(command)
    def run(**given: Any) -> None:
        server = _options(**{each.name: given.pop(each.name) for each in shared})
        command(**given, server=server)

    run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return run


def connect(
    server: ServerOptions,
    *,
    host: str | None = None,
    limit_rate: str | None = None,
    settings: ClientSettings | None = None,
) -> AsyncClient:
    """A client, not yet connected; with other settings than those of the options where some are given. Raises
    `InvalidArgument` for an option that cannot be read."""
    from peerload.client import AsyncClient

    settings = settings or server.settings()
    slow = {"max_bytes_per_second": parse_size(limit_rate, "--limit-rate")} if limit_rate else {}
    # Engines that cannot be slowed down say so.
    return AsyncClient(
        server.address, host=host, settings=settings, engine_settings=dict.fromkeys(settings.engines, slow)
    )
