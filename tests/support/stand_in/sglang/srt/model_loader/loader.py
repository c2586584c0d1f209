"""The loader that reads safetensors files from a folder, and which loader it is to be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from sglang.srt.configs.load_config import LoadConfig, LoadFormat


class DefaultModelLoader:
    def __init__(self, load_config: LoadConfig) -> None:
        assert load_config.load_format is LoadFormat.AUTO
        self.load_config = load_config

    def _get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        for file in sorted(Path(model_config.model_path).glob("*.safetensors")):
            yield from load_file(file).items()

    def load_model(self, *, model_config: Any, model: Any) -> Any:
        model.load_weights(self._get_all_weights(model_config, model))
        return model


def get_model_loader(load_config: LoadConfig) -> DefaultModelLoader:
    if isinstance(load_config.load_format, type):
        loader: DefaultModelLoader = load_config.load_format(load_config)
        return loader
    return DefaultModelLoader(load_config)
