"""One of several processes: a server that does what its parent tells it, and ends with its parent.

    python -P -m peerload.server.processes.member NUMBER DESCRIPTOR PARENT

The first message has the settings and the sockets. They come this way since a store's URL may hold a password, and anybody on the machine
may read a command line.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from peerload.errors import InvalidArgument, PeerloadError
from peerload.orphans import die_with
from peerload.server import logs
from peerload.server.app import Server
from peerload.server.listening import SharedPort
from peerload.server.processes.merged import families
from peerload.server.processes.messages import Messages
from peerload.server.serving import serve
from peerload.server.settings import Settings
from peerload.server.traced import exporting

__all__ = ["main"]

_FAILED: Final = 1


class Member:
    """A `Membership` by messages."""

    def __init__(self, messages: Messages, told: AsyncIterator[dict[str, Any]], port: SharedPort) -> None:
        self.port = port
        self.leaving = False
        self._messages = messages
        self._told = told
        self._server: Server | None = None
        self._telling: asyncio.Task[None] | None = None

    async def attend(self, stop: Callable[[str], None]) -> None:
        """Do what the parent says; see `Membership.attend`."""
        async for message in self._told:
            match message:
                case {"do": "metrics"}:
                    server = self._server
                    self._messages.tell(metrics=[] if server is None else families(server.metrics.registry))
                case {"do": "leave" | "stop" as what}:
                    self.leaving = what == "leave"
                    stop(what)
        stop("the parent is gone")

    def started(self, server: Server) -> None:
        """Tell the parent, and from now on whether calls can be answered."""
        self._server = server
        self._telling = asyncio.create_task(self._tell_state(server), name="peerload-state")

    async def _tell_state(self, server: Server) -> None:
        async for serving in server.readiness.states():
            self._messages.tell(serving=serving, reason=server.readiness.reason)


async def _run(number: int, end: socket.socket) -> int:
    messages = await Messages.over(end)
    told = messages.told()
    first = await anext(told)
    settings = Settings(**first["settings"])
    logs.configure(settings.log_level, settings.log_format, process=number)
    port = SharedPort(tuple(socket.socket(fileno=each) for each in first["sockets"]))
    try:
        with exporting(settings):
            await serve(settings, membership=Member(messages, told, port))
    except PeerloadError as error:
        field = error.field if isinstance(error, InvalidArgument) else ""
        messages.tell(failed=str(error).removeprefix(f"{field}: "), field=field)
        return _FAILED
    finally:
        messages.close()
        await messages.closed()
    return 0


def main() -> None:
    """Serve until told to stop."""
    number, descriptor, parent = map(int, sys.argv[1:])
    die_with(parent)
    # They are the parent's to act on, and reach all processes of a terminal.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Until it listens to them: a signal for all may come while one begins.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    sys.exit(asyncio.run(_run(number, socket.socket(fileno=descriptor))))


if __name__ == "__main__":
    main()
