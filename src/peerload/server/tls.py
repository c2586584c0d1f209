"""TLS on the gRPC port: which files it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TlsFiles"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a server's TLS, all PEM. They may change while it serves; connections made afterwards see that."""

    certificate: Path
    """The server's certificate, and after it those that lead from it towards the root."""
    key: Path
    client_ca: Path | None = None
    """Who signs clients' certificates; with it every client must show one. None: clients show none."""
