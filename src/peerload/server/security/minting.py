"""New static tokens, and their entries in access files."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peerload.errors import InvalidArgument
from peerload.server.security.access import digest, parse

__all__ = ["Minted", "add", "mint"]

_PREFIX: Final = "plt_"
"""So that whoever finds one in a log or a repository knows what it is."""
_RANDOM_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Minted:
    """A token that nobody has had before, and the entry by which servers know it."""

    token: str = field(repr=False)
    sha256: str
    entry: str
    """TOML."""


def mint(name: str, role: str, models: Sequence[str] = ()) -> Minted:
    """A new token. Raises `InvalidArgument` for what an access file would not take."""
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    known = digest(token).hex()
    fields: dict[str, object] = {"name": name, "sha256": known, "role": role}
    if models:
        fields["models"] = list(models)
    lines = ["[[token]]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())]
    entry = "\n".join(lines) + "\n"
    try:
        parse(entry)
    except ValueError as error:
        raise InvalidArgument("token", str(error).partition(": ")[2] or str(error)) from None
    return Minted(token, known, entry)


def add(path: Path, entry: str) -> None:
    """Put an entry at the end of an access file, which may be new; servers see the file before or after that. Raises
    `InvalidArgument` where the file would be none, and then it is as it was, and OSError."""
    path = path.resolve()
    before, mode = "", 0o600
    with contextlib.suppress(FileNotFoundError):
        before, mode = path.read_text("utf-8"), path.stat().st_mode & 0o777
    text = f"{before.rstrip()}\n\n{entry}" if before.strip() else entry
    try:
        parse(text)
    except ValueError as error:
        raise InvalidArgument("access", f"{path}: {error}") from None
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
