"""`share` and `pull` with the Hugging Face cache, as commands."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from tests.cli.commands import Running, peerload
from tests.hub.models import model_files, repo_of, snapshot_files, without_code
from tests.support.hub import write_cache
from tests.support.live import LiveServer

MODEL = "org/name"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("memory:") as running:
        yield running.start()


def test_share_and_pull_by_name_and_a_killed_pull(server: LiveServer, tmp_path: Path) -> None:
    at = ("--server", server.address)
    files = without_code(model_files(size=2_000_000))
    commit = write_cache(tmp_path / "one" / "hub", MODEL, files)
    sharing = {"HF_HOME": str(tmp_path / "one")}
    pulling = {"HF_HOME": str(tmp_path / "two")}
    cache = tmp_path / "two" / "hub"
    with Running("share", MODEL, "--limit-rate", "2MB", "--json", *at, settings=sharing) as source:
        shared = source.event("sharing")
        assert (shared["model"], shared["revision"], shared["files"]) == (MODEL, commit, 5)
        with Running("pull", MODEL, "--json", *at, settings=pulling) as pull:
            while pull.event("progress")["bytes_done"] < 500_000:
                pass
            pull.signal(signal.SIGKILL)
            assert pull.wait() == -signal.SIGKILL
        # Nothing that huggingface_hub takes for a snapshot, and nothing that it complains about.
        found = scan_cache_dir(cache)
        assert (found.warnings, [len(repo.revisions) for repo in found.repos]) == ([], [0])
        ended = peerload("pull", MODEL, "--json", *at, settings=pulling)
        assert ended.returncode == 0, ended.stderr
        pulled = json.loads(ended.stdout.splitlines()[-1])
        assert pulled["bytes_reused"] > 0
        assert pulled["bytes_moved"] + pulled["bytes_reused"] == pulled["bytes_total"]
        assert (pulled["commit"], pulled["ref"], pulled["downloaded"]) == (commit, "main", False)
        assert pulled["local_dir"] == str(repo_of(cache, MODEL) / "snapshots" / commit)
        assert snapshot_files(cache, MODEL, commit) == files

        shown = peerload("pull", MODEL, "--cache-dir", cache, *at)
        assert "moved 0 B" in shown.stdout
        copied = peerload("pull", MODEL, "-o", tmp_path / "copy", "--include", "*.json", *at)
        assert copied.returncode == 0, copied.stderr
        assert [path.name for path in (tmp_path / "copy").iterdir()] == ["config.json"]
    nothing = peerload("share", "org/other", *at, settings=sharing)
    assert nothing.returncode == 3
    assert "is not in the cache" in nothing.stderr
