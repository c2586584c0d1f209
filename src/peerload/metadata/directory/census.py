"""How many sources there are of each model and status, kept up to date by what watchers are told."""

from __future__ import annotations

from peerload.metadata.records import SourceRecord, Status

__all__ = ["Census"]


class Census:
    """The count. What it costs to keep does not depend on the size of the directory, and heartbeats cost it nothing."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Status], int] = {}

    def note(
        self, before: SourceRecord | None, before_status: Status, after: SourceRecord | None, after_status: Status
    ) -> None:
        """One record changed; None: it was not there, or is there no more. The status is the one shown."""
        if before is not None:
            self._count(before.model_name, before_status, -1)
        if after is not None:
            self._count(after.model_name, after_status, +1)

    def counts(self) -> dict[tuple[str, Status], int]:
        """How many there are now, by model and status; only where there are any."""
        return dict(self._counts)

    def _count(self, model: str, status: Status, change: int) -> None:
        place = (model, status)
        count = self._counts.get(place, 0) + change
        if count:
            self._counts[place] = count
        else:
            del self._counts[place]
