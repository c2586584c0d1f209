"""Any folder survives the way through a checkpoint, and no manifest does more than be refused."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.checkpoint import Checkpoint, CheckpointFile, Part, Staging, scan
from peerload.errors import InvalidCheckpoint
from tests.support.checkpoints import contents, fill, safetensors_file, write_model

NAMES = st.text(st.characters(categories=["Ll", "Nd", "Lo"], include_characters="._- "), min_size=1, max_size=6)
PATHS = st.lists(NAMES.filter(lambda name: name.strip(".") != ""), min_size=1, max_size=3).map("/".join)
FILES = st.binary(max_size=50) | st.integers(0, 3).map(
    lambda count: safetensors_file({f"t{index}": ("BF16", [index, 2]) for index in range(count)}, padding=count)
)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        if data[8:9] == b"{":
            path += ".safetensors"
        file = folder / path
        if not file.is_dir() and not any(parent.is_file() for parent in file.parents):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(PATHS, FILES, max_size=6), st.dictionaries(PATHS, FILES, max_size=3))
def test_any_folder_comes_back_over_whatever_was_there(files: dict[str, bytes], before: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "source"), Path(name, "target")
        source.mkdir()
        target.mkdir()
        _write(source, files)
        _write(target, before)
        try:
            found = scan(source, allow_code=True)
        except InvalidCheckpoint:
            return  # two of the names fall together, or a file only ends like safetensors
        found.checkpoint.validate()
        try:
            staging = Staging(target, found.checkpoint, allow_code=True)
        except InvalidCheckpoint:
            return  # a folder where a file must be, or the other way round
        others = {path: data for path, data in contents(target).items() if not path.startswith(".peerload")}
        with staging:
            fill(staging, source, found.checkpoint, staging.reusable())
            staging.commit()
        after = contents(target)
        assert after == {**others, **contents(source)}
        assert scan(source, allow_code=True) == found


def _base() -> Checkpoint:
    with tempfile.TemporaryDirectory() as name:
        return scan(write_model(Path(name) / "model", shards=1, rows=2)).checkpoint


BASE = _base()
NUMBERS = st.sampled_from([-1, 0, 1, 7, 8, 2**31, 2**63, 2**64 - 1, 2**64])
CHANGES: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    Part: {
        "name": st.text(max_size=3),
        "offset": NUMBERS,
        "size": NUMBERS,
        "digest": st.binary(max_size=17),
        "dtype": st.sampled_from(["", "F32", "BOOL", "X"]),
        "shape": st.lists(NUMBERS, max_size=3).map(tuple),
    },
    CheckpointFile: {
        "path": st.text(max_size=5) | st.sampled_from(["config.json", "CONFIG.JSON", "a/../b", "/a", "x.safetensors"]),
        "size": NUMBERS,
        "header": st.binary(max_size=20),
        "parts": st.just(()),
    },
}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_manifests_are_refused_or_right(data: st.DataObject) -> None:
    files = list(BASE.files)
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(files) - 1))
        file = files[index]
        name, strategy = data.draw(st.sampled_from(sorted(CHANGES[CheckpointFile].items(), key=lambda item: item[0])))
        if file.parts and data.draw(st.booleans()):
            number = data.draw(st.integers(0, len(file.parts) - 1))
            name, strategy = data.draw(st.sampled_from(sorted(CHANGES[Part].items(), key=lambda item: item[0])))
            part = dataclasses.replace(file.parts[number], **{name: data.draw(strategy)})
            files[index] = dataclasses.replace(file, parts=(*file.parts[:number], part, *file.parts[number + 1 :]))
        else:
            files[index] = dataclasses.replace(file, **{name: data.draw(strategy)})
    changed = Checkpoint(tuple(files))
    try:
        changed.validate()
    except InvalidCheckpoint:
        return
    for file in changed.files:
        end = len(file.header)
        for part in file.parts:
            assert part.offset == end
            end = part.end
        assert end == file.size
    assert len(changed.content) == 32
