"""The access file as it is by now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from peerload.clock import Clock
from peerload.errors import InvalidArgument
from peerload.server.security.access import Access, read
from peerload.stamps import Stamp, stamp

__all__ = ["AccessFile"]

_LOOK_SECONDS: Final = 1.0


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
        self._stamp: Stamp = None
        self.access = Access()

    def load(self) -> None:
        """Read it for the first time. Raises `InvalidArgument`."""
        self._stamp = stamp(self._path)
        access = read(self._path)
        self._check(access)
        self.access = access

    def reload(self) -> bool:
        """Read it again if it has changed; whether another one holds now."""
        found = stamp(self._path)
        if found == self._stamp:
            return False
        # What cannot be used is not tried again before it has changed.
        self._stamp = found
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
