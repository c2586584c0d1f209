"""How one process hears that another has written to the file: it asks for the file's data version, often."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Final

from peerload.errors import PeerloadError
from peerload.store.sqlite.home import Home
from peerload.store.sqlite.layout import connect
from peerload.store.sqlite.queries import last_row

__all__ = ["POLL_SECONDS", "Poller"]

POLL_SECONDS: Final = 0.01
"""How late a change by another process may be heard of. Asking costs a few microseconds and no disk access."""


class Poller:
    """A thread that calls `on_change` in the event loop when somebody else has changed the file, as long as `wanted`
    says that anybody would read it. Of what this process wrote itself, up to the log's row `written`, everybody knows."""

    def __init__(
        self, home: Home, wanted: Callable[[], bool], written: Callable[[], int], on_change: Callable[[], None]
    ) -> None:
        self._home = home
        self._wanted = wanted
        self._written = written
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sqlite poller", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End the thread. Not to be called in the event loop."""
        self._stopped.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        known: int | None = None
        while not self._stopped.wait(POLL_SECONDS):
            if not self._wanted():
                continue
            try:
                if connection is None:
                    connection = connect(self._home.path)
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                changed = version != known and last_row(connection) > self._written()
            except (sqlite3.Error, PeerloadError):
                # The watches are woken to ask for themselves, and they raise what is wrong.
                if connection is not None:
                    connection.close()
                connection, version, changed = None, None, True
            known = version
            if changed:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._on_change)
        if connection is not None:
            connection.close()
