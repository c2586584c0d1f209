"""What `share-artifact` and `pull-artifact` have in common: how an artifact is named on the command line."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from peerload.cli.connect import ServerOptions
from peerload.cli.outcome import usage_error

if TYPE_CHECKING:
    from peerload.client import AsyncClient, StockIdentity

__all__ = ["Fields", "Kind", "Model", "Roots", "connect_nixl", "identity", "roots_of"]

_KINDS: Final = (
    "cuda-graph",
    "torch-compile-cache",
    "triton-cache",
    "deep-gemm-cache",
    "tilelang-cache",
    "cute-dsl-cache",
    "flashinfer-cache",
    "tvm-ffi-cache",
)

Kind: TypeAlias = Annotated[
    str,
    typer.Option("--type", "-t", metavar="TYPE", help=f"What it is: {', '.join(_KINDS)}.", show_default=False),
]
Model: TypeAlias = Annotated[
    str,
    typer.Option("--model", "-m", metavar="ORG/NAME", help="The model that it was made for.", show_default=False),
]
Fields: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        "-w",
        metavar="FIELD=VALUE",
        help="What else it depends on, as the engine says it: gpu_arch=sm90, mx_version=0.7.0, framework=vllm, "
        "extra.NAME=VALUE, … May be repeated; must be the same on both sides.",
        show_default=False,
    ),
]
Roots: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        metavar="NAME=FOLDER",
        help="A further folder of the artifact, by its name. May be repeated.",
        show_default=False,
    ),
]


def identity(model: str, kind: str, given: list[str] | None) -> StockIdentity:
    """The identity that the options say; leaves with a usage error where they make none."""
    from peerload.client import Framework, SourceType, StockIdentity
    from peerload.errors import InvalidArgument

    if kind not in _KINDS:
        usage_error(f"--type {kind!r} is none of {', '.join(_KINDS)}")
    known: dict[str, Any] = {
        field.name: field.default
        for field in fields(StockIdentity)
        if field.name not in ("model", "extra", "source_type")
    }
    chosen: dict[str, Any] = {}
    extra: dict[str, str] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not value:
            usage_error(f"--with {pair!r} is not FIELD=VALUE")
        if name.startswith("extra."):
            extra[name.removeprefix("extra.")] = value
        elif name not in known:
            usage_error(f"--with {name!r} is no field of an identity; there are {', '.join(known)} and extra.NAME")
        elif name == "framework":
            if value.upper() not in Framework.__members__:
                usage_error(f"--with framework={value!r} is none of {', '.join(Framework.__members__).lower()}")
            chosen[name] = Framework[value.upper()]
        elif isinstance(known[name], int):
            if not value.isdecimal():
                usage_error(f"--with {name}={value!r} is not a number")
            chosen[name] = int(value)
        else:
            chosen[name] = value
    source_type = SourceType[kind.replace("-", "_").upper()]
    try:
        return StockIdentity(model=model, source_type=source_type, extra=extra, **chosen)
    except InvalidArgument as error:
        usage_error(str(error))


def roots_of(given: list[str] | None) -> dict[str, Path]:
    """The folders that `--root` names; leaves with a usage error."""
    found = {}
    for pair in given or ():
        name, equals, folder = pair.partition("=")
        if not equals or not name or not folder:
            usage_error(f"--root {pair!r} is not NAME=FOLDER")
        found[name] = Path(folder)
    return found


def connect_nixl(server: ServerOptions, *, host: str | None = None) -> AsyncClient:
    """A client whose engine is NIXL, by which artifacts move."""
    from peerload.client import AsyncClient

    return AsyncClient(server.address, host=host, settings=replace(server.settings(), engines=("nixl",)))
