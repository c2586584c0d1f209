"""The examples for engines and frameworks run as they stand: with the real ones where these are installed, SGLang's in the
stand-in for it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from peerload import Client
from peerload.demo.minilm import MiniLM
from peerload.demo.weights import model_folder
from tests.cli.commands import Running, environment
from tests.support.live import LiveServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SENTENCE = "weights travel from memory to memory"


def ran(example: str, server: LiveServer, *words: str) -> str:
    """What an example says."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **environment({"MODEL_EXPRESS_URL": server.address}),
            "TRANSFORMERS_VERBOSITY": "error",
            "TQDM_DISABLE": "1",
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.torch
def test_a_state_dict(server: LiveServer) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    said = ran("state_dict.py", server)
    assert "filled 266,920 bytes in place, checked xxh3-128 of 5 items" in said
    assert "2 workers have it now; all alike: True" in said


@pytest.mark.torch
def test_a_transformers_model_from_a_real_peer(server: LiveServer) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = model_folder()
    with Running("share", folder, "--model", "org/minilm", "--server", server.address, "--json") as peer:
        peer.event("sharing")
        vector = np.array(json.loads(ran("transformers_model.py", server, "org/minilm")))
    assert np.abs(vector - MiniLM.load(folder).embed(SENTENCE)).max() < 1e-5


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch, server: LiveServer) -> Iterator[Any]:
    """The loader of the example, as the stand-in for SGLang makes it."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "stand_in"))
    monkeypatch.setenv("MODEL_EXPRESS_URL", server.address)
    if importlib.util.find_spec("torch") is None:
        real = Client.iter_weights
        monkeypatch.setattr(
            Client,
            "iter_weights",
            lambda client, *model, **options: real(client, *model, **{**options, "framework": "np"}),
        )
    spec = importlib.util.spec_from_file_location("sglang_loader", EXAMPLES / "sglang_loader.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.model_loader.loader import get_model_loader

    yield get_model_loader(LoadConfig(example.PeerloadModelLoader))
    for name in [name for name in sys.modules if name.partition(".")[0] == "sglang"]:
        del sys.modules[name]


class Loaded(dict[str, Any]):
    """A model that keeps what it is given."""

    def load_weights(self, weights: Iterator[tuple[str, Any]]) -> None:
        for name, tensor in weights:
            self[name] = np.asarray(tensor).copy()


def test_sglang_from_a_peer_and_from_disk(
    sglang: Any, server: LiveServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = SimpleNamespace(model_path="org/sglang", revision=None)
    expected = {name: each for path in folder.glob("model-*.safetensors") for name, each in load_file(path).items()}
    with Client(server.address) as client, client.share(folder, model="org/sglang"):
        model = sglang.load_model(model_config=config, model=Loaded())
        assert model.keys() == expected.keys()
        assert all(np.array_equal(model[name], array) for name, array in expected.items())
        assert not caplog.records
    (folder / "consolidated.safetensors").unlink()
    model = sglang.load_model(model_config=SimpleNamespace(model_path=str(folder), revision=None), model=Loaded())
    assert model.keys() == expected.keys()
    assert f"loading {folder} from disk: nobody has" in caplog.text
