from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from peerload.checkpoint import Checkpoint, CheckpointFile, Part, Staging, digest, map_files, scan
from peerload.checkpoint.lock import StagingFolder
from peerload.errors import InvalidArgument, InvalidCheckpoint, LimitExceeded, NotAllowed
from tests.support.checkpoints import contents, fill, write_model

ROOT = Path(__file__).parents[2]


def pull(source: Path, target: Path, checkpoint: Checkpoint | None = None) -> tuple[int, int]:
    """Bytes moved and bytes reused."""
    checkpoint = checkpoint or scan(source, allow_code=True).checkpoint
    with Staging(target, checkpoint, allow_code=True) as staging:
        reused = staging.reusable()
        moved = fill(staging, source, checkpoint, reused)
        staging.commit()
    return moved, sum(checkpoint.files[index].parts[number].size for index, number in reused)


def payload(checkpoint: Checkpoint) -> int:
    return sum(part.size for file in checkpoint.files for part in file.parts)


def plain(path: str, data: bytes = b"x") -> CheckpointFile:
    return CheckpointFile(path, len(data), b"", (Part(path, 0, len(data), digest(data)),) if data else ())


def test_a_pull_gives_the_folder_back_byte_for_byte(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source", shards=3)
    checkpoint = scan(source).checkpoint
    assert pull(source, tmp_path / "new" / "target") == (payload(checkpoint), 0)
    assert subprocess.run(["diff", "-r", source, tmp_path / "new" / "target"], check=False).returncode == 0
    assert contents(tmp_path / "new" / "target") == contents(source)


def test_nothing_has_its_name_before_commit(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source")
    checkpoint = scan(source).checkpoint
    target = tmp_path / "target"
    with Staging(target, checkpoint) as staging:
        fill(staging, source, checkpoint, staging.reusable())
        assert [path.name for path in target.iterdir()] == [".peerload"]
    assert [path.name for path in target.iterdir()] == [".peerload"]


def test_an_empty_checkpoint_and_empty_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    assert pull(source, tmp_path / "target") == (0, 0)
    assert contents(tmp_path / "target") == {}
    (source / "empty").touch()
    assert pull(source, tmp_path / "target") == (0, 0)
    assert contents(tmp_path / "target") == {"empty": b""}


def test_a_complete_folder_is_left_untouched(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    moved, _ = pull(source, target)
    stamps = {path: path.stat() for path in target.rglob("*") if path.is_file()}
    (target / "mine.txt").write_text("kept")
    assert pull(source, target) == (0, moved)
    for path, stamp in stamps.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)
    assert (target / "mine.txt").read_text() == "kept"
    assert not (target / ".peerload").exists()


def test_a_complete_file_can_be_read_and_not_written_through_its_view(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    pull(source, target)
    checkpoint = scan(source).checkpoint
    with Staging(target, checkpoint) as staging:
        staging.reusable()
        for index in staging.wanted:
            assert staging.view(index).readonly or not staging.view(index)
            assert staging.view(index) == (source / checkpoint.files[index].path).read_bytes()


def test_a_file_that_differs_in_part_is_replaced_and_its_right_parts_reused(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    pull(source, target)
    checkpoint = scan(source).checkpoint
    name = "model-00001-of-00002.safetensors"
    file = next(file for file in checkpoint.files if file.path == name)
    wrong = bytearray((target / name).read_bytes())
    wrong[file.parts[0].offset] ^= 1
    (target / name).write_bytes(wrong)
    moved, reused = pull(source, target)
    assert moved == file.parts[0].size
    assert reused == payload(checkpoint) - moved
    assert contents(target) == contents(source)


def test_a_file_with_another_header_or_size_is_replaced(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    write_model(target, rows=32)
    (target / "config.json").write_text("something else")
    pull(source, target)
    assert contents(target) == contents(source)


def test_views_stay_valid_after_close_and_show_what_the_files_hold(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    checkpoint = scan(source).checkpoint
    staging = Staging(target, checkpoint)
    fill(staging, source, checkpoint, staging.reusable())
    views = {index: staging.view(index) for index in staging.wanted}
    staging.commit()
    staging.close()
    staging.close()
    for index, view in views.items():
        assert view == (target / checkpoint.files[index].path).read_bytes()
    with pytest.raises(ValueError, match="closed"):
        staging.commit()


def test_code_is_left_out_and_named_unless_allowed(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    without = contents(source)
    (source / "modeling.py").write_text("print()")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    checkpoint = scan(source, allow_code=True).checkpoint
    with Staging(target, checkpoint) as staging:
        assert [item.path for item in staging.skipped] == ["modeling.py", "pytorch_model.bin"]
        assert staging.kept.content == scan(source).checkpoint.content != checkpoint.content
        fill(staging, source, checkpoint, staging.reusable())
        staging.commit()
    assert contents(target) == without
    pull(source, target, checkpoint)
    assert contents(target) == contents(source)


# What stands in the way.


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/cron.d/x", "absolute"),
        ("../x", r"'\.\.'"),
        ("a\\b", "backslash"),
        (".git/hooks/pre-commit", "reserved"),
        (".peerload/x", "reserved"),
        ("a\nb", "control"),
    ],
)
def test_unsafe_names_are_refused_and_nothing_is_made(tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason):
        Staging(tmp_path / "target", Checkpoint((plain(path),)))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    for number, (link, goal, path) in enumerate(
        [
            ("sub", outside, "sub/file"),
            ("sub", outside, "sub/new"),
            ("file", outside / "file", "file"),
            ("file", outside / "absent", "file"),
            (".peerload", outside, "file"),
        ]
    ):
        target = tmp_path / str(number)
        target.mkdir()
        (target / link).symlink_to(goal)
        with pytest.raises(InvalidCheckpoint, match="link"):
            Staging(target, Checkpoint((plain(path),)))
    assert contents(outside) == {"file": b"mine"}


def test_a_link_put_in_the_way_later_is_not_followed_either(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    with Staging(target, Checkpoint((plain("sub/file"),))) as staging:
        staging.reusable()
        staging.view(0)[:] = b"x"
        (target / "sub").symlink_to(outside)
        with pytest.raises(InvalidCheckpoint, match="link"):
            staging.commit()
    assert contents(outside) == {}
    (target / "sub").unlink()
    with Staging(target, Checkpoint((plain("sub/file"),))) as staging:
        assert staging.reusable() == {(0, 0)}
        (target / "sub").mkdir()
        (target / "sub" / "file").symlink_to(outside / "file")
        staging.commit()
    assert contents(outside) == {}
    assert contents(target) == {"sub/": b"", "sub/file": b"x"}


def test_other_things_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in ("folder", "pipe", "file/below"):
        with pytest.raises(InvalidCheckpoint) as refusal:
            Staging(tmp_path, Checkpoint((plain(path),)))
        assert refusal.value.path == path
    for nowhere in ("file", "file/below"):
        with pytest.raises(InvalidArgument, match=f"^local_dir: {tmp_path / nowhere} is.* not a folder$"):
            Staging(tmp_path / nowhere, Checkpoint((plain("a"),)))
    with pytest.raises(InvalidArgument, match=r"^local_dir: /proc/peerload cannot be made there$"):
        Staging(Path("/proc/peerload"), Checkpoint((plain("a"),)))


def test_a_disk_without_room_is_told_before_any_file_is_made(tmp_path: Path) -> None:
    size = 2**60
    count = -(-size // (64 << 20))
    huge = [with_header_of(size, index) for index in range(2)]
    assert count > 1
    with Staging(tmp_path, Checkpoint(tuple(huge))) as staging:
        with pytest.raises(LimitExceeded, match=r"local_dir: .* needs 2305843009213693952 bytes more"):
            staging.reusable()
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def with_header_of(size: int, index: int) -> CheckpointFile:
    """A safetensors file of one tensor that fills it."""
    header = b"{}"
    length = 0
    while length != len(header):
        length = len(header)
        begin = size - 8 - length
        header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (begin, begin)
    raw = len(header).to_bytes(8, "little") + header
    part = Part("a", len(raw), size - len(raw), bytes(16), "U8", (size - len(raw),))
    return CheckpointFile(f"{index}.safetensors", size, raw, (part,))


def test_a_disk_that_fills_up_meanwhile_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with Staging(tmp_path, Checkpoint((plain("a"),))) as staging:
        with pytest.raises(LimitExceeded, match="local_dir"):
            staging.reusable()


# Two pulls, and what earlier ones left.


def test_two_pulls_of_one_folder_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint((plain("a"),))
    with Staging(tmp_path, checkpoint):
        with pytest.raises(NotAllowed, match="another pull"):
            Staging(tmp_path, checkpoint)
    with Staging(tmp_path, checkpoint) as staging:
        staging.reusable()
        staging.view(0)[:] = b"x"
        staging.commit()
        # The folder is its own again as soon as the pull has ended.
        with Staging(tmp_path, checkpoint) as other:
            assert other.reusable() == {(0, 0)}


def test_of_many_pulls_at_once_one_at_a_time_has_the_lock(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    inside: list[int] = []
    held: list[bool] = []

    def work(number: int) -> None:
        for _ in range(50):
            try:
                folder = StagingFolder(root, tmp_path)
            except NotAllowed:
                continue
            inside.append(number)
            held.append(len(inside) == 1)
            inside.remove(number)
            folder.remove()
            folder.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    try:
        for thread in threads:
            thread.start()
    finally:
        for thread in threads:
            thread.join()
        os.close(root)
    assert held
    assert all(held)
    assert contents(tmp_path) == {}


def test_a_lock_that_was_removed_meanwhile_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pull ends between the second's open and its lock."""
    checkpoint = Checkpoint((plain("a"),))
    first = Staging(tmp_path, checkpoint)
    first.reusable()
    first.view(0)[:] = b"x"
    taken: list[int] = []
    original = fcntl.flock

    def late(fd: int, operation: int) -> None:
        if not taken:
            taken.append(fd)
            first.commit()
            first.close()
        original(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with Staging(tmp_path, checkpoint) as second:
        assert (tmp_path / ".peerload" / "lock").exists()
        monkeypatch.undo()
        with pytest.raises(NotAllowed):
            Staging(tmp_path, checkpoint)
        assert second.reusable() == {(0, 0)}


def test_what_a_pull_of_another_content_left_is_removed(tmp_path: Path) -> None:
    with Staging(tmp_path, Checkpoint((plain("a", b"1"),))) as staging:
        staging.reusable()
    (tmp_path / ".peerload" / "stray").touch()
    with Staging(tmp_path, Checkpoint((plain("a", b"2"),))) as staging:
        staging.reusable()
        assert sorted(path.name for path in (tmp_path / ".peerload").iterdir()) == [staging.kept.content, "lock"]


def test_unfinished_files_are_digested_not_believed(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    checkpoint = scan(source).checkpoint
    with Staging(target, checkpoint) as staging:
        fill(staging, source, checkpoint, staging.reusable())
        index = next(index for index in staging.wanted if checkpoint.files[index].path.endswith("00002.safetensors"))
        part = checkpoint.files[index].parts[0]
        staging.view(index)[part.offset] ^= 1
        staging.view(index)[3] ^= 1  # the header is written anew in any case
    seen: list[tuple[int, int]] = []
    with Staging(target, checkpoint) as staging:
        reused = staging.reusable(lambda done, total: seen.append((done, total)))
        everything = {(i, n) for i, file in enumerate(checkpoint.files) for n in range(len(file.parts))}
        assert everything - reused == {(index, 0)}
        assert fill(staging, source, checkpoint, reused) == part.size
        staging.commit()
    assert seen[-1][0] == seen[-1][1] == payload(checkpoint)
    assert contents(target) == contents(source)


def test_a_wrong_digest_of_nothing_is_not_reused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source")
    checkpoint = scan(source).checkpoint
    index, file = next((i, f) for i, f in enumerate(checkpoint.files) if any(part.size == 0 for part in f.parts))
    number = next(n for n, part in enumerate(file.parts) if part.size == 0)
    parts = list(file.parts)
    parts[number] = dataclasses.replace(parts[number], digest=bytes(16))
    files = list(checkpoint.files)
    files[index] = dataclasses.replace(file, parts=tuple(parts))
    with Staging(tmp_path / "target", Checkpoint(tuple(files))) as staging:
        assert (index, number) not in staging.reusable()
    with Staging(tmp_path / "target", checkpoint) as staging:
        assert (index, number) not in staging.reusable()


def test_a_killed_pull_goes_on_where_it_was(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source", rows=5000), tmp_path / "target"
    checkpoint = scan(source).checkpoint
    command = [sys.executable, "-m", "tests.checkpoint.killed_pull", "fill", str(source), str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        filled = sum(int(child.stdout.readline()) for _ in range(4))
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
    assert filled > 0
    assert [path.name for path in target.iterdir()] == [".peerload"]
    moved, reused = pull(source, target)
    assert reused >= filled
    assert moved + reused == payload(checkpoint)
    assert contents(target) == contents(source)


def test_a_pull_killed_at_any_step_leaves_nothing_that_looks_complete_and_is_not(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source", shards=1), tmp_path / "target"
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.killed_pull", "steps", str(source), str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # Making two folders and six files, naming them, a folder for one, and removing the staging.
    assert int(done.stdout) >= 18


def test_names_are_given_in_an_order_that_never_promises_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_model(tmp_path / "source"), tmp_path / "target"
    checkpoint = scan(source).checkpoint
    order: list[str] = []
    original = os.rename

    def record(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        order.append(new)
        original(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", record)
    with Staging(target, checkpoint) as staging:
        fill(staging, source, checkpoint, staging.reusable())
        staging.commit()
    assert order[0] == "model-00001-of-00002.safetensors"
    assert order[-1] == "model.safetensors.index.json"
    assert order.index("model-00002-of-00002.safetensors") < order.index("config.json")


def test_mapped_files_of_the_target_serve_in_turn(tmp_path: Path) -> None:
    source, middle, last = write_model(tmp_path / "source"), tmp_path / "middle", tmp_path / "last"
    checkpoint = scan(source).checkpoint
    pull(source, middle)
    assert [bytes(view) for view in map_files(middle, checkpoint)] == [
        bytes(view) for view in map_files(source, checkpoint)
    ]
    pull(middle, last)
    assert contents(last) == contents(source)
