"""Client certificates, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["self_signed"]


def self_signed(folder: Path, common: str = "", *names: str, days: int = 2) -> bytes:
    """The PEM of a certificate for a common name and alternative names (`DNS:…`, `URI:…`)."""
    escaped = common.replace("/", r"\/")
    subject = f"/O=tests/CN={escaped}" if common else "/O=tests"
    more = ("-addext", f"subjectAltName={','.join(names)}") if names else ()
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    where = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem"))
    done = subprocess.run(
        [*words, "-days", str(days), "-utf8", "-subj", subject, *more, *where],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (folder / "certificate.pem").read_bytes()
