"""Engines whose packages may be missing."""

from __future__ import annotations

import os

import pytest

from peerload.errors import MissingExtra
from peerload.plugins import open_engine


def need_engine(name: str, *, module: bool = True) -> None:
    """Skip the module (or the test), by the engine's name, where what it needs is not installed; in CI that is a failure."""
    try:
        open_engine(name)
    except MissingExtra as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name}: {error}", allow_module_level=module)
