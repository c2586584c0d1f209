"""One model in the Hugging Face cache, and what can be read there.

The layout is huggingface_hub's: `blobs/<name>` are the files' bytes, `snapshots/<commit>/<path>` relative links to them, and
`refs/<name>` the commit that a branch or tag stood for when it was last asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import xxhash

from peerload.checkpoint import Checkpoint
from peerload.checkpoint.names import check_path, is_blob_name
from peerload.errors import InvalidArgument, InvalidCheckpoint, NotFound
from peerload.hub.blobs import git_sha1, is_git_sha1
from peerload.hub.library import cache_folder, repo_folder

__all__ = ["MAIN", "CachedModel", "CachedSnapshot", "check_ref", "is_commit", "made_up_commit", "tag"]

MAIN: Final = "main"
"""What the hub, and everybody, calls the revision of a model when no other is named."""

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_COMMIT_BYTES: Final = 40
_MAX_REFS: Final = 64
_PREFIX: Final = "models--"
_SNAPSHOTS: Final = "snapshots"


def is_commit(revision: str) -> bool:
    """Whether the revision is a commit's full hash."""
    return _COMMIT.fullmatch(revision) is not None


def made_up_commit(content: str) -> str:
    """A name in a commit's form for content that comes from no commit that anybody knows: equal for equal content."""
    digest = xxhash.xxh3_128(b"peerload snapshot\0" + content.encode())
    return (digest.hexdigest() + content)[:_COMMIT_BYTES]


def check_ref(ref: str) -> str:
    """The name of a branch or tag, if the cache can keep it. Raises `InvalidArgument`."""
    try:
        check_path(ref)
    except InvalidCheckpoint as error:
        raise InvalidArgument("revision", f"cannot be the name of a branch or tag: {error}") from error
    return ref


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model's folder in a cache, which need not exist."""

    model: str
    folder: Path

    @classmethod
    def of(cls, model: str, cache_dir: Path | str | None = None) -> Self:
        """The folder that huggingface_hub has for the model. Raises `InvalidArgument`, `MissingExtra`."""
        return cls(model, repo_folder(cache_folder(cache_dir), model))

    def refs(self) -> dict[str, str]:
        """Every branch and tag that the cache knows, and its commit."""
        root = self.folder / "refs"
        found: dict[str, str] = {}
        for path in sorted(root.rglob("*")):
            try:
                commit = path.read_text()
            except (OSError, UnicodeDecodeError):
                continue  # a folder of refs, or one that goes away at this moment
            if is_commit(commit):
                found[path.relative_to(root).as_posix()] = commit
        return found

    def refs_of(self, commit: str) -> tuple[str, ...]:
        """The branches and tags that stand for a commit here."""
        return tuple(ref for ref, found in self.refs().items() if found == commit)[:_MAX_REFS]

    def snapshot(self, revision: str | None = None) -> CachedSnapshot:
        """What is cached of a revision: a commit, or a branch or tag that the cache knows; main, if none is named.

        Raises `NotFound`.
        """
        wanted = MAIN if revision is None else revision
        commit = wanted if is_commit(wanted) else self.refs().get(wanted, "")
        folder = self.folder / _SNAPSHOTS / commit
        if not commit or not folder.is_dir():
            raise NotFound(f"{self.model!r}, revision {wanted!r}, is not in the cache at {self.folder.parent}")
        return CachedSnapshot(self, commit)


@dataclass(frozen=True, slots=True)
class CachedSnapshot:
    """One commit of a model in a cache."""

    repo: CachedModel
    commit: str

    @classmethod
    def at(cls, folder: Path) -> Self | None:
        """The snapshot whose folder that is, as its path says (links followed); None if it is none."""
        try:
            real = folder.resolve(strict=True)
        except OSError:
            return None
        repo = real.parent.parent
        name = repo.name.removeprefix(_PREFIX)
        if real.parent.name != _SNAPSHOTS or not repo.name.startswith(_PREFIX) or not name or not is_commit(real.name):
            return None
        return cls(CachedModel(name.replace("--", "/"), repo), real.name)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.repo.folder / _SNAPSHOTS / self.commit

    @property
    def refs(self) -> tuple[str, ...]:
        """The branches and tags that stand for it in this cache."""
        return self.repo.refs_of(self.commit)

    @property
    def homes(self) -> tuple[Path, ...]:
        """Where its links may lead: into the model's own folder, and to the blobs that a cache's models share."""
        return self.repo.folder, self.repo.folder.parent / "blobs"

    def named(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint of this folder, with the names that the cache has for its files' blobs.

        A small file's name is checked against its bytes, and left out where it is not what they say: somebody changed the
        file in place. That of a large one is what the hub said when it was downloaded. Raises `OSError`.
        """
        return Checkpoint(tuple(dataclasses.replace(file, blob=self._blob(file.path)) for file in checkpoint.files))

    def _blob(self, path: str) -> str:
        pointer = self.folder / path
        if not pointer.is_symlink():
            return ""
        target = pointer.readlink()
        if target.parent.name != "blobs" or not is_blob_name(target.name):
            return ""
        if is_git_sha1(target.name):
            with pointer.open("rb") as file:
                if git_sha1(file.fileno()) != target.name:
                    return ""
        return target.name


def tag(cache: Path) -> None:
    """Mark the folder as a cache, as huggingface_hub does, so that backups leave it out; see bford.info/cachedir."""
    with contextlib.suppress(FileExistsError):
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "CACHEDIR.TAG").open("x") as file:
            file.write("Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache.\n")
