"""A server that the tests of one module share, and a small model's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.live import LiveServer


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("memory:") as running:
        yield running.start()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as a repository has it: two shards, and beside them what an engine does not load."""
    root = tmp_path / "model"
    (root / "original").mkdir(parents=True)
    for shard in range(2):
        arrays = {f"layers.{shard}.{index}": np.full((64, 32), shard + index / 10, "f4") for index in range(10)}
        save_file(arrays, root / f"model-0000{shard + 1}-of-00002.safetensors")
    stray = {"layers.0.0": np.full((64, 32), -1, "f4"), "other": np.zeros(3, "f4")}
    save_file(stray, root / "consolidated.safetensors")
    save_file(stray, root / "original" / "model.safetensors")
    (root / "config.json").write_text("{}")
    return root
