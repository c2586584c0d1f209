"""The access file as it is by now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from peerload.clock import Clock
from peerload.errors import InvalidArgument
from peerload.server.security.access import Access, read

__all__ = ["AccessFile"]

_LOOK_SECONDS: Final = 1.0

_Stamp: TypeAlias = tuple[int, int, int] | None

_log = structlog.get_logger("peerload.server")


class AccessFile:
    """What the file says; read again when it changes. A changed one that cannot be used is logged, and what held before goes
    on to hold. `check` raises `InvalidArgument` for what is well-formed and still cannot be used; `on_change` is called once
    another holds."""

    def __init__(
        self, path: Path, clock: Clock, check: Callable[[Access], None], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._clock = clock
        self._check = check
        self._on_change = on_change
        self._stamp: _Stamp = None
        self.access = Access()

    def load(self) -> None:
        """Read it for the first time. Raises `InvalidArgument`."""
        self._stamp = self._look()
        access = read(self._path)
        self._check(access)
        self.access = access

    def reload(self) -> bool:
        """Read it again if it has changed; whether another one holds now."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        # What cannot be used is not tried again before it has changed.
        self._stamp = stamp
        try:
            access = read(self._path)
            self._check(access)
        except InvalidArgument as error:
            _log.error("the access file cannot be used; what it said before holds", error=str(error))
            return False
        self.access = access
        _log.info(
            "read the access file again",
            path=str(self._path),
            tokens=len(access.tokens),
            service_accounts=len(access.service_accounts),
            certificates=len(access.certificates),
        )
        return True

    async def run(self) -> None:
        """Look whether it has changed, every second, until cancelled."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            if await asyncio.to_thread(self.reload):
                self._on_change()

    def _look(self) -> _Stamp:
        """Changes when the file does, and when another takes its place."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
