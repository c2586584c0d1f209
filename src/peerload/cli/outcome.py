"""How a command ends: its exit status, and one clear line on stderr where it failed.

0 done; 1 failed; 2 wrong usage; 3 nobody has what was asked for (a fact); 4 the server could not be asked (nothing
follows); 130 interrupted. PEERLOAD_DEBUG=1 shows where an error came from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NoReturn

import typer

from peerload.cli.text import clean
from peerload.errors import NoSource, NotFound, PeerloadError, Unavailable

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NOBODY",
    "TERMINATED",
    "UNREACHABLE",
    "exit_status",
    "explain",
    "run",
    "usage_error",
]

FAILED: Final = 1
NOBODY: Final = 3
UNREACHABLE: Final = 4
INTERRUPTED: Final = 130
TERMINATED: Final = 143


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a command's coroutine to its end, and leave with the status that fits how it ended."""
    try:
        with _traced():
            asyncio.run(work())
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except asyncio.CancelledError:
        # Only a command that turns SIGTERM into its own cancellation, to tidy up, ends so.
        raise typer.Exit(TERMINATED) from None
    except BrokenPipeError:
        # Whoever read our output has gone, and Python's own flush at exit must not complain about it again.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except (PeerloadError, OSError) as error:
        explain(error)
        raise typer.Exit(exit_status(error)) from None


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    """Export traces, where PEERLOAD_TRACING asks for it. Raises `MissingExtra`."""
    if os.environ.get("PEERLOAD_TRACING", "").strip().lower() not in ("1", "true", "yes", "on"):
        yield
        return
    from peerload import tracing

    stop = tracing.start("peerload")
    try:
        yield
    finally:
        stop()


def explain(error: BaseException) -> None:
    """The error on stderr, without a traceback unless PEERLOAD_DEBUG asks for it."""
    if os.environ.get("PEERLOAD_DEBUG"):
        traceback.print_exception(error)
    first, *more = _text(error).splitlines() or [""]
    if isinstance(error, NoSource):
        more.append("  `peerload explain` says what stands in the way; --wait SECONDS waits for somebody to have it")
    for line in [f"peerload: {first}", *more]:
        typer.echo(clean(line, limit=2000), err=True)


def exit_status(error: BaseException) -> int:
    """The exit status for an error."""
    if isinstance(error, (NoSource, NotFound)):
        return NOBODY
    return UNREACHABLE if isinstance(error, Unavailable) else FAILED


def usage_error(message: str) -> NoReturn:
    """Leave with status 2 and a line that says how the command was misused."""
    typer.echo(f"peerload: {message}", err=True)
    raise typer.Exit(2)


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
