"""The target of a pull into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from peerload.checkpoint import Checkpoint, Progress, Staging
from peerload.client.targets import Allocate, CheckpointSlots, part_slots
from peerload.client.transfer import Slot
from peerload.hub.patterns import EVERYTHING, Patterns

__all__ = ["FolderTarget"]


class FolderTarget(CheckpointSlots):
    """A folder, by way of its staging: files get their names in `commit`, after everything was verified."""

    def __init__(self, local_dir: Path, *, allow_code: bool, patterns: Patterns = EVERYTHING) -> None:
        super().__init__()
        self.local_dir = local_dir
        self.patterns = patterns
        self.allow_code = allow_code
        self.staging: Staging | None = None

    @property
    def maps(self) -> bool:
        """No: a folder's files are its own."""
        return False

    def _make(
        self, checkpoint: Checkpoint, allocate: Allocate, progress: Progress, mapped: Mapping[int, memoryview]
    ) -> dict[tuple[int, int], Slot]:
        chosen = self.patterns.choose([file.path for file in checkpoint.files])
        staging = self.staging = self._open(checkpoint, chosen.__contains__, progress)
        right = staging.reusable(progress)
        views = {index: staging.view(index) for index in staging.wanted}
        slots = part_slots(checkpoint, lambda file, start, end: views[file][start:end], frozenset(staging.wanted))
        for key in right:
            slots[key].verified = True
        return slots

    def _open(self, checkpoint: Checkpoint, chosen: Callable[[str], bool], progress: Progress) -> Staging:
        """The staging of the folder."""
        return Staging(self.local_dir, checkpoint, allow_code=self.allow_code, chosen=chosen)

    def part_of(self, part: str) -> str:
        """Which of the revision's files the folder has, "" for all; the source has `part`."""
        staging = self.staging
        if staging is None or len(staging.wanted) + len(staging.skipped) == len(self._complete().files):
            return part
        return str(self.patterns)

    def commit(self, progress: Progress | None = None) -> Staging:
        """Name the files. Every slot must be verified."""
        if self.staging is None or not all(slot.verified for slot in self.slots):
            raise RuntimeError("only what was verified is committed")
        self.staging.commit(progress)
        return self.staging

    def close(self) -> None:
        """Let go of the folder; what is unfinished stays for the next pull."""
        # The views first: they hold the files' mappings.
        self.slots, self._parts = [], {}
        if self.staging is not None:
            self.staging.close()
