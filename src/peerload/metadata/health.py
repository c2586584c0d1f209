"""Whether answers can be given, and why not."""

from __future__ import annotations

from peerload.metadata.directory.directory import Directory
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.waiting import Pulse

__all__ = ["Health"]


class Health:
    """A directory's fitness to answer. `check` is called as time passes, and wakes those who wait for a change."""

    def __init__(self, directory: Directory, settings: MetadataSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._pulse = Pulse()
        self._told = False
        self._closed = "the server has not started yet"

    @property
    def reason(self) -> str:
        """Why no answers can be given; empty where they can."""
        if self._closed:
            return self._closed
        if not self._directory.synced:
            return "the store was not reached yet"
        if self._directory.silent_ms > self._settings.heartbeat_timeout_ms:
            return f"the store could not be reached for {self._directory.silent_ms // 1000} seconds"
        return ""

    @property
    def serving(self) -> bool:
        return not self.reason

    def close(self, reason: str) -> None:
        """From now on no answers, for that reason; with an empty one: as the directory is."""
        self._closed = reason
        self.check()

    def check(self) -> bool:
        """Tell those who wait, if there is anything new; whether answers can be given."""
        serving = self.serving
        if serving is not self._told:
            self._told = serving
            self._pulse.beat()
        return serving

    async def changed(self, was: bool) -> bool:
        """Return `serving` once it is no longer `was`."""
        while self.check() is was:
            await self._pulse.wait()
        return not was
