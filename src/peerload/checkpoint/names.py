"""Which paths a checkpoint may have, and which files may run code.

A path is relative and POSIX. It is refused where another machine could read it as something else: an absolute path,
`..`, a backslash, a control or invisible character, a name too long for a file system, a folder that belongs to
version control or to Peerload itself, or two names that fall together where case or Unicode form does not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from peerload.errors import InvalidCheckpoint

__all__ = [
    "MAX_COMPONENT_BYTES",
    "MAX_DEPTH",
    "MAX_PATH_BYTES",
    "RESERVED",
    "STAGING_FOLDER",
    "check_path",
    "check_paths",
    "code_reason",
    "is_blob_name",
    "is_safetensors",
    "reserved",
]

STAGING_FOLDER: Final = ".peerload"
"""Where a pull keeps its unfinished files, inside the folder that it fills."""

RESERVED: Final = frozenset({STAGING_FOLDER, ".git", ".hg", ".svn", ".cache"})
"""Names, at any depth, that no checkpoint carries: a peer must not plant a git hook, nor share a cache."""

MAX_COMPONENT_BYTES: Final = 255
MAX_PATH_BYTES: Final = 2048
MAX_DEPTH: Final = 32

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_CODE: Final = re.compile(r"\.(py|pyc|pyo|pyd|pyw|pyz|dll|dylib|sh|bash|bat|cmd|ps1|exe|so(\.[0-9]+)*)$")
_BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PICKLE: Final = re.compile(r"\.(bin|pt|pt2|pth|pth\.tar|ckpt|pkl|pickle|dill|joblib)$")


def _fold(name: str) -> str:
    """What file systems that ignore case and Unicode form compare."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def reserved(name: str) -> bool:
    """Whether one component of a path is reserved, in any case."""
    return _fold(name) in RESERVED


def is_safetensors(path: str) -> bool:
    """Whether the path says that the file is in the safetensors format."""
    return path.lower().endswith(".safetensors")


def is_blob_name(name: str) -> bool:
    """Whether the Hugging Face cache would name a blob so: git's sha1 of a small file, or the sha256 of a large one."""
    return _BLOB.fullmatch(name) is not None


def code_reason(path: str) -> str:
    """Why a file may run code on the machine that loads it, judged by its name; "" if it does not."""
    name = path.lower()
    if _CODE.search(name):
        return "code"
    if _PICKLE.search(name):
        return "pickle (loading it can run code)"
    return ""


def check_path(path: str) -> None:
    """Raise `InvalidCheckpoint`, naming the path, unless it is safe to create below a folder of the target."""
    shown = path if path.isprintable() and path else ascii(path)
    if not path:
        raise InvalidCheckpoint(shown, "the path is empty")
    if any(unicodedata.category(char) in _INVISIBLE for char in path):
        raise InvalidCheckpoint(ascii(path), "the path has a control or invisible character")
    if path.startswith("/"):
        raise InvalidCheckpoint(shown, "the path is absolute")
    if "\\" in path:
        raise InvalidCheckpoint(shown, "the path has a backslash")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidCheckpoint(shown[:200] + "…", f"the path is longer than {MAX_PATH_BYTES} bytes")
    components = path.split("/")
    if len(components) > MAX_DEPTH:
        raise InvalidCheckpoint(shown, f"the path is deeper than {MAX_DEPTH} folders")
    for component in components:
        if component in ("", ".", ".."):
            raise InvalidCheckpoint(shown, f"the path has {component!r} as a component")
        if len(component.encode()) > MAX_COMPONENT_BYTES:
            raise InvalidCheckpoint(shown, f"a component of the path is longer than {MAX_COMPONENT_BYTES} bytes")
        if reserved(component):
            raise InvalidCheckpoint(shown, f"{component!r} is a reserved name")


def check_paths(paths: Iterable[str]) -> None:
    """Check every path, and that together they make one tree on any file system.

    Raises `InvalidCheckpoint` naming the first path that is unsafe, that repeats or falls together with another
    (case, Unicode form), or that is a file where another path needs a folder.
    """
    seen: dict[str, tuple[str, bool]] = {}
    for path in paths:
        check_path(path)
        components = path.split("/")
        for depth in range(1, len(components) + 1):
            prefix = "/".join(components[:depth])
            is_file = depth == len(components)
            folded = _fold(prefix)
            earlier = seen.get(folded)
            if earlier is None:
                seen[folded] = (prefix, is_file)
                continue
            spelt, was_file = earlier
            if spelt != prefix:
                raise InvalidCheckpoint(path, f"{prefix!r} differs from {spelt!r} only in case or Unicode form")
            if is_file != was_file:
                raise InvalidCheckpoint(path, f"{prefix!r} is both a file and a folder")
            if is_file:
                raise InvalidCheckpoint(path, "the path is there twice")
