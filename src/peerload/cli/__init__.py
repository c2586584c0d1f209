"""The command line: `peerload COMMAND`.

Each command is a module of its own, named in `COMMANDS` and imported only when it is the one that runs, so that
`peerload --help` and the quick commands do not wait for what the others need.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from peerload import __version__
from peerload.cli.outcome import exit_status, explain
from peerload.errors import PeerloadError

__all__ = ["COMMANDS", "Command", "build_app", "main"]


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command lives, and what `peerload --help` says of it."""

    module: str
    """The module that defines it as a function `command`, with typer's annotations; its docstring is the help."""
    summary: str
    panel: str
    """The heading under which it is listed."""


_SERVER: Final = "Server"
_WEIGHTS: Final = "Weights"
_SOURCES: Final = "Sources"
_TRY: Final = "Try it"

COMMANDS: Final[Mapping[str, Command]] = {
    "serve": Command("peerload.cli.serve", "Run the directory server.", _SERVER),
    "doctor": Command(
        "peerload.cli.doctor", "Examine a store, a server's place or a worker's, before they are used.", _SERVER
    ),
    "health": Command("peerload.cli.health", "Ask a server whether it can answer calls.", _SERVER),
    "kubernetes": Command("peerload.cli.kubernetes", "Print what the Kubernetes store needs in a cluster.", _SERVER),
    "token": Command("peerload.cli.token", "Make a token for clients of a server that asks who they are.", _SERVER),
    "share": Command("peerload.cli.share", "Offer a model's folder to peers.", _WEIGHTS),
    "pull": Command("peerload.cli.pull", "Fetch a model from a peer that has it.", _WEIGHTS),
    "share-artifact": Command("peerload.cli.share_artifact", "Offer a compile cache to peers.", _WEIGHTS),
    "pull-artifact": Command("peerload.cli.pull_artifact", "Fetch a compile cache from a peer.", _WEIGHTS),
    "sources": Command("peerload.cli.sources", "List who holds what.", _SOURCES),
    "show": Command("peerload.cli.show", "Show one source: workers, files, tensors.", _SOURCES),
    "explain": Command("peerload.cli.explain", "Say why a worker found no source.", _SOURCES),
    "watch": Command("peerload.cli.watch", "Show every change as it happens.", _SOURCES),
    "rm": Command("peerload.cli.rm", "Take source records back.", _SOURCES),
    "completion": Command("peerload.cli.completion", "Have a shell complete commands and options.", _TRY),
    "demo": Command("peerload.cli.demo", "Show it on this machine, with real weights.", _TRY),
}
"""The commands in the order in which help lists them."""

_HELP: Final = """Start model servers from the memory of their peers.

A directory server knows which worker holds which weights; workers fetch them from each other, memory to memory.

\b
  Run the directory:    peerload serve
  Offer a folder:       peerload share ./my-model --model org/name
  Fetch it elsewhere:   peerload pull org/name --local-dir ./copy

Clients find the server by --server, PEERLOAD_SERVER, MODEL_EXPRESS_URL or MX_SERVER_ADDRESS, else at localhost:8001.
https:// before the address is TLS; several servers are written with commas between them.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 nobody has it, 4 the server could not be asked, 130 interrupted.
PEERLOAD_DEBUG=1 shows where an error came from.
"""


def build_app(load: Iterable[str]) -> typer.Typer:
    """The command line, with the modules of the commands in `load` imported and the others by name only."""
    wanted = set(load)
    app = typer.Typer(
        name="peerload",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None if not sys.stdout.isatty() else "rich",
    )
    app.callback(help=_HELP)(_root)
    for name, command in COMMANDS.items():
        function = importlib.import_module(command.module).command if name in wanted else _not_loaded
        app.command(
            name,
            help=None if name in wanted else command.summary,
            short_help=command.summary,
            rich_help_panel=command.panel,
        )(function)
    return app


def main() -> None:
    """The `peerload` program. Its exit status is explained in `peerload.cli.outcome`."""
    if not os.environ.get("PEERLOAD_DEBUG"):
        # gRPC writes about failed handshakes on stderr by itself; what is wrong is said once, by us.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    words = [word for word in _words() if not word.startswith("-")]
    app = build_app(words[:1])
    try:
        app(prog_name="peerload")
    except PeerloadError as error:
        explain(error)
        raise SystemExit(exit_status(error)) from None


def _words() -> list[str]:
    """What was written after the program's name: here, or so far in a shell that asks for completions."""
    if "_PEERLOAD_COMPLETE" not in os.environ:
        return sys.argv[1:]
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=lambda value: _print_version(value), is_eager=True
        ),
    ] = False,
) -> None:
    """Options of `peerload` itself."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"peerload {__version__}")
        raise typer.Exit


def _not_loaded(*_: Any) -> None:
    raise AssertionError("a command was run whose module was not imported")
