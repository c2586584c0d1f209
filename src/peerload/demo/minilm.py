"""A sentence encoder in plain numpy: BERT with mean pooling, as all-MiniLM-L6-v2 is built.

It is here to use pulled weights for what they are for, without a framework: two runs on equal weights give equal
vectors, bit by bit. Architecture: Devlin et al., "BERT" (2019), and Reimers and Gurevych, "Sentence-BERT" (2019).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from peerload.checkpoint.dtypes import numpy_dtype
from peerload.checkpoint.safetensors import parse_header
from peerload.errors import InvalidArgument, MissingExtra

try:
    import numpy as np
    from tokenizers import Tokenizer
except ImportError:
    raise MissingExtra("the demo's forward pass", "demo") from None

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

__all__ = ["Config", "MiniLM", "tensors_of"]

_MODEL = "model.safetensors"
_erf = np.frompyfunc(math.erf, 1, 1)


def tensors_of(file: bytes | memoryview, path: str = _MODEL) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file as arrays over its own memory, by name; nothing is copied.

    Raises `InvalidCheckpoint` naming `path` for a bad header.
    """
    data = memoryview(file)
    return {
        tensor.name: np.frombuffer(
            data[tensor.offset : tensor.offset + tensor.size], numpy_dtype(tensor.dtype)
        ).reshape(tensor.shape)
        for tensor in parse_header(data, len(data), path).tensors
    }


@dataclass(frozen=True, slots=True)
class Config:
    """The numbers of `config.json` that a forward pass needs, and the most tokens that the model was made for."""

    layers: int
    heads: int
    epsilon: float
    max_tokens: int

    @classmethod
    def parse(cls, config: bytes, max_tokens: int = 256) -> Self:
        """Read `config.json`. Raises `InvalidArgument` naming what is missing or not a BERT's."""
        values = json.loads(config)
        if values.get("model_type") != "bert" or values.get("hidden_act") != "gelu":
            raise InvalidArgument("config.json", "this is not a BERT with gelu")
        try:
            return cls(
                layers=int(values["num_hidden_layers"]),
                heads=int(values["num_attention_heads"]),
                epsilon=float(values["layer_norm_eps"]),
                max_tokens=min(max_tokens, int(values["max_position_embeddings"])),
            )
        except KeyError as error:
            raise InvalidArgument("config.json", f"{error.args[0]} is missing") from None


class MiniLM:
    """The encoder. `tensors` are named as in the file; `tokenizer` is the text of `tokenizer.json`."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], tokenizer: str, config: Config) -> None:
        self._tensors = tensors
        self._config = config
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config.max_tokens)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the encoder from a folder of files."""
        return cls.from_files(
            {name: (folder / name).read_bytes() for name in (_MODEL, "tokenizer.json", "config.json")}
        )

    @classmethod
    def from_files(cls, files: Mapping[str, bytes | memoryview]) -> Self:
        """The encoder over the bytes of `model.safetensors`, `tokenizer.json` and `config.json`, wherever they lie."""
        return cls(
            tensors_of(files[_MODEL]),
            bytes(files["tokenizer.json"]).decode(),
            Config.parse(bytes(files["config.json"])),
        )

    def embed(self, sentence: str) -> Array:
        """The sentence's vector: float32, of length 1."""
        tokens = np.array(self._tokenizer.encode(sentence).ids)
        hidden = self._embeddings(tokens)
        for layer in range(self._config.layers):
            hidden = self._layer(hidden, f"encoder.layer.{layer}")
        # One sentence, no padding: the mean over all tokens is the mean over those that count.
        pooled: Array = hidden.mean(axis=0)
        unit: Array = pooled / np.linalg.norm(pooled)
        return unit

    def similarity(self, first: str, second: str) -> float:
        """How alike two sentences are: the cosine of their vectors, up to 1."""
        return float(self.embed(first) @ self.embed(second))

    def _embeddings(self, tokens: NDArray[np.int64]) -> Array:
        tables = self._tensors
        words = tables["embeddings.word_embeddings.weight"][tokens]
        places = tables["embeddings.position_embeddings.weight"][: len(tokens)]
        kinds = tables["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + places + kinds, "embeddings.LayerNorm")

    def _layer(self, hidden: Array, name: str) -> Array:
        mixed = self._dense(self._attention(hidden, f"{name}.attention.self"), f"{name}.attention.output.dense")
        hidden = self._norm(hidden + mixed, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._dense(hidden, f"{name}.intermediate.dense"))
        return self._norm(hidden + self._dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _attention(self, hidden: Array, name: str) -> Array:
        heads = self._config.heads
        query, key, value = (
            self._dense(hidden, f"{name}.{part}").reshape(len(hidden), heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(query.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        together: Array = (weights @ value).transpose(1, 0, 2).reshape(hidden.shape)
        return together

    def _dense(self, hidden: Array, name: str) -> Array:
        result: Array = hidden @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]
        return result

    def _norm(self, hidden: Array, name: str) -> Array:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self._config.epsilon))
        result: Array = centred / spread * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]
        return result


def _gelu(values: Array) -> Array:
    """The exact form, by the error function, as the model was trained."""
    error: Array = _erf(values / np.float32(math.sqrt(2.0))).astype(np.float32)
    return values * np.float32(0.5) * (np.float32(1.0) + error)
