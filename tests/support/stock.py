"""The stock client package beside ours in one process.

Its package object imports engine libraries that tests do not have, so a hollow one is put in its place: a module with
nothing but a search path. The submodules are the package's own, unmodified.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import sys
import types
from typing import Any

PACKAGE = "modelexpress"


def import_stock(submodule: str) -> Any:
    """One of the stock package's modules, by its name below the package."""
    if PACKAGE not in sys.modules:
        hollow = types.ModuleType(PACKAGE)
        path = str(importlib.metadata.distribution(PACKAGE).locate_file(PACKAGE))
        hollow.__path__ = [path]
        hollow.__spec__ = importlib.machinery.ModuleSpec(PACKAGE, None, is_package=True)
        hollow.__spec__.submodule_search_locations = [path]
        sys.modules[PACKAGE] = hollow
    return importlib.import_module(f"{PACKAGE}.{submodule}")
