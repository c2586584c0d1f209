"""Downloading from the hub itself, by huggingface_hub, into its cache."""

from __future__ import annotations

import glob
import importlib
import io
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from peerload.checkpoint import Skipped
from peerload.checkpoint.names import code_reason
from peerload.errors import PullFailed
from peerload.hub.cache import MAIN, CachedModel, CachedSnapshot, is_commit, tag
from peerload.hub.library import library
from peerload.hub.patterns import EVERYTHING, Patterns
from peerload.hub.places import write_ref

__all__ = ["download"]

_TRANSFER: Final = "Downloading bytes"
"""What huggingface_hub calls the bar of what it receives, compressed or not; the other one counts the files' bytes."""


def download(
    repo: CachedModel,
    revision: str | None = None,
    *,
    patterns: Patterns = EVERYTHING,
    allow_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CachedSnapshot, tuple[Skipped, ...]]:
    """Fetch a model's files from the hub (where HF_ENDPOINT says) into the cache, as `hf download` does; blocks.

    Files that may run code are left out unless `allow_code`, and named. The branch or tag is written last. `progress` is
    told bytes done and in all, as far as known, from threads of its own; what it raises ends the download. Raises
    `PullFailed`, `InvalidArgument` where the patterns leave nothing, `MissingExtra`.
    """
    hub = library()
    asked = revision or MAIN
    try:
        info = hub.HfApi().model_info(repo.model, revision=asked)
        paths = [sibling.rfilename for sibling in info.siblings or ()]
        chosen = sorted(patterns.choose(paths)) if paths else []
        skipped = tuple(Skipped(path, reason) for path in chosen if not allow_code and (reason := code_reason(path)))
        left_out = {skip.path for skip in skipped}
        wanted = [path for path in chosen if path not in left_out]
        if not wanted:
            raise PullFailed(f"the hub has no file of {repo.model!r} that is asked for and allowed")
        tag(repo.folder.parent)
        hub.snapshot_download(
            repo.model,
            revision=info.sha,
            cache_dir=repo.folder.parent,
            allow_patterns=[glob.escape(path) for path in wanted],
            tqdm_class=_bars(progress),
        )
    except _errors() as error:
        raise PullFailed(
            f"{repo.model!r}, revision {asked!r}, could not be downloaded: {_first_line(error)}"
        ) from error
    if not is_commit(asked):
        root = os.open(repo.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            write_ref(root, asked, info.sha)
        finally:
            os.close(root)
    return CachedSnapshot(repo, info.sha), skipped


def _errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises, and the HTTP library that this version of it uses: its own error is derived from that."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _bars(progress: Callable[[int, int], None] | None) -> type[Any]:
    """A progress bar class for huggingface_hub that draws nothing, and tells `progress` of the bytes."""
    tqdm: Any = importlib.import_module("tqdm").tqdm
    lock = threading.Lock()

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            options.update(file=io.StringIO(), disable=False)
            super().__init__(*args, **options)

        def update(self, count: float | None = 1) -> bool | None:
            shown: bool | None = super().update(count)
            if progress is not None and self.unit == "B" and not self.desc.startswith(_TRANSFER):
                with lock:
                    progress(int(self.n), int(self.total or 0))
            return shown

        def display(self, *args: Any, **options: Any) -> None:
            pass

    return Bar
