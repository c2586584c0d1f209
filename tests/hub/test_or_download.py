"""A fleet that wants what no peer has: one downloads, whatever dies meanwhile. Processes, a server, and a hub over HTTP."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir

from tests.cli.commands import Running, peerload
from tests.hub.models import model_files, snapshot_files, without_code
from tests.support.hub import Hub
from tests.support.live import LiveServer, sqlite_url

MODEL = "org/name"
FILES = model_files(size=400_000)
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.pause_at[WEIGHTS] = 100_000
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(sqlite_url(tmp_path)) as running:
        yield running.start()


def pulling(server: LiveServer, hub: Hub, home: Path, *words: object) -> Running:
    command = ("pull", MODEL, "--or-download", "--linger", "1", "--json", "--server", server.address, *words)
    return Running(*command, settings={**hub.environment(home), "PEERLOAD_CLAIM_LEASE": "2"})


def check(home: Path, commit: str, pulled: dict[str, Any]) -> None:
    """The cache holds the commit, as main, and huggingface_hub has nothing to say against it."""
    assert (pulled["commit"], pulled["ref"]) == (commit, "main")
    assert snapshot_files(home / "hub", MODEL, commit) == without_code(FILES)
    found = scan_cache_dir(home / "hub")
    assert not found.warnings
    assert [sorted(repo.refs) for repo in found.repos] == [["main"]]


def test_three_at_once_and_one_download(server: LiveServer, hub: Hub, tmp_path: Path) -> None:
    commit = hub.add(MODEL, FILES)
    homes = [tmp_path / f"home{number}" for number in range(3)]
    with ExitStack() as stack:
        pulls = [stack.enter_context(pulling(server, hub, home)) for home in homes]
        assert hub.paused.wait(60)
        hub.go_on.set()
        results = [pull.event("pulled") for pull in pulls]
        assert [pull.wait() for pull in pulls] == [0, 0, 0]
    assert sorted(result["downloaded"] for result in results) == [False, False, True]
    assert len(set(hub.downloads)) == len(hub.downloads)
    assert WEIGHTS in hub.downloads
    for home, result in zip(homes, results, strict=True):
        check(home, commit, result)


def test_another_takes_over_from_one_that_was_killed(server: LiveServer, hub: Hub, tmp_path: Path) -> None:
    commit = hub.add(MODEL, FILES)
    with pulling(server, hub, tmp_path / "one") as first:
        assert hub.paused.wait(60)
        with pulling(server, hub, tmp_path / "two", "--share") as second:
            assert f"process {first.pid}" in second.event("downloading elsewhere")["holder"]
            hub.pause_at.clear()
            first.signal(signal.SIGKILL)
            assert second.event("pulled")["downloaded"]
            second.event("sharing")
            # The one that was killed comes again: there is a source now.
            with pulling(server, hub, tmp_path / "one") as again:
                pulled = again.event("pulled")
                assert not pulled["downloaded"]
                assert again.wait() == 0
            check(tmp_path / "one", commit, pulled)
            second.signal(signal.SIGINT)
            assert second.wait() == 0
    assert hub.downloads.count(WEIGHTS) == 2


def test_a_server_that_is_killed_and_restarted_meanwhile_changes_nothing(
    server: LiveServer, hub: Hub, tmp_path: Path
) -> None:
    commit = hub.add(MODEL, FILES)
    with pulling(server, hub, tmp_path / "one") as first:
        assert hub.paused.wait(60)
        with pulling(server, hub, tmp_path / "two") as second:
            second.event("downloading elsewhere")
            server.kill()
            server.start()
            # Still waiting for the same one: the lease was kept, and did not run out while nobody could renew it.
            assert f"process {first.pid}" in second.event("downloading elsewhere")["holder"]
            hub.go_on.set()
            results = [pull.event("pulled") for pull in (first, second)]
            assert [pull.wait() for pull in (first, second)] == [0, 0]
    assert [result["downloaded"] for result in results] == [True, False]
    assert hub.downloads.count(WEIGHTS) == 1
    for home, result in zip(("one", "two"), results, strict=True):
        check(tmp_path / home, commit, result)


def test_what_the_hub_does_not_have_fails_in_a_line_and_frees_the_claim(
    server: LiveServer, hub: Hub, tmp_path: Path
) -> None:
    settings = hub.environment(tmp_path)
    for _ in range(2):
        ended = peerload("pull", MODEL, "--or-download", "--server", server.address, settings=settings)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith(
            "peerload: 'org/name', revision 'main', could not be downloaded: "
        )
    hub.add(MODEL, FILES)
    hub.pause_at.clear()
    words = ("--include", "*.json", "--linger", "0", "--json", "--server", server.address)
    ended = peerload("pull", MODEL, "--or-download", *words, settings=settings)
    assert ended.returncode == 0, ended.stderr
    (pulled,) = [json.loads(line) for line in ended.stdout.splitlines() if '"pulled"' in line]
    assert (pulled["downloaded"], pulled["files"]) == (True, 1)
    assert hub.downloads == ["config.json"]
