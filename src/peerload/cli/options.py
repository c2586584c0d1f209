"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["AllowCode", "CacheDir", "Host", "Json", "LimitRate"]

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]

Host: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="Name or address by which peers reach this machine. Else MX_WORKER_HOST, else the address that leads to the "
        "server.",
        show_default=False,
    ),
]

LimitRate: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--limit-rate",
        metavar="SIZE",
        help="Send at most this much a second to all readers together, as in 500MB.",
        show_default=False,
    ),
]

CacheDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="The Hugging Face cache. Else HF_HUB_CACHE, else the folder hub in HF_HOME.",
        show_default=False,
    ),
]

AllowCode: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Include files that may run code where they are loaded (*.py, pickles, libraries, scripts).",
    ),
]
