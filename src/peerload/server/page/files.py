"""The files that run in the browser, as they lie beside this module."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Files"]

_FOLDER: Final = Path(__file__).parent / "files"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    packed: bytes
    kind: str
    tag: str


class Files:
    """All of them, read once: whoever asks for anything else asks for what is not there."""

    def __init__(self) -> None:
        self._files = {
            path.relative_to(_FOLDER).as_posix(): _read(path)
            for path in sorted(_FOLDER.rglob("*"))
            if path.suffix in _TYPES and path.is_file()
        }

    @property
    def names(self) -> list[str]:
        """What there is, relative to the page."""
        return list(self._files)

    def answer(self, name: str, request: Request) -> Response | None:
        """The file of that name; None where there is none."""
        file = self._files.get(name)
        if file is None:
            return None
        headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(file.packed, headers=headers, media_type=file.kind)
        return Response(file.data, headers=headers, media_type=file.kind)


def _read(path: Path) -> _File:
    data = path.read_bytes()
    return _File(data, gzip.compress(data, mtime=0), _TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')
