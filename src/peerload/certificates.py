"""Certificates and keys in PEM files: read whole, and examined before they are used."""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn

from peerload.errors import InvalidArgument, MissingExtra

__all__ = [
    "KeyPair",
    "Subject",
    "Validity",
    "read_authorities",
    "read_key_pair",
    "subject",
    "validity",
]

_MAX_BYTES: Final = 4 * 1024 * 1024
"""Ten times what the largest collections of authorities have."""
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----(.+?)-----END", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Validity:
    """The time for which a certificate is good, in milliseconds since 1970."""

    begins: int
    ends: int

    @property
    def end(self) -> str:
        """When it ends, for people."""
        return _shown(self.ends)

    def fault(self, now: int) -> str:
        """What is wrong with it at a time; empty: nothing."""
        if now >= self.ends:
            return f"has expired at {self.end}"
        return f"is not valid before {_shown(self.begins)}" if now < self.begins else ""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose a certificate is: its names, and until when (milliseconds since 1970) they hold."""

    common: tuple[str, ...]
    dns: tuple[str, ...]
    uris: tuple[str, ...]
    until: int


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate, those that lead from it towards the root, and its key; all PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def validity(self) -> Validity:
        """The certificate's own. Raises `MissingExtra` where nothing is there to read it with."""
        return validity(_certificates(self.certificate)[0])

    def load(self, context: ssl.SSLContext) -> None:
        """Show it in a context's connections."""
        _load(context, self.certificate, self.key)


def read_key_pair(certificate: Path, key: Path, fields: tuple[str, str]) -> KeyPair:
    """A certificate and its key. Raises `InvalidArgument` whose field is one of `fields`, where a file cannot be read, is
    not PEM, or does not fit the other."""
    chain, secret = _read(certificate, fields[0]), _read(key, fields[1])
    found = _certificates(chain)
    if not found:
        raise InvalidArgument(fields[0], f"{certificate} is no certificate in PEM")
    match = _KEY.search(secret)
    if match is None:
        raise InvalidArgument(fields[1], f"{key} is no private key in PEM")
    if b"ENCRYPTED" in match[1] or b"Proc-Type: 4,ENCRYPTED" in match[2]:
        raise InvalidArgument(fields[1], f"{key} is encrypted: it must be readable without a passphrase")
    if not _readable(found):
        raise InvalidArgument(fields[0], f"{certificate} is damaged")
    pair = KeyPair(chain, secret)
    try:
        pair.load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise InvalidArgument(fields[1], f"{key} is not the key of the certificate in {certificate}") from None
        reason = error.reason or "it is damaged"
        raise InvalidArgument(fields[0], f"{certificate} with {key} cannot be used: {reason}") from None
    except ValueError:
        raise InvalidArgument(fields[1], f"{key} is encrypted: it must be readable without a passphrase") from None
    return pair


def read_authorities(path: Path, field: str) -> bytes:
    """The certificates of authorities. Raises `InvalidArgument` as `read_key_pair` does."""
    pem = _read(path, field)
    found = _certificates(pem)
    if not found:
        raise InvalidArgument(field, f"{path} is no certificate in PEM")
    if not _readable(found):
        raise InvalidArgument(field, f"{path} is damaged: not every certificate in it can be read")
    return pem


def validity(der: bytes) -> Validity:
    """That of a certificate (DER). Raises ValueError where it is none, `MissingExtra` where nothing is there to read it with."""
    found = _x509().load_der_x509_certificate(der)
    begins, ends = (_ms(each) for each in (found.not_valid_before_utc, found.not_valid_after_utc))
    return Validity(begins, ends)


def subject(pem: bytes) -> Subject:
    """Whose the first certificate of a PEM text is. Raises as `validity` does."""
    match = _CERTIFICATE.search(pem)
    if match is None:
        raise ValueError("there is no certificate")
    x509 = _x509()
    found = x509.load_pem_x509_certificate(match[0])
    common = [str(each.value) for each in found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        dns, uris = [], []
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"its names cannot be read: {error}") from error
    else:
        dns = names.get_values_for_type(x509.DNSName)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return Subject(_clean(common), _clean(dns), _clean(uris), _ms(found.not_valid_after_utc))


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # OpenSSL reads keys from files only. These have no name, and are not written to any disk.
    with _unnamed(certificate) as first, _unnamed(key) as second:
        context.load_cert_chain(first, second, password=_no_passphrase)


@contextmanager
def _unnamed(data: bytes) -> Iterator[str]:
    """The path of a file in memory, which only this process can open."""
    file = os.memfd_create("peerload", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as writing:
            writing.write(data)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def _read(path: Path, field: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(field, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise InvalidArgument(field, f"{path} has more than {_MAX_BYTES:,} bytes")
    return data


def _readable(certificates: Sequence[bytes]) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=b"".join(certificates))
    except (ssl.SSLError, ValueError):
        return False
    return True


def _certificates(pem: bytes) -> list[bytes]:
    """Each certificate as DER; those whose text is none are left out."""
    found = []
    for text in _CERTIFICATE.findall(pem):
        try:
            found.append(base64.b64decode(b"".join(text.split()), validate=True))
        except binascii.Error:
            return []
    return found


def _no_passphrase() -> NoReturn:
    raise ValueError("a passphrase is asked for")


def _x509() -> ModuleType:
    try:
        from cryptography import x509
    except ImportError:
        raise MissingExtra("reading certificates", "tls") from None
    return x509


def _clean(names: Iterable[str]) -> tuple[str, ...]:
    """Those without control characters: a NUL in the middle has made one name look like another before."""
    return tuple(name for name in names if name and name.isprintable())


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _shown(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
