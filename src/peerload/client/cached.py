"""What a pull into the Hugging Face cache fills, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from peerload.checkpoint import Checkpoint, Progress, Skipped, Staging
from peerload.client.folder_target import FolderTarget
from peerload.client.folders import Folder
from peerload.client.identity import Identity
from peerload.client.search import Wanted
from peerload.client.sources import Selector, SourceInfo
from peerload.client.weights import PullReport
from peerload.errors import InvalidArgument, NotAllowed
from peerload.hub.cache import MAIN, CachedModel, CachedSnapshot, check_ref, is_commit, made_up_commit, tag
from peerload.hub.patterns import EVERYTHING, Patterns
from peerload.hub.places import CachePlaces
from peerload.metadata.records import Form

__all__ = ["CacheRequest", "CacheTarget", "PulledModel"]

S = TypeVar("S")
R = TypeVar("R")

_TURN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class PulledModel(Generic[S]):
    """A model in the Hugging Face cache, as `from_pretrained` finds it. `folder` is its snapshot's."""

    folder: Path
    identity: Identity
    commit: str
    ref: str
    """The branch or tag that the cache was told stands for the commit; "" for none."""
    checkpoint: Checkpoint
    """What the snapshot holds of what was asked for."""
    skipped: tuple[Skipped, ...]
    """Files that may run code, left out because that was not allowed."""
    report: PullReport | None
    """None where no peer had it, and it was downloaded."""
    source: S | None = None

    @property
    def downloaded(self) -> bool:
        """Whether it came from the hub. Then `source` serves it: others of the fleet may be waiting for it."""
        return self.report is None

    def served_by(self, source: R | None) -> PulledModel[R]:
        """The same, with another object for the source."""
        return PulledModel(
            self.folder,
            self.identity,
            self.commit,
            self.ref,
            self.checkpoint,
            self.skipped,
            self.report,
            source,
        )


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """Which model is wanted in which cache. `revision` is a commit, branch or tag; None is whatever the fleet calls main."""

    repo: CachedModel
    revision: str | None = None
    patterns: Patterns = EVERYTHING
    content: str = ""
    allow_code: bool = False

    def __post_init__(self) -> None:
        if self.revision is not None:
            if not self.revision:
                raise InvalidArgument("revision", "is empty")
            check_ref(self.revision)

    @property
    def wanted(self) -> Wanted:
        """Which sources fit."""
        return Wanted(
            Selector(model=self.repo.model, revision=self.revision, form=Form.CHECKPOINT),
            content=self.content,
            part=str(self.patterns),
            ref=MAIN if self.revision is None else "",
            commits=True,
        )

    def commit_and_ref(self, sources: Sequence[SourceInfo], content: str) -> tuple[str, str]:
        """The snapshot that the content belongs in, and the branch or tag to write for it ("" for none).

        A branch or tag that was asked for is written. Without one, main is, if a source knows the commit by that name;
        else only where the cache has no main yet: then what the fleet has is better than nothing.
        """
        asked = self.revision or MAIN
        knowing = [source for source in sources if source.knows(asked)]
        commits = [source.revision for source in (*knowing, *sources) if is_commit(source.revision)]
        commit = commits[0] if commits else made_up_commit(content)
        if is_commit(asked):
            return asked, ""
        if self.revision is None and not knowing and MAIN in self.repo.refs():
            return commit, ""
        return commit, asked


class CacheTarget(FolderTarget):
    """A model's folder in the cache. `sources` tells who has what is pulled, once that is known."""

    def __init__(self, request: CacheRequest, sources: Callable[[], Sequence[SourceInfo]]) -> None:
        super().__init__(request.repo.folder, allow_code=request.allow_code, patterns=request.patterns)
        self.request = request
        self.commit_hash = self.ref = ""
        self._sources = sources

    def _open(self, checkpoint: Checkpoint, chosen: Callable[[str], bool], progress: Progress) -> Staging:
        self.commit_hash, self.ref = self.request.commit_and_ref(self._sources(), checkpoint.content)
        tag(self.local_dir.parent)
        while True:
            try:
                return Staging(
                    self.local_dir,
                    checkpoint,
                    allow_code=self.allow_code,
                    chosen=chosen,
                    places=CachePlaces(self.commit_hash, self.ref),
                )
            except NotAllowed:
                # Another process of this machine is at the same model: most likely it brings just what is wanted here.
                progress(0, 0)
                time.sleep(_TURN_S)

    def folder(self, identity: Identity, part: str) -> Folder:
        """What was pulled, as something to publish; `part` is what its source had."""
        snapshot = CachedSnapshot(self.request.repo, self.commit_hash)
        # A commit that is made up here means nothing to others.
        known = {source.revision for source in self._sources()}
        revision = self.commit_hash if self.commit_hash in known else identity.revision
        return Folder(snapshot.folder, identity.model, revision, snapshot, part=self.part_of(part))
