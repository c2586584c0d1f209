"""Filling a model's folder of the cache: names, links, refs, and what a pull that ends anywhere leaves."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from peerload.checkpoint import Checkpoint, CheckpointFile, Part, Staging, digest, scan
from peerload.errors import InvalidCheckpoint, NotFound, VerificationFailed
from peerload.hub.cache import CachedModel, CachedSnapshot
from peerload.hub.places import CachePlaces
from tests.hub.models import links, model_files, repo_of, snapshot_files, without_code
from tests.support.checkpoints import fill
from tests.support.hub import commit_of, etag, git_name, write_cache

MODEL = "org/name"


def read(cache: Path, commit: str) -> tuple[Path, Checkpoint]:
    """What a source would offer of its cache."""
    snapshot = CachedModel(MODEL, repo_of(cache, MODEL)).snapshot(commit)
    return snapshot.folder, snapshot.named(scan(snapshot.folder, homes=snapshot.homes).checkpoint)


def pull(source: Path, checkpoint: Checkpoint, cache: Path, commit: str, ref: str = "main") -> int:
    """The bytes moved."""
    with Staging(repo_of(cache, MODEL), checkpoint, places=CachePlaces(commit, ref)) as staging:
        moved = fill(staging, source, checkpoint, staging.reusable())
        staging.commit()
    return moved


def plain(path: str, data: bytes, blob: str = "") -> CheckpointFile:
    return CheckpointFile(path, len(data), b"", (Part(path, 0, len(data), digest(data)),), blob)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, Checkpoint, str]:
    commit = write_cache(tmp_path / "source", MODEL, without_code(model_files()))
    return *read(tmp_path / "source", commit), commit


@pytest.mark.parametrize("known", [True, False])
def test_the_cache_is_as_huggingface_hub_would_have_it(
    source: tuple[Path, Checkpoint, str], tmp_path: Path, known: bool
) -> None:
    folder, checkpoint, commit = source
    if not known:
        checkpoint = Checkpoint(tuple(dataclasses.replace(file, blob="") for file in checkpoint.files))
    pull(folder, checkpoint, tmp_path / "target", commit, "refs/pr/1")
    files = without_code(model_files())
    assert snapshot_files(tmp_path / "target", MODEL, commit) == files
    assert links(tmp_path / "target", MODEL, commit) == links(tmp_path / "source", MODEL, commit)
    repo = repo_of(tmp_path / "target", MODEL)
    assert sorted(path.name for path in repo.iterdir()) == ["blobs", "refs", "snapshots"]
    assert {path.name for path in (repo / "blobs").iterdir()} == {etag(path, data) for path, data in files.items()}
    assert (repo / "refs" / "refs" / "pr" / "1").read_text() == commit
    assert pull(folder, checkpoint, tmp_path / "target", commit) == 0
    assert not scan_cache_dir(tmp_path / "target").warnings


def test_until_it_is_complete_huggingface_hub_sees_nothing_of_it(
    source: tuple[Path, Checkpoint, str], tmp_path: Path
) -> None:
    folder, checkpoint, commit = source
    cache = tmp_path / "target"
    with Staging(repo_of(cache, MODEL), checkpoint, places=CachePlaces(commit, "main")) as staging:
        fill(staging, folder, checkpoint, staging.reusable())
    found = scan_cache_dir(cache)
    assert not found.warnings
    assert [len(repo.revisions) for repo in found.repos] == [0]
    with pytest.raises(NotFound):
        CachedModel(MODEL, repo_of(cache, MODEL)).snapshot()
    # The next one takes over what was there.
    assert pull(folder, checkpoint, cache, commit) == 0
    assert snapshot_files(cache, MODEL, commit) == without_code(model_files())


def test_a_crash_after_any_step_of_the_commit_leaves_all_or_nothing(
    source: tuple[Path, Checkpoint, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checkpoint, commit = source

    class Crash(BaseException):
        pass

    steps = ("rename", "symlink", "mkdir", "unlink", "open")
    for survived in range(400):
        cache = tmp_path / f"cache{survived}"
        with Staging(repo_of(cache, MODEL), checkpoint, places=CachePlaces(commit, "main")) as staging:
            fill(staging, folder, checkpoint, staging.reusable())
            left = survived
            with monkeypatch.context() as patch:

                def patched(name: str, patch: pytest.MonkeyPatch = patch) -> None:
                    real = getattr(os, name)

                    def step(*args: object, **options: object) -> object:
                        nonlocal left
                        if left == 0:
                            raise Crash
                        left -= 1
                        return real(*args, **options)

                    patch.setattr(os, name, step)

                for name in steps:
                    patched(name)
                try:
                    staging.commit()
                    done = True
                except Crash:
                    done = False
        found = scan_cache_dir(cache)
        assert not found.warnings, survived
        (repo,) = found.repos
        for revision in repo.revisions:
            assert snapshot_files(cache, MODEL, revision.commit_hash) == without_code(model_files())
        assert not repo.refs or repo.revisions
        if done:
            break
        if survived % 8 == 0:
            assert pull(folder, checkpoint, cache, commit) == 0
            assert (repo_of(cache, MODEL) / "refs" / "main").read_text() == commit
    else:
        pytest.fail("a commit does not end")


def test_blobs_of_another_commit_are_reused_and_a_partial_snapshot_is_completed(
    source: tuple[Path, Checkpoint, str], tmp_path: Path
) -> None:
    folder, checkpoint, commit = source
    files = without_code(model_files())
    cache = tmp_path / "target"
    old = write_cache(cache, MODEL, {"old.safetensors": files["model.safetensors"], "x/notes": b"notes"})
    pointer = repo_of(cache, MODEL) / "snapshots" / commit / "config.json"
    pointer.parent.mkdir()
    pointer.write_bytes(files["config.json"])  # as where links are not supported
    assert pull(folder, checkpoint, cache, commit) == 0
    assert snapshot_files(cache, MODEL, commit) == files
    assert not pointer.is_symlink()
    assert len(snapshot_files(cache, MODEL, old)) == 2
    assert not scan_cache_dir(cache).warnings


def test_a_damaged_blob_is_put_right(source: tuple[Path, Checkpoint, str], tmp_path: Path) -> None:
    folder, checkpoint, commit = source
    files = without_code(model_files())
    cache = tmp_path / "target"
    write_cache(cache, MODEL, files)
    for name in ("model.safetensors", "config.json"):
        blob = repo_of(cache, MODEL) / "blobs" / etag(name, files[name])
        blob.write_bytes(b"?" + files[name][1:])
    assert pull(folder, checkpoint, cache, commit) > 0
    assert snapshot_files(cache, MODEL, commit) == files


def test_a_name_that_the_bytes_contradict_never_replaces_a_blob(tmp_path: Path) -> None:
    cache, right, wrong = tmp_path / "target", b"right" * 10, b"wrong" * 10
    name = etag("w.gguf", right)
    write_cache(cache, MODEL, {"w.gguf": right})
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "w.gguf").write_bytes(wrong)
    with pytest.raises(VerificationFailed, match=r"w\.gguf: the source calls these bytes"):
        pull(tmp_path / "source", Checkpoint((plain("w.gguf", wrong, name),)), cache, "f" * 40)
    assert (repo_of(cache, MODEL) / "blobs" / name).read_bytes() == right
    # Two files of the source itself that cannot both be what it calls them.
    (tmp_path / "source" / "v.gguf").write_bytes(right)
    both = Checkpoint((plain("v.gguf", right, name), plain("w.gguf", wrong, name)))
    with pytest.raises(VerificationFailed):
        pull(tmp_path / "source", both, tmp_path / "empty", "f" * 40)
    # A small file's name is always its own.
    small = Checkpoint((plain("w.txt", wrong, git_name(right)),))
    (tmp_path / "source" / "w.txt").write_bytes(wrong)
    pull(tmp_path / "source", small, cache, "e" * 40)
    assert links(cache, MODEL, "e" * 40) == {"w.txt": f"../../blobs/{git_name(wrong)}"}


def test_names_from_a_source_are_nothing_but_names() -> None:
    for name in ("../../x", "A" * 64, "a" * 39, "a" * 41, "."):
        with pytest.raises(InvalidCheckpoint, match="blob"):
            Checkpoint((plain("a", b"x", name),)).validate()


def test_links_in_the_way_are_never_written_through(source: tuple[Path, Checkpoint, str], tmp_path: Path) -> None:
    folder, checkpoint, commit = source
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, place in enumerate(("snapshots", "blobs", f"snapshots/{commit}", f"snapshots/{commit}/sub", "refs")):
        cache = tmp_path / f"cache{number}"
        link = repo_of(cache, MODEL) / place
        link.parent.mkdir(parents=True)
        link.symlink_to(outside)
        with pytest.raises(InvalidCheckpoint):
            pull(folder, checkpoint, cache, commit)
        assert not list(outside.iterdir())


def test_a_snapshot_whose_links_lead_out_of_its_cache_is_refused(tmp_path: Path) -> None:
    commit = write_cache(tmp_path / "cache", MODEL, model_files())
    (tmp_path / "secret.txt").write_text("secret")
    pointer = repo_of(tmp_path / "cache", MODEL) / "snapshots" / commit / "secret.txt"
    pointer.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(InvalidCheckpoint, match=r"^secret\.txt: this is a link that leads out of"):
        read(tmp_path / "cache", commit)
    # Blobs that a cache's models share are its own.
    shared = tmp_path / "cache" / "blobs" / "ab" / "shared"
    shared.parent.mkdir(parents=True)
    shared.write_text("shared")
    blob = repo_of(tmp_path / "cache", MODEL) / "blobs" / ("a" * 64)
    blob.symlink_to("../../blobs/ab/shared")
    pointer.unlink()
    pointer.with_name("shared.txt").symlink_to(f"../../blobs/{blob.name}")
    _, checkpoint = read(tmp_path / "cache", commit)
    assert {file.path: file.blob for file in checkpoint.files}["shared.txt"] == blob.name


def test_what_a_snapshot_knows(tmp_path: Path) -> None:
    files = model_files()
    commit = write_cache(tmp_path, MODEL, files, refs=("main", "v1"))
    folder, checkpoint = read(tmp_path, commit)
    assert {file.path: file.blob for file in checkpoint.files} == {
        path: etag(path, data) for path, data in without_code(files).items()
    }
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link"):
        snapshot = CachedSnapshot.at(path)
        assert snapshot is not None
        assert (snapshot.repo.model, snapshot.commit, snapshot.refs) == (MODEL, commit, ("main", "v1"))
    for path in (folder / "sub", folder.parent, tmp_path, tmp_path / "nothing"):
        assert CachedSnapshot.at(path) is None
    # Somebody edited a file in place: its bytes are shared, under no name.
    (folder / "config.json").write_bytes(b"{}")
    _, edited = read(tmp_path, commit)
    assert {file.path for file in edited.files if not file.blob} == {"config.json"}
    assert commit == commit_of(files)
