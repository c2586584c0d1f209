from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path

import pytest

from peerload.checkpoint import PIECE_BYTES, Skipped, digest, map_files, scan
from peerload.checkpoint.hashing import Span, digest_spans
from peerload.errors import InvalidCheckpoint, LimitExceeded
from tests.support.checkpoints import contents, safetensors_file, with_header, write_model


def test_a_model_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    found = scan(folder)
    checkpoint = found.checkpoint
    checkpoint.validate()
    assert found.skipped == ()
    assert {file.path: file.size for file in checkpoint.files} == {
        path: len(data) for path, data in contents(folder).items() if not path.endswith("/")
    }
    for file, view in zip(checkpoint.files, map_files(folder, checkpoint, stamps=found.stamps), strict=True):
        data = (folder / file.path).read_bytes()
        assert view == data
        assert view.readonly
        assert data.startswith(file.header)
        for part in file.parts:
            assert part.digest == digest(data[part.offset : part.end])
    assert scan(folder) == found


def test_an_empty_folder_and_empty_files(tmp_path: Path) -> None:
    assert scan(tmp_path).checkpoint.files == ()
    (tmp_path / "empty").touch()
    (tmp_path / "none.safetensors").write_bytes(with_header(b"{}"))
    checkpoint = scan(tmp_path).checkpoint
    checkpoint.validate()
    assert [file.parts for file in checkpoint.files] == [(), ()]
    assert [bytes(view) for view in map_files(tmp_path, checkpoint)] == [b"", with_header(b"{}")]


def test_a_large_plain_file_is_cut_into_pieces(tmp_path: Path) -> None:
    with (tmp_path / "model.gguf").open("wb") as file:
        file.truncate(2 * PIECE_BYTES + 5)
    checkpoint = scan(tmp_path).checkpoint
    checkpoint.validate()
    assert [part.name for part in checkpoint.files[0].parts] == ["model.gguf#0", "model.gguf#1", "model.gguf#2"]
    assert [part.size for part in checkpoint.files[0].parts] == [PIECE_BYTES, PIECE_BYTES, 5]
    (view,) = map_files(tmp_path, checkpoint)
    assert len(view) == 2 * PIECE_BYTES + 5


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    blobs = write_model(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        if path.is_file():
            (snapshot / path.name).symlink_to(path)
    (snapshot / "1_Pooling").mkdir()
    (snapshot / "1_Pooling" / "config.json").symlink_to("../../blobs/1_Pooling/config.json")
    (tmp_path / "ref").symlink_to(snapshot)
    assert scan(tmp_path / "ref").checkpoint == scan(blobs).checkpoint
    map_files(snapshot, scan(blobs).checkpoint)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    plain = scan(folder).checkpoint
    for name in ("modeling.py", "pytorch_model.bin", "lib.so", "1_Pooling/x.PT"):
        (folder / name).write_bytes(b"1")
    for name in (".git/config", ".cache/huggingface/x", ".peerload/y", "sub/.git"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")
    (folder / "empty").mkdir()
    found = scan(folder)
    assert found.checkpoint.content == plain.content
    assert [item.path for item in found.skipped] == sorted(
        [
            ".cache",
            ".git",
            ".peerload",
            "1_Pooling/x.PT",
            "empty",
            "lib.so",
            "modeling.py",
            "pytorch_model.bin",
            "sub/.git",
        ]
    )
    assert Skipped("modeling.py", "code") in found.skipped
    allowed = scan(folder, allow_code=True)
    assert {file.path for file in allowed.checkpoint.files} - {file.path for file in plain.files} == {
        "modeling.py",
        "pytorch_model.bin",
        "lib.so",
        "1_Pooling/x.PT",
    }
    assert allowed.checkpoint.content != plain.content


def _folder_link(folder: Path) -> None:
    (folder / "bad").symlink_to(folder.parent)


def _loop(folder: Path) -> None:
    (folder / "bad").symlink_to("bad")


def _folder_loop(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "bad").symlink_to("..")


def _nothing(folder: Path) -> None:
    (folder / "bad").symlink_to("nowhere")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "bad")


def _pipe_link(folder: Path) -> None:
    os.mkfifo(folder.parent / "pipe")
    (folder / "bad").symlink_to("../pipe")


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "bad"))


def _device(folder: Path) -> None:
    (folder / "bad").symlink_to("/dev/zero")


def _case(folder: Path) -> None:
    (folder / "bad").touch()
    (folder / "BAD").touch()


def _control(folder: Path) -> None:
    (folder / "bad\n").touch()


def _not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff")).touch()


def _header(folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(with_header(b"{]"))


def _pointer(folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _cut(folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(safetensors_file({"a": ("F32", [4])})[:-1])


def _deep(folder: Path) -> None:
    (folder / "/".join(["bad"] * 40)).mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_folder_link, "link to a folder"),
        (_loop, "loop of links"),
        (_folder_loop, "link to a folder"),
        (_nothing, "link to nothing"),
        (_pipe, "neither a file nor a folder"),
        (_pipe_link, "neither a file nor a folder"),
        (_socket, "neither a file nor a folder"),
        (_device, "neither a file nor a folder"),
        (_case, "only in case"),
        (_control, "control"),
        (_not_utf8, "invisible"),
        (_header, "bad safetensors header"),
        (_pointer, "git lfs pull"),
        (_cut, "ends at 16"),
        (_deep, "deeper than 32"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(tmp_path: Path, spoil: object, reason: str) -> None:
    folder = write_model(tmp_path / "model")
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(InvalidCheckpoint, match=reason) as refusal:
        scan(folder)
    assert "bad" in refusal.value.path.lower()


def test_what_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(InvalidCheckpoint, match="not a folder"):
            scan(path)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.checkpoint.folder.MAX_FILES", 3)
    for index in range(4):
        (tmp_path / str(index)).touch()
    with pytest.raises(InvalidCheckpoint, match="more than 3 files"):
        scan(tmp_path)


@pytest.mark.parametrize("change", ["grow", "shrink", "replace", "remove", "touch"])
def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path, change: str) -> None:
    path = tmp_path / "data.gguf"
    path.write_bytes(bytes(8 << 20))
    changed = False

    def progress(done: int, total: int) -> None:
        nonlocal changed
        if changed:
            return
        changed = True
        if change == "grow":
            os.truncate(path, (8 << 20) + 1)
        elif change == "shrink":
            os.truncate(path, 1)
        elif change == "replace":
            other = tmp_path / "other"
            other.write_bytes(bytes(8 << 20))
            other.rename(path)
        elif change == "remove":
            path.unlink()
        else:
            os.utime(path, (0, 0))

    with pytest.raises(InvalidCheckpoint, match=r"changed while it was read|went away") as refusal:
        scan(tmp_path, progress=progress)
    assert refusal.value.path == "data.gguf"


def test_a_file_that_changes_before_it_is_served_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    found = scan(folder)
    config = folder / "config.json"
    data = config.read_bytes()
    config.write_bytes(data[::-1])
    os.utime(config, ns=(0, 0))
    map_files(folder, found.checkpoint)
    with pytest.raises(InvalidCheckpoint, match=r"config\.json: the file changed"):
        map_files(folder, found.checkpoint, stamps=found.stamps)
    config.write_bytes(data + b" ")
    with pytest.raises(InvalidCheckpoint, match=r"config\.json: the file changed"):
        map_files(folder, found.checkpoint)


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", rows=2000)
    seen: list[tuple[int, int]] = []
    checkpoint = scan(folder, progress=lambda done, total: seen.append((done, total))).checkpoint
    headers = sum(len(file.header) for file in checkpoint.files)
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {checkpoint.total_size}
    assert seen[-1][0] == checkpoint.total_size - headers


def test_mapped_files_need_few_descriptors_and_outlive_their_names(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", rows=2000)
    checkpoint = scan(folder).checkpoint
    before = contents(folder)
    views = map_files(folder, checkpoint)
    for file in checkpoint.files:
        (folder / file.path).unlink()
    for file, view in zip(checkpoint.files, views, strict=True):
        assert view == before[file.path]


def test_more_files_than_the_process_may_hold_are_told(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"{index}.gguf").write_bytes(bytes(100_000))
    checkpoint = scan(tmp_path).checkpoint
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 10, hard))
    try:
        if sys.version_info >= (3, 13):
            assert len(map_files(tmp_path, checkpoint)) == 20
        else:
            with pytest.raises(LimitExceeded, match="ulimit -n"):
                map_files(tmp_path, checkpoint)
        with pytest.raises(LimitExceeded, match="ulimit -n"):
            scan(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_interrupt_while_digesting_stops_the_threads(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(64 << 20))

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(KeyboardInterrupt):
            digest_spans([Span(fd, 0, 64 << 20, "data")] * 50, progress=progress)
    finally:
        os.close(fd)


def test_spans_are_digested_in_order(tmp_path: Path) -> None:
    path = tmp_path / "data"
    data = os.urandom(3 << 20)
    path.write_bytes(data)
    cuts = [(0, 0), (0, 1), (1, 2 << 20), (5, (3 << 20) - 5), (3 << 20, 0)]
    fd = os.open(path, os.O_RDONLY)
    try:
        found = digest_spans([Span(fd, at, size, "data") for at, size in cuts])
    finally:
        os.close(fd)
    assert found == [digest(data[at : at + size]) for at, size in cuts]
    assert digest_spans([]) == []
