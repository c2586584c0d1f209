"""Engines whose packages, or the system's libraries below them, are not there: what to do is in the error."""

from __future__ import annotations

import ctypes.util
import importlib.util
from typing import Any

import pytest

from peerload.engines.mooncake import library
from peerload.errors import InvalidArgument, MissingExtra, MissingLibrary
from peerload.plugins import open_engine
from tests.support.engines import need_engine

need_engine("nixl")


@pytest.fixture(autouse=True)
def unknown() -> None:
    library.check_installed.cache_clear()


@pytest.mark.parametrize("engine", ["nixl", "mooncake"])
def test_without_its_package(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"pip install 'peerload\[{engine}\]'"):
        open_engine(engine)


def test_without_a_library_of_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None if name == "numa" else f"lib{name}.so")
    with pytest.raises(
        MissingLibrary, match=r"\(libnuma\): apt-get install .* libibverbs1 libnuma1 liburing2 libcurl4$"
    ):
        open_engine("mooncake")


@pytest.mark.parametrize(
    ("engine", "settings", "field"),
    [
        ("nixl", {"ucx": {"PATH": "x"}}, "ucx"),
        ("nixl", {"progress_timeout": 0}, "progress_timeout"),
        ("mooncake", {"protocol": "udp"}, "protocol"),
        ("mooncake", {"library_timeout": 0}, "library_timeout"),
        ("mooncake", {"segment": "1k"}, "segment"),
    ],
)
def test_settings_are_checked(engine: str, settings: dict[str, Any], field: str) -> None:
    need_engine(engine, module=False)
    with pytest.raises(InvalidArgument, match=f"^{field}:"):
        open_engine(engine, **settings)


def test_what_ucx_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from peerload.engines.nixl import NixlSettings

    for name in ("UCX_TLS", "UCX_NET_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    told = dict(NixlSettings().environment("127.0.0.1"))
    assert (told["UCX_TLS"], told["UCX_NET_DEVICES"], told["UCX_TCP_TX_SEG_SIZE"]) == ("^sysv", "lo", "64k")
    assert told["UCX_CUDA_IPC_ENABLE_GET_ZCOPY"] == "y"
    # A host that nobody can resolve has no device of its own.
    assert "UCX_NET_DEVICES" not in dict(NixlSettings().environment("no-such-host.invalid"))
    monkeypatch.setenv("UCX_TLS", "tcp")
    chosen = NixlSettings(net_devices="mlx5_0:1", ucx={"UCX_TCP_TX_SEG_SIZE": "8k", "UCX_MAX_RNDV_RAILS": "2"})
    told = dict(chosen.environment("127.0.0.1"))
    assert told["UCX_TLS"] == "tcp"
    assert told["UCX_NET_DEVICES"] == "mlx5_0:1"
    assert (told["UCX_TCP_TX_SEG_SIZE"], told["UCX_MAX_RNDV_RAILS"]) == ("8k", "2")
