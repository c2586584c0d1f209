"""Which of a model's files are asked for."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from peerload.errors import InvalidArgument
from peerload.hub.library import library

__all__ = ["EVERYTHING", "Patterns"]


@dataclass(frozen=True, slots=True)
class Patterns:
    """Shell patterns with the meaning that `hf download` gives them: `*` matches across folders, case counts.

    A file is asked for if one of `include` fits it (or there is none) and none of `exclude` does.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def __str__(self) -> str:
        """As options of a command; the same text for the same patterns, "" for none."""
        words = [f"--include {shlex.quote(pattern)}" for pattern in sorted(set(self.include))]
        return " ".join(words + [f"--exclude {shlex.quote(pattern)}" for pattern in sorted(set(self.exclude))])

    def choose(self, paths: Collection[str]) -> frozenset[str]:
        """Those of the paths that are asked for.

        Raises `InvalidArgument` where that is none, `MissingExtra` if there are patterns and huggingface_hub is not there.
        """
        if not self:
            return frozenset(paths)
        keep = library("huggingface_hub.utils").filter_repo_objects
        chosen = frozenset(
            keep(paths, allow_patterns=list(self.include) or None, ignore_patterns=list(self.exclude) or None)
        )
        if not chosen:
            raise InvalidArgument("include" if self.include else "exclude", f"leaves none of {len(paths)} files")
        return chosen


EVERYTHING: Final = Patterns()
