"""The demo's verdict: are the copies the files, bit by bit, and do they compute the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PAIRS", "FileCheck", "ForwardCheck", "compare_files", "compare_forward"]

PAIRS: Final = (
    ("A dog runs across the meadow.", "A puppy is running over the grass."),
    ("A dog runs across the meadow.", "The central bank raised interest rates."),
)
"""Sentences whose similarity the model is asked for: two that mean nearly the same, two that have nothing in common."""

_BLOCK: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file: its path, size and SHA-256, and the copies (by name) that are not the same or are not there."""

    path: str
    size: int
    sha256: str
    differing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForwardCheck:
    """One pair of sentences: the similarity by the files' weights and by the pulled ones, and whether every number of
    both vectors is bit for bit the same."""

    first: str
    second: str
    by_files: float
    by_pulled: float
    identical: bool


def compare_files(original: Path, copies: dict[str, Path]) -> list[FileCheck]:
    """Compare every file of `original` with the same in each copy, by SHA-256 of what is read back from each.

    A file that only a copy has counts as a difference too.
    """
    here = _files(original)
    there = {name: _files(folder) for name, folder in copies.items()}
    checks = []
    for path in sorted(here.keys() | set().union(*there.values())):
        expected = _sha256(here.get(path))
        differing = tuple(name for name, files in there.items() if _sha256(files.get(path)) != expected)
        found = next(files[path] for files in (here, *there.values()) if path in files)
        checks.append(FileCheck(path, found.stat().st_size, expected, differing))
    return checks


def compare_forward(original: Path, pulled: Path) -> list[ForwardCheck]:
    """Run the model on both folders' weights, in numpy. Raises `MissingExtra` where its packages are not installed."""
    from peerload.demo.minilm import MiniLM

    sentences = {text for pair in PAIRS for text in pair}
    by_files, by_pulled = (
        {text: model.embed(text) for text in sentences} for model in (MiniLM.load(original), MiniLM.load(pulled))
    )
    return [
        ForwardCheck(
            first,
            second,
            float(by_files[first] @ by_files[second]),
            float(by_pulled[first] @ by_pulled[second]),
            all(by_files[text].tobytes() == by_pulled[text].tobytes() for text in (first, second)),
        )
        for first, second in PAIRS
    ]


def _files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def _sha256(path: Path | None) -> str:
    """Of what is read back from a file; empty where there is none."""
    if path is None:
        return ""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()
