"""Access files for tests, and the tokens that they know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["TOKENS", "hashed", "write_access"]

TOKENS = {name: f"secret-{name}-4f1c9a7be2" for name in ("reader", "alice", "bob", "team", "admin")}
"""By name; `write_access` gives them roles."""

_ENTRIES: Mapping[str, tuple[str, Sequence[str] | None]] = {
    "reader": ("read", None),
    "alice": ("publish", None),
    "bob": ("publish", None),
    "team": ("publish", ["team/*"]),
    "admin": ("admin", None),
}


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_access(path: Path, more: str = "", *, without: Sequence[str] = ()) -> Path:
    """An access file with an entry for each of `TOKENS`, and more."""
    lines = []
    for name, (role, models) in _ENTRIES.items():
        if name not in without:
            lines.append(f'[[token]]\nname = "{name}"\nsha256 = "{hashed(TOKENS[name])}"\nrole = "{role}"')
            lines += [f"models = {json.dumps(models)}"] if models else []
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join([*lines, more, ""]))
    fresh.replace(path)
    return path
