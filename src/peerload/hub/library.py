"""What is asked of the package huggingface_hub: where its cache is, and how it names a model's folder there."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from peerload.errors import InvalidArgument, MissingExtra

__all__ = ["cache_folder", "library", "repo_folder"]


def library(module: str = "huggingface_hub") -> ModuleType:
    """The package, or a module of it. Raises `MissingExtra`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra("the Hugging Face cache", "hub") from None


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """The cache's folder: the one given, else what HF_HUB_CACHE or HF_HOME say, else the library's default."""
    library()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser().absolute()


def repo_folder(cache: Path, model: str) -> Path:
    """Where the cache keeps a model. Raises `InvalidArgument` for what cannot be a model's name on the hub."""
    utils = library("huggingface_hub.utils")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        utils.validate_repo_id(model)
    except HFValidationError as error:
        raise InvalidArgument("model", f"cannot be kept in the Hugging Face cache: {error}") from error
    return cache / repo_folder_name(repo_id=model, repo_type="model")
