"""One of the processes, as their parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from peerload.errors import InvalidArgument, PeerloadError, Unavailable
from peerload.server.processes.merged import Families
from peerload.server.processes.messages import Messages
from peerload.server.settings import Settings

__all__ = ["Child"]

_METRICS_SECONDS: Final = 2.0


class Child:
    """A process that was started; `Child.start` makes one. Belongs to one event loop."""

    def __init__(self, process: asyncio.subprocess.Process, messages: Messages, changed: Callable[[], None]) -> None:
        self._process = process
        self._messages = messages
        self._changed = changed
        self._started = False
        self._serving = asyncio.Event()
        self._reason = "it is starting"
        self._failure: PeerloadError | None = None
        self._metrics: asyncio.Future[Families] | None = None
        self._ended = asyncio.create_task(self._follow(), name=f"peerload-child-{process.pid}")

    @classmethod
    async def start(
        cls, number: int, settings: Settings, sockets: tuple[socket.socket, ...], changed: Callable[[], None]
    ) -> Child:
        """Start the process of that number. `changed` is called when what it tells of itself has changed, and at its end."""
        descriptors = [each.fileno() for each in sockets]
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "peerload.server.processes.member",
                *(str(word) for word in (number, theirs.fileno(), os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *descriptors),
            )
        messages = await Messages.over(ours)
        messages.tell(settings=settings.model_dump(), sockets=descriptors)
        return cls(process, messages, changed)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def started(self) -> bool:
        """Whether it accepts connections."""
        return self._started and not self._ended.done()

    @property
    def serving(self) -> bool:
        """Whether it can answer calls."""
        return self._serving.is_set() and not self._ended.done()

    @property
    def reason(self) -> str:
        """Why it cannot."""
        return self._reason

    async def serves(self, timeout: float) -> None:
        """Wait until it can answer calls. Raises why it ended before that, and `Unavailable` after so many seconds."""
        serving = asyncio.create_task(self._serving.wait())
        try:
            await asyncio.wait({serving, self._ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
        if self._ended.done():
            raise self._failure or Unavailable(f"it ended with status {self._ended.result()} before it served")
        if not self._serving.is_set():
            raise Unavailable(f"it does not serve after {timeout:g} s: {self._reason}")

    async def ended(self) -> int:
        """Its exit status, once it has ended; negative: the signal that ended it."""
        return await asyncio.shield(self._ended)

    async def metrics(self) -> Families:
        """What it counts; nothing where it does not say so in time."""
        # Of several who ask at once, each hears the one answer.
        if self._metrics is None:
            self._metrics = asyncio.get_running_loop().create_future()
            self._messages.tell(do="metrics")
        try:
            async with asyncio.timeout(_METRICS_SECONDS):
                return await asyncio.shield(self._metrics)
        except TimeoutError:
            return ()

    def leave(self) -> None:
        """Tell it to stop, where others go on."""
        self._messages.tell(do="leave")

    def stop(self) -> None:
        """Tell it to stop with all the others."""
        self._messages.tell(do="stop")

    def signal(self, number: int) -> None:
        """Send it a signal, if it serves: before that it may not know what to do with one."""
        if self.started:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _follow(self) -> int:
        async for message in self._messages.told():
            self._take(message)
        status = await self._process.wait()
        self._messages.close()
        self._reason = f"it ended with status {status}"
        if self._metrics is not None and not self._metrics.done():
            self._metrics.set_result(())
        asyncio.get_running_loop().call_soon(self._changed)
        return status

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"serving": bool(serving), "reason": str(reason)}:
                self._started = True
                self._reason = reason
                if serving:
                    self._serving.set()
                else:
                    self._serving.clear()
                self._changed()
            case {"metrics": list(families)}:
                if self._metrics is not None:
                    self._metrics.set_result(families)
                    self._metrics = None
            case {"failed": str(text), "field": str(field)}:
                self._failure = InvalidArgument(field, text) if field else PeerloadError(text)
