"""The pages of the Python interface: which names are on which page. mkdocstrings fills them from the docstrings."""

from __future__ import annotations

import peerload
from peerload import client, errors

__all__ = ["pages"]

_CLIENTS = ("AsyncClient", "Client", "ClientSettings")

# Its methods are made from those of AsyncClient, which shows when it is imported and not before.
_OPTIONS = {"Client": "    options:\n      force_inspection: true\n"}

_CLIENT_HEAD = """# Clients

`Client` and `AsyncClient` have the same methods; those of `Client` wait, where those of `AsyncClient` are awaited.
[Weights in Python](../../python.md) is the guide to them.
"""
_TYPES_HEAD = """# Values and functions

What clients take and give back, all of it in `peerload.client`.
"""
_ERRORS_HEAD = """# Errors

All of it is in `peerload.errors`.
"""


def pages() -> dict[str, str]:
    """Each page in Markdown, by its name."""
    others = [name for name in client.__all__ if name not in _CLIENTS]
    elsewhere = [name for name in peerload.__all__ if name not in (*client.__all__, *errors.__all__, "__version__")]
    if elsewhere:
        raise ValueError(f"peerload has names that are on no page: {', '.join(elsewhere)}")
    (about, tree, rest) = (errors.__doc__ or "").partition("::\n")
    del tree
    return {
        "client": _CLIENT_HEAD + blocks("peerload.client", _CLIENTS),
        "types": _TYPES_HEAD + blocks("peerload.client", others),
        "errors": f"{_ERRORS_HEAD}\n{about}:\n{rest}\n" + blocks("peerload.errors", errors.__all__),
    }


def blocks(module: str, names: tuple[str, ...] | list[str]) -> str:
    """What mkdocstrings is to put in, name by name."""
    return "".join(f"\n::: {module}.{name}\n{_OPTIONS.get(name, '')}" for name in names)
