"""A server for the commands, and a model's folder to share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import safetensors_file
from tests.support.live import LiveServer


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("memory:") as running:
        yield running.start()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 2 MB, with a file that may run code."""
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_text('{"model_type": "test"}')
    (root / "sub" / "empty.txt").touch()
    (root / "model.safetensors").write_bytes(
        safetensors_file({f"layer.{index}": ("U8", [100_000]) for index in range(20)})
    )
    (root / "modeling.py").write_text("print('hello')\n")
    return root
