"""Pulls into the Hugging Face cache, with huggingface_hub and transformers to judge what they leave."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir

from peerload.client import AsyncClient, Client, Selector
from peerload.client.cache_calls import claim_name
from peerload.client.cached import CacheRequest
from peerload.demo.weights import model_folder
from peerload.errors import Ambiguous, InvalidArgument, InvalidCheckpoint, MissingExtra, NoSource, NotFound
from peerload.hub.cache import CachedModel
from peerload.hub.patterns import Patterns
from peerload.server.app import Server
from tests.hub.models import links, model_files, offline, repo_of, snapshot_files, without_code
from tests.support.checkpoints import write_model
from tests.support.hub import Hub, commit_of, etag, write_cache
from tests.support.server import serving

MODEL = "org/name"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as running:
        yield running


@pytest.fixture
async def source(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as client:
        yield client


@pytest.fixture
async def target(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as client:
        yield client


async def test_a_real_model_loads_offline_from_what_was_pulled(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    folder = model_folder()
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    commit = write_cache(tmp_path / "one", "org/mini", files)
    async with source.share_cached("org/mini", cache_dir=tmp_path / "one"):
        pulled = await target.pull_cached("org/mini", cache_dir=tmp_path / "two")
    assert (pulled.commit, pulled.ref, pulled.downloaded) == (commit, "main", False)
    assert links(tmp_path / "two", "org/mini", commit) == links(tmp_path / "one", "org/mini", commit)
    found = await asyncio.to_thread(offline, tmp_path / "two", "org/mini", "transformers")
    assert found == {
        "snapshot": str(pulled.folder),
        "config": str(pulled.folder / "config.json"),
        "warnings": [],
        "incomplete": 0,
        "refs": ["main"],
        "hidden": 384,
        "tokens": [101, 7592, 2088, 102],
    }


async def test_a_later_download_from_the_hub_moves_nothing_but_what_was_left_out(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    files = model_files()
    with Hub() as hub:
        commit = hub.add(MODEL, files)
        write_cache(tmp_path / "one", MODEL, files)
        async with source.share_cached(MODEL, cache_dir=tmp_path / "one") as shared:
            assert [skip.path for skip in shared.skipped] == ["modeling.py"]
            await target.pull_cached(MODEL, cache_dir=tmp_path / "two" / "hub")
        # The next commit has the same weights: it finds them by their blob's name.
        newer = hub.add(MODEL, {**files, "config.json": b'{"model_type": "newer"}'})
        for revision, expected in ((commit, ["modeling.py"]), ("main", ["config.json"])):
            hub.downloads.clear()
            code = (
                "import sys; from huggingface_hub import snapshot_download as s; s(sys.argv[1], revision=sys.argv[2])"
            )
            command = [sys.executable, "-c", code, MODEL, revision]
            environment = {**os.environ, **hub.environment(tmp_path / "two")}
            done = await asyncio.to_thread(
                subprocess.run, command, env=environment, capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, done.stderr
            assert hub.downloads == expected
    assert snapshot_files(tmp_path / "two" / "hub", MODEL, newer)["model.safetensors"] == files["model.safetensors"]


async def test_every_target_becomes_a_source_and_what_is_there_moves_nothing(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    commit = write_cache(tmp_path / "one", MODEL, model_files(), refs=("main", "v1"))
    first = await source.share_cached(MODEL, cache_dir=tmp_path / "one", allow_code=True)
    pulled = await target.pull_cached(MODEL, cache_dir=tmp_path / "two", allow_code=True, share=True)
    assert pulled.source is not None
    assert pulled.source.source_id == first.source_id
    infos = await target.find(MODEL)
    assert {info.refs for info in infos} == {("main", "v1"), ("main",)}
    await first.close()
    async with AsyncClient(target.address) as third:
        again = await third.pull_cached(MODEL, cache_dir=tmp_path / "three", allow_code=True)
        assert links(tmp_path / "three", MODEL, commit) == links(tmp_path / "one", MODEL, commit)
        assert again.report is not None
        assert again.report.bytes_moved > 300_000
        once_more = await third.pull_cached(MODEL, cache_dir=tmp_path / "three", allow_code=True)
        assert once_more.report is not None
        assert (once_more.report.bytes_moved, once_more.report.bytes_reused) == (0, again.report.bytes_moved)


async def test_revisions(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    cache = tmp_path / "target"
    old = write_cache(tmp_path / "old", MODEL, model_files(seed=1), refs=("v1",))
    new = write_cache(tmp_path / "new", MODEL, model_files(seed=2), refs=("main",))
    async with source.share_cached(MODEL, revision="v1", cache_dir=tmp_path / "old") as shared:
        assert shared.identity.revision == old
        # Nobody calls it main. The cache has no main yet, so what there is becomes it.
        assert (await target.pull_cached(MODEL, cache_dir=tmp_path / "bare")).ref == "main"
        async with source.share_cached(MODEL, cache_dir=tmp_path / "new"):
            # Of the two, one is known as main.
            pulled = await target.pull_cached(MODEL, cache_dir=cache)
            assert (pulled.commit, pulled.ref) == (new, "main")
            pulled = await target.pull_cached(MODEL, cache_dir=cache, revision="v1")
            assert (pulled.commit, pulled.ref) == (old, "v1")
            pulled = await target.pull_cached(MODEL, cache_dir=tmp_path / "commit", revision=old)
            assert (pulled.commit, pulled.ref) == (old, "")
            assert not (repo_of(tmp_path / "commit", MODEL) / "refs").exists()
            with pytest.raises(NoSource):
                await target.pull_cached(MODEL, cache_dir=cache, revision="v2")
            # A branch may be asked for where a folder is filled, too.
            folder = await target.pull_folder(MODEL, tmp_path / "folder", revision="main")
            assert folder.identity.revision == new
            with pytest.raises(Ambiguous):
                await target.pull_folder(MODEL, tmp_path / "folder2")
        # Main stays what it was: the one source that is left does not call its commit so.
        pulled = await target.pull_cached(MODEL, cache_dir=cache)
        assert (pulled.commit, pulled.ref) == (old, "")
        assert (repo_of(cache, MODEL) / "refs" / "main").read_text() == new
    assert {info.revision for info in await target.find(Selector(model=MODEL, revision="v1"))} == set()


@pytest.mark.parametrize("revision", ["../x", "a//b", "", "/main", ".git/hooks"])
async def test_what_cannot_be_a_branch_is_refused(target: AsyncClient, tmp_path: Path, revision: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^revision: "):
        await target.pull_cached(MODEL, cache_dir=tmp_path, revision=revision)
    with pytest.raises(InvalidArgument, match=r"^model: "):
        await target.pull_cached("../escape", cache_dir=tmp_path)


async def test_a_folder_without_a_commit_fills_the_cache_too(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    write_model(tmp_path / "model")
    async with source.share(tmp_path / "model", model=MODEL, revision="v7"):
        pulled = await target.pull_cached(MODEL, cache_dir=tmp_path / "cache", share=True)
        assert pulled.source is not None
        assert pulled.identity.revision == pulled.source.identity.revision == "v7"
        again = await target.pull_cached(MODEL, cache_dir=tmp_path / "cache", revision="v7")
        assert (again.commit, again.ref) == (pulled.commit, "v7")
    data = (tmp_path / "model" / "config.json").read_bytes()
    assert links(tmp_path / "cache", MODEL, pulled.commit)["config.json"] == f"../../blobs/{etag('config.json', data)}"
    found = await asyncio.to_thread(offline, tmp_path / "cache", MODEL)
    assert (found["snapshot"], found["warnings"], found["refs"]) == (str(pulled.folder), [], ["main", "v7"])


async def test_the_path_of_a_snapshot_tells_model_and_commit(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    commit = write_cache(tmp_path / "one", MODEL, model_files())
    folder = repo_of(tmp_path / "one", MODEL) / "snapshots" / commit
    async with source.share(folder) as shared:
        assert (shared.identity.model, shared.identity.revision, shared.manifest.refs) == (MODEL, commit, ("main",))
    (folder / "out").symlink_to("/etc/hostname")
    with pytest.raises(InvalidCheckpoint, match=r"^out: "):
        await source.share(folder)
    with pytest.raises(InvalidArgument, match=r"^model: is missing"):
        await source.share(tmp_path)
    with pytest.raises(NotFound, match="is not in the cache"):
        await source.share_cached("org/other", cache_dir=tmp_path / "one")


async def test_patterns_choose_files_and_a_part_is_not_taken_for_the_whole(
    source: AsyncClient, target: AsyncClient, tmp_path: Path
) -> None:
    files = model_files()
    commit = write_cache(tmp_path / "one", MODEL, files)
    whole = await source.share_cached(MODEL, cache_dir=tmp_path / "one")
    patterns = {"include": ["*.json", "*.txt"], "exclude": ["*copy*"]}
    pulled = await target.pull_cached(MODEL, cache_dir=tmp_path / "two", share=True, **patterns)  # type: ignore[arg-type]
    chosen = ["config.json", "sub/notes.txt"]
    assert sorted(snapshot_files(tmp_path / "two", MODEL, commit)) == chosen
    assert [file.path for file in pulled.checkpoint.files] == chosen
    folder = await target.pull_folder(MODEL, tmp_path / "folder", include=["sub/*"])
    assert [file.path for file in folder.checkpoint.files] == ["sub/copy.txt", "sub/notes.txt"]
    with pytest.raises(InvalidArgument, match=r"^include: leaves none of 5 files"):
        await target.pull_cached(MODEL, cache_dir=tmp_path / "three", include=["*.gguf"])
    async with AsyncClient(target.address) as third:
        # Of one commit, who has the most decides; then only the part is left, which is none for who wants it all.
        full = await third.pull_cached(MODEL, cache_dir=tmp_path / "two")
        assert sorted(snapshot_files(tmp_path / "two", MODEL, commit)) == sorted(without_code(files))
        assert full.report is not None
        assert full.report.bytes_reused >= len(files["config.json"])
        await whole.close()
        with pytest.raises(NoSource):
            await third.pull_cached(MODEL, cache_dir=tmp_path / "four")
        with pytest.raises(NoSource):
            await third.pull_cached(MODEL, cache_dir=tmp_path / "four", include=["*.json"])
        # Who asks for just that part may have it, and may say so in another order.
        (info,) = await third.find(MODEL)
        assert info.part == "--include '*.json' --include '*.txt' --exclude '*copy*'"
        part = await third.pull_cached(
            MODEL, cache_dir=tmp_path / "four", include=["*.txt", "*.json"], exclude=["*copy*"], share=True
        )
        assert part.source is not None
        assert part.source.manifest.part == info.part
        assert sorted(snapshot_files(tmp_path / "four", MODEL, part.commit)) == chosen


async def test_two_pulls_at_once_into_one_cache(source: AsyncClient, target: AsyncClient, tmp_path: Path) -> None:
    commit = write_cache(tmp_path / "one", MODEL, model_files(size=3_000_000))
    async with source.share_cached(MODEL, cache_dir=tmp_path / "one"), AsyncClient(target.address) as other:
        pulls = [client.pull_cached(MODEL, cache_dir=tmp_path / "two") for client in (target, other)]
        reports = [pulled.report for pulled in await asyncio.gather(*pulls)]
    total = sum(report.bytes_moved for report in reports if report)
    assert total == max(report.bytes_moved for report in reports if report)
    assert snapshot_files(tmp_path / "two", MODEL, commit) == without_code(model_files(size=3_000_000))
    assert not scan_cache_dir(tmp_path / "two").warnings


async def test_without_the_library_the_extra_is_named(
    target: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        target.pull_cached(MODEL, cache_dir=tmp_path),
        target.share_cached(MODEL, cache_dir=tmp_path),
    ):
        with pytest.raises(MissingExtra, match=r"peerload\[hub\]"):
            await call


def test_what_a_fleet_claims() -> None:
    def name(**wanted: Any) -> str:
        return claim_name(CacheRequest(CachedModel(MODEL, Path("unused")), **wanted))

    assert name() == name(revision="main") == "download/org/name@main"
    patterns = Patterns(("*.json", "*.txt"))
    assert name(patterns=patterns) == name(patterns=Patterns(("*.txt", "*.json"))) != name()
    assert name(allow_code=True) != name()
    long = Patterns(tuple(f"{number}-{'x' * 50}" for number in range(50)))
    assert len(name(patterns=long)) < 100
    assert name(patterns=long) != name(patterns=Patterns(long.include[1:]))


def test_without_an_event_loop(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving() as server:
            await asyncio.to_thread(use, server.address)

    def use(address: str) -> None:
        commit = write_cache(tmp_path / "one", MODEL, model_files())
        with Client(address) as one, Client(address) as two, one.share_cached(MODEL, cache_dir=tmp_path / "one"):
            pulled = two.pull_cached(MODEL, cache_dir=tmp_path / "two", share=True)
            assert pulled.commit == commit == commit_of(model_files())
            assert pulled.source is not None
            pulled.source.quiet(0.0)
            pulled.source.close()

    asyncio.run(run())
