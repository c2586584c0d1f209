from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from peerload.checkpoint import Checkpoint, CheckpointFile, Part, digest, pieces, scan
from peerload.checkpoint.model import MAX_FILES, PIECE_BYTES
from peerload.errors import InvalidCheckpoint
from tests.support.checkpoints import safetensors_file, with_header


def plain(path: str, data: bytes = b"x") -> CheckpointFile:
    parts = tuple(Part(name, at, size, digest(data[at : at + size])) for name, at, size in pieces(path, len(data)))
    return CheckpointFile(path, len(data), b"", parts)


def weights(path: str = "model.safetensors") -> CheckpointFile:
    file = safetensors_file({"a": ("F32", [2]), "b": ("U8", [0]), "c": ("U8", [3])})
    size = 8 + int.from_bytes(file[:8], "little")
    data = file[size:]
    parts = (
        Part("a", size, 8, digest(data[:8]), "F32", (2,)),
        Part("b", size + 8, 0, digest(b""), "U8", (0,)),
        Part("c", size + 8, 3, digest(data[8:]), "U8", (3,)),
    )
    return CheckpointFile(path, len(file), file[:size], parts)


def test_pieces_tile_a_file() -> None:
    assert list(pieces("p", 0)) == []
    assert list(pieces("p", 1)) == [("p", 0, 1)]
    assert list(pieces("p", PIECE_BYTES)) == [("p", 0, PIECE_BYTES)]
    assert list(pieces("p", PIECE_BYTES + 1)) == [("p#0", 0, PIECE_BYTES), ("p#1", PIECE_BYTES, 1)]


def test_a_right_checkpoint_passes() -> None:
    Checkpoint(()).validate()
    Checkpoint((plain("a/b"), plain("config.json", b""), weights())).validate()


def test_content_follows_every_path_size_and_byte() -> None:
    base = Checkpoint((plain("a", b"1"), weights()))
    assert base.content == Checkpoint((plain("a", b"1"), weights())).content
    assert len(base.content) == 32
    others = [
        Checkpoint((plain("a", b"2"), weights())),
        Checkpoint((plain("b", b"1"), weights())),
        Checkpoint((plain("a", b"1"),)),
        Checkpoint((plain("a", b""), plain("b", b"1"), weights())),
        Checkpoint((plain("a", b"1"), weights("other.safetensors"))),
        Checkpoint(()),
    ]
    assert len({base.content, *(other.content for other in others)}) == len(others) + 1


def test_the_content_of_known_bytes_stays_what_it_is_known_by() -> None:
    """Peers of different versions must agree on it."""
    assert Checkpoint((plain("a", b"1"), weights())).content == "10e8a51c19832143bf9c0e80a9051e64"


def _part(index: int, **changes: object) -> Callable[[CheckpointFile], CheckpointFile]:
    def change(file: CheckpointFile) -> CheckpointFile:
        parts = list(file.parts)
        parts[index] = dataclasses.replace(parts[index], **changes)  # type: ignore[arg-type]
        return dataclasses.replace(file, parts=tuple(parts))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_part(0, offset=0), "parts: 'a' at 0"),
        (_part(0, size=9), "parts: 'a'"),
        (_part(0, dtype="BF16"), "parts: 'a'"),
        (_part(0, shape=(2, 1)), "parts: 'a'"),
        (_part(1, name="a"), "parts: 'a'"),
        (_part(2, digest=b""), "digest of 'c' is not 16 bytes"),
        (_part(2, offset=-1), "parts: 'c'"),
        (lambda file: dataclasses.replace(file, parts=file.parts[::-1]), "parts: 'c'"),
        (lambda file: dataclasses.replace(file, parts=file.parts[:2]), "2 given where the file has 3"),
        (lambda file: dataclasses.replace(file, header=b""), "at least 8 bytes"),
        (lambda file: dataclasses.replace(file, header=file.header[:-1]), "cut off"),
        (lambda file: dataclasses.replace(file, header=file.header + b" "), "something follows"),
        (lambda file: dataclasses.replace(file, size=file.size + 1), "the tensors end"),
        (lambda file: dataclasses.replace(file, size=-1), "size: -1"),
        (lambda file: dataclasses.replace(file, size=2**63), "size: "),
        (lambda file: dataclasses.replace(file, path="model.bin"), "only a safetensors file has one"),
        (lambda file: dataclasses.replace(file, path="../model.safetensors"), r"'\.\.'"),
    ],
)
def test_a_wrong_safetensors_file_is_refused(change: Callable[[CheckpointFile], CheckpointFile], reason: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason) as refusal:
        Checkpoint((change(weights()),)).validate()
    assert "model" in refusal.value.path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_part(0, name="other"), "parts: 'other'"),
        (_part(0, offset=1), "parts: 'plain'"),
        (_part(0, dtype="U8"), "parts: 'plain'"),
        (lambda file: dataclasses.replace(file, parts=()), "0 given where the file has 1"),
        (lambda file: dataclasses.replace(file, parts=file.parts * 2), "2 given where the file has 1"),
        (lambda file: dataclasses.replace(file, size=0), "1 given where the file has 0"),
        (lambda file: dataclasses.replace(file, size=10**18), "1 given where the file has"),
        (lambda file: dataclasses.replace(file, header=with_header(b"{}")), "only a safetensors file has one"),
    ],
)
def test_a_wrong_plain_file_is_refused(change: Callable[[CheckpointFile], CheckpointFile], reason: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason):
        Checkpoint((change(plain("plain")),)).validate()


def test_the_files_together_are_checked() -> None:
    for files, reason in (
        ((plain("b"), plain("a")), "not sorted"),
        ((plain("a"), plain("a")), "twice"),
        ((plain("A"), plain("a")), "only in case"),
        (tuple(plain(f"{index:05}") for index in range(MAX_FILES + 1)), f"the limit is {MAX_FILES}"),
    ):
        with pytest.raises(InvalidCheckpoint, match=reason):
            Checkpoint(files).validate()


def test_what_scan_makes_is_valid(tmp_path: Path) -> None:
    file = safetensors_file({"a": ("F32", [2]), "b": ("U8", [0]), "c": ("U8", [3])})
    (tmp_path / "model.safetensors").write_bytes(file)
    assert scan(tmp_path).checkpoint == Checkpoint((weights(),))
