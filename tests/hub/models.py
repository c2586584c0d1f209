"""A small model's files, and what a cache holds of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.checkpoints import safetensors_file


def model_files(*, seed: int = 0, size: int = 300_000) -> dict[str, bytes]:
    """Weights, a config, a file in a folder, an empty one, two that are alike, and one that may run code."""
    return {
        "config.json": b'{"model_type": "test"}',
        "model.safetensors": safetensors_file({"a": ("U8", [size]), "b": ("U8", [7])}, seed=seed),
        "sub/notes.txt": b"notes",
        "sub/copy.txt": b"notes",
        "empty": b"",
        "modeling.py": b"print('hello')\n",
    }


def without_code(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if not path.endswith(".py")}


def repo_of(cache: Path, model: str) -> Path:
    return cache / f"models--{model.replace('/', '--')}"


def snapshot_files(cache: Path, model: str, commit: str) -> dict[str, bytes]:
    """What the snapshot has, through its links."""
    root = repo_of(cache, model) / "snapshots" / commit
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if not path.is_dir()}


def links(cache: Path, model: str, commit: str) -> dict[str, str]:
    root = repo_of(cache, model) / "snapshots" / commit
    return {path.relative_to(root).as_posix(): str(path.readlink()) for path in root.rglob("*") if path.is_symlink()}


def offline(cache: Path, model: str, *more: str) -> dict[str, Any]:
    """What huggingface_hub finds there without a network."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("offline.py")), model, *more],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
