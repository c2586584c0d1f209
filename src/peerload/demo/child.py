"""The demo's processes: real `peerload` commands, whose JSON lines the demo follows."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

__all__ = ["Child", "ChildFailed", "Event"]

Event: TypeAlias = Mapping[str, Any]
"""One JSON line of a command; `event` says what happened."""

_STOP_SECONDS: Final = 15.0
_FOREIGN: Final = ("PEERLOAD_", "MODEL_EXPRESS_", "MX_", "REDIS_", "POD_")


class ChildFailed(Exception):
    """A process of the demo ended, or did not do its part in time. The text says which and what it said last."""


class Child:
    """One process. `events` are its JSON lines so far; `on_event` is told each as it comes."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, on_event: Callable[[Child, Event], None]
    ) -> None:
        self.name = name
        self.events: list[Event] = []
        self._process = process
        self._on_event = on_event
        self._changed = asyncio.Condition()
        self._silent = False
        self._last_words: collections.deque[str] = collections.deque(maxlen=20)
        self._readers = asyncio.gather(self._read_events(), self._read_stderr())

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        settings: Mapping[str, str],
        on_event: Callable[[Child, Event], None] = lambda _child, _event: None,
    ) -> Child:
        """Start `peerload ARGUMENTS`. `settings` go into an environment that holds no other settings of Peerload's."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "peerload",
            *arguments,
            cwd=cwd,
            env={**environment, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A Ctrl-C in the terminal is the demo's to handle: it stops its processes itself, in order.
            start_new_session=True,
            limit=1 << 20,
        )
        return cls(name, process, on_event)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not been seen to end."""
        return self._process.returncode is None

    async def until(self, wanted: Callable[[Event], bool], what: str, seconds: float = 60.0) -> Event:
        """The first event that `wanted` accepts. Raises `ChildFailed` if the process ends or `seconds` pass before."""
        seen = 0
        try:
            async with asyncio.timeout(seconds), self._changed:
                while True:
                    while seen < len(self.events):
                        seen += 1
                        if wanted(self.events[seen - 1]):
                            return self.events[seen - 1]
                    if self._silent:
                        raise ChildFailed(f"{self.name} ended before {what}{self.last_words()}")
                    await self._changed.wait()
        except TimeoutError:
            raise ChildFailed(f"{self.name}: not {what} within {seconds:.0f} s{self.last_words()}") from None

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        await self._end(signal.SIGKILL, _STOP_SECONDS)

    async def stop(self) -> int:
        """SIGTERM, SIGKILL if that does not end it in time. Returns the exit status, negative for a signal."""
        return await self._end(signal.SIGTERM, _STOP_SECONDS)

    async def ended(self) -> None:
        """Return once the process has ended by itself or otherwise."""
        await asyncio.shield(self._readers)

    def last_words(self) -> str:
        """What it wrote to stderr last, indented under a sentence about it; empty if it said nothing."""
        return "".join(f"\n    {line}" for line in self._last_words)

    async def _end(self, number: signal.Signals, seconds: float) -> int:
        self._send(number)
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            self._send(signal.SIGKILL)
        status = await self._process.wait()
        await self._readers
        return status

    def _send(self, number: signal.Signals) -> None:
        # Not Popen's own way, which first looks whether the process has ended: where it has, that look takes the exit
        # status away from the event loop, which then reports 255.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _read_events(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                self._last_words.append(line.decode(errors="replace").rstrip())
                continue
            self.events.append(event)
            self._on_event(self, event)
            async with self._changed:
                self._changed.notify_all()
        # The end is a change too: whoever waits for an event need wait no longer.
        async with self._changed:
            self._silent = True
            self._changed.notify_all()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._last_words.append(line.decode(errors="replace").rstrip())
