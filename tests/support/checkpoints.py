"""Folders of small models, made by hand so that every byte is known."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from peerload.checkpoint import Checkpoint, Staging, map_files
from peerload.checkpoint.dtypes import itemsize_bits


def safetensors_file(
    tensors: Mapping[str, tuple[str, Sequence[int]]],
    *,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
    padding: int = 0,
) -> bytes:
    """A file of these (dtype, shape), with bytes that a seed decides."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape) in tensors.items():
        bits = itemsize_bits(dtype)
        for dimension in shape:
            bits *= dimension
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + bits // 8]}
        at += bits // 8
    return with_header(json.dumps(header).encode() + b" " * padding, random.Random(seed).randbytes(at))


def with_header(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file of this header text and data, right or wrong."""
    return len(header).to_bytes(8, "little") + header + data


def write_model(folder: Path, *, seed: int = 0, shards: int = 2, rows: int = 64) -> Path:
    """A folder as a model repository has it: shards, index, config, tokenizer, an empty file, a subfolder."""
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors = {
            f"layers.{shard}.weight": ("BF16", [rows, 128]),
            f"layers.{shard}.scale": ("F8_E4M3", [rows]),
            f"layers.{shard}.none": ("F32", [0, 8]),
        }
        (folder / name).write_bytes(safetensors_file(tensors, seed=seed + shard, metadata={"format": "pt"}, padding=3))
        index |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text('{"model_type": "test"}\n')
    (folder / "tokenizer.json").write_bytes(random.Random(seed).randbytes(5000))
    (folder / ".gitattributes").write_bytes(b"")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path; folders appear as b"" with a slash."""
    return {
        path.relative_to(folder).as_posix() + ("/" if path.is_dir() else ""): b""
        if path.is_dir()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def fill(staging: Staging, source: Path, checkpoint: Checkpoint, reused: Set[tuple[int, int]] = frozenset()) -> int:
    """Copy every part that is not there yet from a folder, as a pull would; the bytes copied."""
    moved = 0
    regions = map_files(source, checkpoint)
    for index in staging.wanted:
        view = staging.view(index)
        for number, part in enumerate(checkpoint.files[index].parts):
            if (index, number) not in reused:
                view[part.offset : part.end] = regions[index][part.offset : part.end]
                moved += part.size
    return moved
