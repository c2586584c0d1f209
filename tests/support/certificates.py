"""Certificates for tests, made by the program openssl: authorities, and what they sign."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

__all__ = ["Authority", "Issued", "self_signed"]

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_CONFIGURATION = """
[ca]
default_ca = it
[it]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
"""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates. Its own is the file `certificate`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self.certificate = self._folder / "ca.pem"
        self._key = self._folder / "ca.key"
        (self._folder / "index.txt").touch()
        (self._folder / "ca.cnf").write_text(_CONFIGURATION.format(folder=self._folder))
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl(
            *("req", "-x509", *_CURVE, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}"),
            *(word for each in extensions for word in ("-addext", each)),
        )

    def issue(
        self,
        name: str = "server",
        *,
        names: str = "DNS:localhost,IP:127.0.0.1",
        begins: datetime | None = None,
        ends: datetime | None = None,
    ) -> Issued:
        """A certificate, of which `name` is the common name and the files', and `names` the alternative names. It is good
        for servers and clients, and for a month from now, unless it is said otherwise."""
        now = datetime.now(UTC)
        begins, ends = begins or now - timedelta(hours=1), ends or now + timedelta(days=30)
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        issued = Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n")
        _openssl("req", "-new", *_CURVE, "-keyout", issued.key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            *("ca", "-batch", "-notext", "-config", self._folder / "ca.cnf", "-extfile", extensions),
            *("-cert", self.certificate, "-keyfile", self._key, "-in", request, "-out", issued.certificate),
            *("-startdate", f"{begins:%Y%m%d%H%M%SZ}", "-enddate", f"{ends:%Y%m%d%H%M%SZ}"),
        )
        return issued


def self_signed(folder: Path, common: str = "", *names: str, days: int = 2) -> bytes:
    """The PEM of a certificate that nobody else signed, for a common name and alternative names (`DNS:…`, `URI:…`)."""
    escaped = common.replace("/", r"\/")
    subject = f"/O=tests/CN={escaped}" if common else "/O=tests"
    more = ("-addext", f"subjectAltName={','.join(names)}") if names else ()
    certificate = folder / "certificate.pem"
    _openssl(
        *("req", "-x509", *_CURVE, "-days", str(days), "-utf8", "-subj", subject, *more),
        *("-keyout", folder / "key.pem", "-out", certificate),
    )
    return certificate.read_bytes()


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
