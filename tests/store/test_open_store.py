"""Stores by their URLs, and the store clock."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import structlog

from peerload import plugins
from peerload.errors import InvalidArgument
from peerload.store.hosttime import HostTime
from peerload.store.kubernetes.store import KubernetesStore
from peerload.store.memory import MemoryStore
from peerload.store.sqlite import SqliteStore
from peerload.testing import ManualClock


def test_a_url_names_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    clock = ManualClock()
    assert isinstance(plugins.open_store("memory:", clock), MemoryStore)
    for url in (f"sqlite:{tmp_path}/a b.sqlite", f"sqlite://{tmp_path}/a b.sqlite", "sqlite:~/a b.sqlite"):
        store = plugins.open_store(url, clock)
        assert isinstance(store, SqliteStore)
        assert store.url == f"sqlite:{tmp_path}/a b.sqlite"
    assert isinstance(plugins.open_store("kubernetes:inference?instance=second", clock), KubernetesStore)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://user:secret@host/",
        "memory:x",
        "sqlite:",
        "sqlite://host/path",
        "kubernetes://inference",
        "kubernetes:Inference",
        "kubernetes:inference?instances=2",
    ],
)
def test_what_names_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        plugins.open_store(url, ManualClock())
    assert refused.value.field == "store"
    assert "secret" not in str(refused.value)


def test_without_its_packages_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["aiohttp"] = sys.modules["kubernetes"] = None
from peerload.clock import SystemClock
from peerload.plugins import kubernetes_manifests, open_store
print(len(kubernetes_manifests("all", namespace="a", account="b")))
open_store("kubernetes:a", SystemClock())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert int(done.stdout) > 1_000  # what a cluster needs is printed all the same
    assert "MissingExtra" in done.stderr
    assert "pip install 'peerload[kubernetes]'" in done.stderr


def test_an_unknown_scheme_says_what_there_is() -> None:
    with pytest.raises(InvalidArgument, match=r"kubernetes:, memory:, redis:, .*, sqlite:"):
        plugins.open_store("mysql:", ManualClock())


def test_an_installed_package_adds_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "peerload.store.memory:MemoryStore", plugins._STORES_GROUP)
    monkeypatch.setattr(
        plugins, "entry_points", lambda **select: [point] if select.get("name", "mine") == "mine" else []
    )
    monkeypatch.setattr(MemoryStore, "__init__", lambda self, url, clock: None)
    assert isinstance(plugins.open_store("mine:whatever", ManualClock()), MemoryStore)
    assert {"memory", "mine", "redis", "sqlite"} <= set(plugins.store_schemes())


def test_a_stepped_clock_is_warned_of_once() -> None:
    clock = ManualClock()
    time = HostTime(clock)
    with structlog.testing.capture_logs() as logs:
        time.check()
        clock.set_wall_ms(clock.wall_ms() + 4_000)
        time.check()
        assert logs == []
        clock.set_wall_ms(clock.wall_ms() + 10_000)
        time.check()
        time.check()
        assert [(log["log_level"], log["seconds"]) for log in logs] == [("warning", 14.0)]
        clock.set_wall_ms(clock.wall_ms() - 14_000)
        time.check()
        assert len(logs) == 2
    assert time.now() == clock.wall_ms()


async def test_a_manual_clock_wakes_sleepers_in_order() -> None:
    import asyncio

    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def nap(name: str, seconds: float, times: int) -> None:
        for _ in range(times):
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic() - 1_000))

    tasks = [asyncio.create_task(nap("a", 2, 2)), asyncio.create_task(nap("b", 3, 1))]
    await clock.advance(2.5)
    assert woken == [("a", 2)]
    assert clock.sleepers == 2
    await clock.advance(10)
    assert woken == [("a", 2), ("b", 3), ("a", 4)]
    assert clock.monotonic() == 1_012.5
    await asyncio.gather(*tasks)
