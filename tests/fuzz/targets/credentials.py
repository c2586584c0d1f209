"""What callers show of themselves, and the file that says who they are."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import suppress

from peerload.certificates import subject
from peerload.server.security.access import parse
from peerload.server.security.jwt import claims_of
from tests.fuzz.mutation import record, records
from tests.fuzz.target import Target

__all__ = ["TARGETS"]


def run_tokens(data: bytes) -> None:
    """A bearer token; and records of one's claims."""
    claims_of(data.decode("latin-1"))
    for claims, *_ in records(data) or ():
        text = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
        found = claims_of(f"e30.{text}.c2ln")
        if found is not None:
            assert all(isinstance(each, str) for each in found.audiences)


def seed_tokens() -> Iterator[bytes]:
    for claims in (
        {"aud": ["peerload", "other"], "exp": 1_750_000_000, "sub": "x"},
        {"aud": "peerload", "exp": 1.5},
        {},
    ):
        yield record(json.dumps(claims).encode())
    yield b"e30.eyJhdWQiOiJhIn0.c2ln"


def run_certificates(data: bytes) -> None:
    """A certificate in DER. (TLS has checked it before; what signs it may be a company's own.)"""
    with suppress(ValueError):
        subject(ssl.DER_cert_to_PEM_cert(data).encode())
    with suppress(ValueError):
        subject(data)


def seed_certificates() -> Iterator[bytes]:
    plain = _der(0x82, b"a.example") + _der(0x86, b"spiffe://prod/ns/inference/sa/x")
    yield _certificate(plain)
    # Kinds of names that are hardly ever seen, no names, what is no name; and the extension twice.
    yield _certificate(plain + _der(0xA3, b"\x05\0") + _der(0xA5, b"\x05\0") + _der(0xA0, b"\x06\x01\x2a"))
    yield _certificate(b"")
    yield _certificate(_der(0x82, b"\xff\0") + _der(0x87, bytes(5)) + _der(0x86, "é".encode()))
    yield _certificate(plain, times=2)


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    shown = (
        bytes([size]) if size < 0x80 else b"\x81" + bytes([size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + shown + content


def _certificate(alternatives: bytes, times: int = 1) -> bytes:
    """What a certificate has, but for a key and a signature that mean anything."""
    algorithm = _der(0x30, bytes.fromhex("06082a8648ce3d040302"))
    name = _der(0x30, _der(0x31, _der(0x30, b"\x06\x03\x55\x04\x03", _der(0x0C, b"worker-1"))))
    validity = _der(0x30, _der(0x17, b"250101000000Z"), _der(0x18, b"20550101000000Z"))
    names = _der(0x30, alternatives)
    extension = _der(0x30, b"\x06\x03\x55\x1d\x11", _der(0x04, names))
    body = _der(
        0x30,
        _der(0xA0, b"\x02\x01\x02"),
        b"\x02\x01\x07",
        algorithm,
        name,
        validity,
        name,
        _der(0x30, algorithm, _der(0x03, bytes(65))),
        _der(0xA3, _der(0x30, extension * times)),
    )
    return _der(0x30, body, algorithm, _der(0x03, bytes(65)))


def run_access(data: bytes) -> None:
    """An access file."""
    with suppress(ValueError):
        parse(data.decode(errors="replace"))


def seed_access() -> Iterator[bytes]:
    yield b"""[[token]]
name = "ci"
sha256 = ["%s"]
role = "publish"
models = ["org/*"]
[[service_account]]
name = "inference/*"
role = "publish"
[[certificate]]
name = "spiffe://prod/ns/inference/*"
role = "read"
""" % (b"ab" * 32)


TARGETS = (
    Target("tokens", run_tokens, seed_tokens),
    Target("certificates", run_certificates, seed_certificates),
    Target("access", run_access, seed_access),
)
