"""What is fuzzed: plain functions of bytes, found by themselves in `tests/fuzz/targets`.

A target's function returns for whatever it is given, or raises what is then a defect. What the contract of the code below it
allows is caught there.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

__all__ = ["CORPUS", "MAX_BYTES", "Target", "corpus", "silence", "targets"]

CORPUS: Final = Path(__file__).with_name("corpus")
MAX_BYTES: Final = 8192
"""The largest input."""


@dataclass(frozen=True, slots=True)
class Target:
    """A function to be fuzzed, and valid input to begin with. `mutations` are what the tests run in addition to what is kept."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    mutations: int = 300


def targets() -> dict[str, Target]:
    """All of them by name."""
    package = importlib.import_module("tests.fuzz.targets")
    found: dict[str, Target] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        for target in importlib.import_module(f"tests.fuzz.targets.{module.name}").TARGETS:
            assert target.name not in found
            found[target.name] = target
    return found


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Have nothing logged: there would be no end to it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def corpus(name: str) -> list[Path]:
    """The kept input of a target."""
    return sorted((CORPUS / name).glob("*"))
