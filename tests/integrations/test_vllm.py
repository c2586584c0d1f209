"""vLLM's loader, in the stand-in for vLLM: from a peer, and from disk with a line that says why."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from peerload import Client, ClientSettings
from peerload.demo.minilm import Config, MiniLM
from peerload.demo.weights import model_folder
from peerload.errors import InvalidArgument, NoSource, PullFailed
from tests.cli.commands import Running
from tests.support.live import LiveServer

STAND_IN = Path(__file__).resolve().parents[1] / "support" / "stand_in"
QUICK = ClientSettings(patience=0.5, retry_delay=0.01, tries=2, retire_grace=0.2, outage_patience=0.5)


class Model:
    """A model that is its parameters; `on_tensor` is told of each that came, `quantizes` is what vLLM asks of layers."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], *, quantizes: bool = False) -> None:
        self.parameters = {name: np.full(shape, np.nan, "f4") for name, shape in shapes.items()}
        self.loads = 0
        self.on_tensor = lambda name: None
        self._layer = SimpleNamespace(quant_method=SimpleNamespace(uses_meta_device=quantizes))

    @classmethod
    def of(cls, folder: Path, **options: Any) -> Model:
        arrays = [load_file(path) for path in folder.glob("model-*.safetensors")]
        return cls({name: array.shape for each in arrays for name, array in each.items()}, **options)

    def load_weights(self, weights: Iterator[tuple[str, Any]]) -> set[str]:
        self.loads += 1
        loaded = set()
        for name, tensor in weights:
            self.parameters[name][:] = np.asarray(tensor)
            loaded.add(name)
            self.on_tensor(name)
        return loaded

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        return iter(self.parameters.items())

    def modules(self) -> list[Any]:
        return [self, self._layer]

    def holds(self, folder: Path) -> bool:
        arrays = {name: each for path in folder.glob("model-*.safetensors") for name, each in load_file(path).items()}
        return all(np.array_equal(array, arrays[name]) for name, array in self.parameters.items())


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, server: LiveServer) -> Iterator[Any]:
    """The stand-in, with the plug-in in it as vLLM loads it; `loader` makes one for some options."""

    def forget() -> None:
        for name in [
            name for name in sys.modules if name.partition(".")[0] == "vllm" or name == "peerload.integrations.vllm"
        ]:
            del sys.modules[name]

    forget()
    monkeypatch.syspath_prepend(str(STAND_IN))
    if importlib.util.find_spec("torch") is None:
        monkeypatch.setattr("peerload.integrations.options._FRAMEWORK", "np")
    monkeypatch.setattr("peerload.Client", functools.partial(Client, settings=QUICK))
    (plugin,) = entry_points(group="vllm.general_plugins", name="peerload")
    plugin.load()()
    config, loaders = (importlib.import_module(f"vllm.{name}") for name in ("config", "model_executor.model_loader"))

    def loader(**options: Any) -> Any:
        options.setdefault("server", server.address)
        return loaders.get_model_loader(config.LoadConfig("peerload", options))

    yield SimpleNamespace(loader=loader, ModelConfig=config.ModelConfig)
    forget()


@pytest.fixture
def bare(folder: Path, tmp_path: Path) -> Path:
    """The same folder without weights, as a host has it that never had the model."""
    copy = tmp_path / "bare"
    copy.mkdir()
    shutil.copy(folder / "config.json", copy)
    return copy


@pytest.fixture
def sharing(server: LiveServer) -> Iterator[Client]:
    with Client(server.address, settings=QUICK) as client:
        yield client


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "vllm.peerload"]


def test_loads_from_a_peer_what_is_not_on_disk(
    vllm: Any, sharing: Client, folder: Path, bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vllm.peerload")
    model = Model.of(folder)
    with sharing.share(folder, model="org/vllm", revision="v1"):
        loader = vllm.loader(names={str(bare): "org/vllm"}, num_threads=2)
        loader.load_weights(model, vllm.ModelConfig(str(bare), "v1"))
    assert model.holds(folder)
    assert model.loads == 1
    assert lines(caplog) == [(logging.INFO, f"peerload: 20 tensors of {bare} came from a peer")]
    assert loader.load_config.model_loader_extra_config == {"num_threads": 2}
    with pytest.raises(RuntimeError, match="Cannot find any model weights"):
        next(iter(loader.get_all_weights(vllm.ModelConfig(str(bare)), model)))


def test_loads_a_real_model_from_a_real_peer(vllm: Any, server: LiveServer, bare: Path) -> None:
    folder = model_folder()
    model = Model({name: array.shape for name, array in load_file(folder / "model.safetensors").items()})
    with Running("share", folder, "--model", "org/minilm", "--server", server.address, "--json") as peer:
        peer.event("sharing")
        vllm.loader(names={str(bare): "org/minilm"}, fallback=False).load_weights(model, vllm.ModelConfig(str(bare)))
    config, tokenizer = Config.parse((folder / "config.json").read_bytes()), (folder / "tokenizer.json").read_text()
    loaded, original = MiniLM(model.parameters, tokenizer, config), MiniLM.load(folder)
    assert np.array_equal(loaded.embed("the same vector"), original.embed("the same vector"))


def test_takes_the_revision_that_was_asked_for(vllm: Any, sharing: Client, folder: Path, bare: Path) -> None:
    class Resolved(str):
        initial: str | None = None

    model = Model.of(folder)
    with sharing.share(folder, model="org/resolved", revision="v1"):
        loader = vllm.loader(names={str(bare): "org/resolved"}, fallback=False)
        loader.load_weights(model, vllm.ModelConfig(str(bare), Resolved("main")))
        assert model.holds(folder)
        with pytest.raises(NoSource):
            loader.load_weights(model, vllm.ModelConfig(str(bare), "v2"))


def test_says_why_it_loads_from_disk(
    vllm: Any, sharing: Client, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file({"layers.0.0": np.zeros(3, "f4")}, other / "model.safetensors")
    here = vllm.ModelConfig(str(folder))
    with sharing.share(folder, model="org/two"), sharing.share(other, model="org/two"):
        for options, config, members, reason in (
            ({}, here, {}, f"nobody has '{folder}'"),
            ({"server": "127.0.0.1:1"}, here, {}, "127.0.0.1:1"),
            ({"names": {str(folder): "org/two"}}, here, {}, "hold different weights; say which"),
            ({"content": "00"}, here, {}, "nobody has"),
            ({}, here, {"secondary_weights": ["elsewhere"]}, "files of its own choice"),
            ({}, vllm.ModelConfig(str(folder), quantization="torchao"), {}, "torchao"),
        ):
            caplog.clear()
            model = Model.of(folder)
            vars(model).update(members)
            model.parameters |= {"other": np.full(3, np.nan, "f4")}  # in the file that the stand-in reads along
            vllm.loader(**options).load_weights(model, config)
            assert not any(np.isnan(array).any() for array in model.parameters.values())
            ((level, line),) = lines(caplog)
            assert level == logging.WARNING
            assert line.startswith(f"peerload: loading {folder} from disk: ")
            assert reason in line
            assert "\n" not in line
    (miss, *_) = sharing.explain(str(folder)).misses
    assert miss.verdict.text.startswith("no match: model_name"), "the server can say it, too"


def test_without_a_fallback_the_start_fails(vllm: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NoSource):
        vllm.loader(fallback=False).load_weights(Model.of(folder), vllm.ModelConfig(str(folder)))
    assert lines(caplog) == []


def test_options_that_nobody_knows_are_refused(vllm: Any) -> None:
    with pytest.raises(ValueError, match=r"Unexpected extra config keys.*sever"):
        vllm.loader(sever="localhost")
    with pytest.raises(InvalidArgument, match="names"):
        vllm.loader(names="org/name")


@pytest.mark.parametrize("quantizes", [False, True])
def test_a_peer_that_dies_midway(
    vllm: Any, server: LiveServer, folder: Path, tmp_path: Path, quantizes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything is loaded again from disk, which here is another version; but not into layers that take weights once."""
    shutil.copytree(folder, tmp_path / "disk", ignore=shutil.ignore_patterns("consolidated*", "original"))
    disk = tmp_path / "disk"
    for path in disk.glob("model-*.safetensors"):
        save_file({name: array + 1 for name, array in load_file(path).items()}, path)
    model = Model.of(folder, quantizes=quantizes)
    words = ("share", folder, "--model", "org/dies", "--server", server.address, "--limit-rate", "64KiB", "--json")
    with Running(*words) as peer:
        peer.event("sharing")
        model.on_tensor = lambda name: peer.signal(signal.SIGKILL)
        loader = vllm.loader(names={str(disk): "org/dies"})
        if quantizes:
            with pytest.raises(PullFailed):
                loader.load_weights(model, vllm.ModelConfig(str(disk)))
            assert lines(caplog) == []
        else:
            loader.load_weights(model, vllm.ModelConfig(str(disk)))
            assert model.loads == 2
            assert model.holds(disk)
            assert len(lines(caplog)) == 1
