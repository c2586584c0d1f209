"""Folders of a model's files as something to publish: plain ones, and snapshots of the Hugging Face cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peerload.checkpoint import Checkpoint, Progress, Skipped, map_files, scan
from peerload.client.identity import Identity
from peerload.client.manifest import checkpoint_manifest
from peerload.client.source import Offer
from peerload.errors import InvalidArgument, InvalidCheckpoint
from peerload.hub.cache import CachedSnapshot

__all__ = ["Folder"]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to share, and what it is shared as. `part`: which of the revision's files were asked for, "" for all."""

    path: Path
    model: str
    revision: str
    snapshot: CachedSnapshot | None = None
    part: str = ""

    @classmethod
    def at(cls, path: Path, model: str = "", revision: str = "") -> Folder:
        """The folder there. What is not said of it, the path says where it is a snapshot of the Hugging Face cache.

        Raises `InvalidArgument` where neither says which model it is, `InvalidCheckpoint` for what is no folder.
        """
        if not path.is_dir():
            raise InvalidCheckpoint(str(path), "this is not a folder")
        snapshot = CachedSnapshot.at(path)
        if snapshot is not None:
            model = model or snapshot.repo.model
            revision = revision or snapshot.commit
        if not model:
            raise InvalidArgument(
                "model",
                f"is missing (--model ORG/NAME): {path} is not a snapshot in a Hugging Face cache, whose path would tell it",
            )
        Identity(model=model, revision=revision)  # refused before gigabytes are read for it
        return cls(path, model, revision, snapshot)

    def read(self, *, allow_code: bool, progress: Progress) -> tuple[Offer, tuple[Skipped, ...]]:
        """Read every byte once for its digest. Blocks. Raises `InvalidCheckpoint` naming the file, `OSError`."""
        homes = () if self.snapshot is None else self.snapshot.homes
        found = scan(self.path, allow_code=allow_code, homes=homes, progress=progress)
        checkpoint = found.checkpoint if self.snapshot is None else self.snapshot.named(found.checkpoint)
        views = map_files(self.path, checkpoint, stamps=found.stamps)
        return self._offer(checkpoint, views), found.skipped

    def known(self, checkpoint: Checkpoint) -> Offer:
        """The offer of a folder that has just been filled with that, verified."""
        checkpoint = checkpoint if self.snapshot is None else self.snapshot.named(checkpoint)
        return self._offer(checkpoint, map_files(self.path, checkpoint))

    def _offer(self, checkpoint: Checkpoint, views: list[memoryview]) -> Offer:
        refs = () if self.snapshot is None else self.snapshot.refs
        identity = Identity.checkpoint(self.model, self.revision, checkpoint.content)
        manifest = checkpoint_manifest(checkpoint, refs=refs, part=self.part)
        return Offer(identity.to_wire(), 0, manifest, views)
