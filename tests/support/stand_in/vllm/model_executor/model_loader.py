"""The loaders by their formats, and the one that reads safetensors files from a folder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from vllm.config import LoadConfig, ModelConfig

_LOADERS: dict[str, type["BaseModelLoader"]] = {}


class BaseModelLoader(ABC):
    def __init__(self, load_config: LoadConfig) -> None:
        self.load_config = load_config

    @abstractmethod
    def load_weights(self, model: Any, model_config: ModelConfig) -> None: ...


class DefaultModelLoader(BaseModelLoader):
    counter_before_loading_weights = 0.0

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        if load_config.load_format != "auto":
            raise ValueError(f"Unknown load_format: {load_config.load_format}")
        if unexpected := load_config.model_loader_extra_config.keys() - {"enable_multithread_load", "num_threads"}:
            raise ValueError(f"Unexpected extra config keys for load format auto: {unexpected}")

    def get_all_weights(self, model_config: ModelConfig, model: Any) -> Iterator[tuple[str, Any]]:
        files = sorted(Path(model_config.model).glob("*.safetensors"))
        if not files:
            raise RuntimeError(f"Cannot find any model weights with `{model_config.model}`")
        for file in files:
            yield from load_file(file).items()

    def load_weights(self, model: Any, model_config: ModelConfig) -> None:
        loaded = model.load_weights(self.get_all_weights(model_config, model))
        if missing := {name for name, _ in model.named_parameters()} - loaded:
            raise ValueError(f"Following weights were not initialized from checkpoint: {missing}")


def register_model_loader(load_format: str) -> Callable[[type[BaseModelLoader]], type[BaseModelLoader]]:
    def register(loader: type[BaseModelLoader]) -> type[BaseModelLoader]:
        if not issubclass(loader, BaseModelLoader):
            raise ValueError("The model loader must be a subclass of `BaseModelLoader`.")
        _LOADERS[load_format] = loader
        return loader

    return register


def get_model_loader(load_config: LoadConfig) -> BaseModelLoader:
    if load_config.load_format not in _LOADERS:
        raise ValueError(f"Load format `{load_config.load_format}` is not supported")
    return _LOADERS[load_config.load_format](load_config)


register_model_loader("auto")(DefaultModelLoader)
