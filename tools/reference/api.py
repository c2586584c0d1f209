"""The pages of the Python interface: which names are on which page. mkdocstrings fills them from the docstrings."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import peerload
from peerload import client, errors

__all__ = ["pages"]

_CLIENTS = ("AsyncClient", "Client", "ClientSettings")

_WAITING = {"Client": "AsyncClient", "Source": "AsyncSource", "Artifact": "AsyncArtifact"}
"""Classes for callers without an event loop, whose members are made from those of others, which have the docstrings."""

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
        "client": _CLIENT_HEAD + blocks(client, _CLIENTS),
        "types": _TYPES_HEAD + blocks(client, others),
        "errors": f"{_ERRORS_HEAD}\n{about}:\n{rest}\n" + blocks(errors, errors.__all__),
    }


def blocks(module: ModuleType, names: tuple[str, ...] | list[str]) -> str:
    """What mkdocstrings is to put in, name by name."""
    return "".join(f"\n::: {module.__name__}.{name}\n{options(getattr(module, name))}" for name in names)


def options(thing: Any) -> str:
    """How a name is shown: how it is made where callers make it, and of errors only what each adds."""
    if not isinstance(thing, type):
        return ""
    twin = _WAITING.get(thing.__name__)
    made = dataclasses.is_dataclass(thing) or thing is client.AsyncClient or issubclass(thing, errors.PeerloadError)
    inherits = not issubclass(thing, errors.PeerloadError)
    chosen = {"merge_init_into_class": made, "inherited_members": inherits, **({"members": False} if twin else {})}
    lines = [f"      {name}: {str(value).lower()}" for name, value in chosen.items()]
    return "\n".join(["    options:", *lines, "", waiting(thing, twin) if twin else ""])


def waiting(thing: type, twin: str) -> str:
    """The members of a class for callers without an event loop, as links to the other's."""
    links = ", ".join(
        f'<autoref optional identifier="peerload.client.{twin}.{each}"><code>{each}</code></autoref>'
        for each in vars(thing)
        if not each.startswith("_")
    )
    return f"It has what `{twin}` has: {links}.\n"
