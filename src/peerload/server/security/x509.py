"""What a client certificate says of whose it is: the few fields of X.509 that are asked for here (RFC 5280).

Its signature and its chain the TLS connection has checked; here it is only read. What is malformed raises ValueError.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["Names", "names_of"]

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_OCTETS: Final = 0x04
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_DNS_NAME: Final = 0x82
_URI: Final = 0x86
_COMMON_NAME: Final = b"\x55\x04\x03"
_ALTERNATIVE_NAMES: Final = b"\x55\x1d\x11"
_TEXT: Final = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii", 0x1E: "utf-16-be"}
"""The string types of a common name that are in use."""
_MOST_BYTES: Final = 64 * 1024
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a certificate's subject, and until when they hold."""

    common: tuple[str, ...]
    dns: tuple[str, ...]
    uris: tuple[str, ...]
    until: float
    """Seconds since 1970."""


@lru_cache(maxsize=1_024)
def names_of(pem: bytes) -> Names:
    """The names in the first certificate of a PEM text. Raises ValueError."""
    found = _PEM.search(pem[:_MOST_BYTES])
    if found is None:
        raise ValueError("there is no certificate")
    try:
        der = ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
        return _names(der)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the certificate is malformed") from error


class _Part(NamedTuple):
    """A tag and what is in it."""

    tag: int
    content: bytes

    def parts(self) -> list[_Part]:
        """What it is made of."""
        return list(_parts(self.content))


def _parts(data: bytes) -> Iterator[_Part]:
    """DER: tag, length, content, one after the other."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            # No certificate has parts of more than four bytes of length; none at all would be BER.
            if not 1 <= size <= 4 or at + size > len(data):
                raise ValueError("a part has no length")
            length = int.from_bytes(data[at : at + size])
            at += size
        if at + length > len(data):
            raise ValueError("a part is cut off")
        yield _Part(tag, data[at : at + length])
        at += length


def _names(der: bytes) -> Names:
    (certificate,) = _parts(der)
    fields = certificate.parts()[0].parts()
    if fields[0].tag == _VERSION:
        fields = fields[1:]
    _, _, _, validity, subject, _, *more = fields
    dns: list[str] = []
    uris: list[str] = []
    for extension in (each for part in more if part.tag == _EXTENSIONS for each in part.parts()[0].parts()):
        oid, *_, value = extension.parts()
        if oid.content == _ALTERNATIVE_NAMES and value.tag == _OCTETS:
            (listed,) = _parts(value.content)
            for name in listed.parts():
                if name.tag in (_DNS_NAME, _URI):
                    (dns if name.tag == _DNS_NAME else uris).append(name.content.decode("ascii"))
    common = [
        _text(attribute.parts()[1])
        for group in subject.parts()
        for attribute in group.parts()
        if attribute.parts()[0].content == _COMMON_NAME
    ]
    return Names(_clean(common), _clean(dns), _clean(uris), _moment(validity.parts()[1]))


def _text(part: _Part) -> str:
    # Of a type that nobody uses: no name that anything fits.
    return part.content.decode(_TEXT[part.tag]) if part.tag in _TEXT else ""


def _clean(names: list[str]) -> tuple[str, ...]:
    """Those without control characters: a NUL in the middle has made one name look like another before."""
    return tuple(name for name in names if name and name.isprintable())


def _moment(part: _Part) -> float:
    text = part.content.decode("ascii")
    if part.tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif part.tag != _GENERALIZED_TIME:
        raise ValueError("the certificate has no end")
    if not re.fullmatch(r"\d{14}Z", text):
        raise ValueError("the certificate's end is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
