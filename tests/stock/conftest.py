"""The stock client package, its classes imported without the engine libraries that its package object asks for."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peerload.wire import p2p_pb2
from tests.support.live import LiveServer, Rpc
from tests.support.server import store_url
from tests.support.stock import import_stock


class _Stub(types.ModuleType):
    """A module in which every name is an empty class: enough for annotations and base classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


@pytest.fixture(autouse=True)
def _no_settings_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODEL_EXPRESS_URL", "MX_SERVER_ADDRESS", "MX_METADATA_BACKEND", "MX_P2P_SOURCE_SELECTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MX_AUTH_TOKEN_PATH", str(tmp_path / "no-token"))


STORES = ["memory", "sqlite", "redis", "kubernetes"]


@pytest.fixture(scope="module", params=STORES)
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(store_url(request, tmp_path_factory.mktemp("server"))) as live:
        yield live.start()


@pytest.fixture
def server(shared_server: LiveServer) -> Iterator[LiveServer]:
    """A server without sources; not to be harmed."""
    yield shared_server
    with Rpc(shared_server.address) as rpc:
        for ref in rpc.list(p2p_pb2.ListSourcesRequest()).instances:
            rpc.withdraw(ref.mx_source_id, ref.worker_id)


@pytest.fixture(params=STORES)
def doomed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    """A server for one test alone, which may kill it."""
    with LiveServer(store_url(request, tmp_path)) as live:
        yield live.start()


@pytest.fixture
def rpc(server: LiveServer) -> Iterator[Rpc]:
    with Rpc(server.address) as made:
        yield made


@pytest.fixture
def p2p() -> Any:
    """The stock package's own messages."""
    return import_stock("p2p_pb2")


@pytest.fixture
def client(server: LiveServer) -> Iterator[Any]:
    made = import_stock("client").MxClient(server_url=f"http://{server.address}")
    yield made
    made.close()


@pytest.fixture
def torch_stub() -> Iterator[None]:
    """`import torch` gives a hollow module; what was imported on top of it is forgotten again afterwards."""
    if importlib.util.find_spec("torch") is not None:
        yield
        return
    before = set(sys.modules)
    root = _Stub("torch")
    sys.modules["torch"] = root
    for name in ("nn", "distributed", "cuda"):
        part = _Stub(f"torch.{name}")
        setattr(root, name, part)
        sys.modules[f"torch.{name}"] = part
    sys.modules["torch.nn.functional"] = _Stub("torch.nn.functional")
    yield
    for name in sorted(set(sys.modules) - before):
        if name.partition(".")[0] in ("torch", "modelexpress"):
            parent, _, leaf = name.rpartition(".")
            module = sys.modules.pop(name)
            if parent in sys.modules and getattr(sys.modules[parent], leaf, None) is module:
                delattr(sys.modules[parent], leaf)
