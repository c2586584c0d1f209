"""Programs of the system's that tests run."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["needs"]


def needs(program: str, package: str) -> str:
    """The path of a program on the PATH. Skips the test where there is none; in CI that is a failure."""
    path = shutil.which(program)
    if path is None:
        message = f"there is no {program} on the PATH (Debian: apt-get install {package})"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(message)
        pytest.skip(message)
    return path
