"""How gRPC writes what it has to say into HTTP/2 headers: timeouts, metadata, messages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

__all__ = ["Headers", "encoded_binary", "encoded_message", "metadata_of", "timeout_of"]

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_DIGITS: Final = 8
_TRANSPORT: Final = frozenset(
    (b"host", b"te", b"content-type", b"content-length", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding")
)
_BINARY: Final = "-bin"
_ESCAPED: Final = {byte: f"%{byte:02X}".encode() for byte in range(256) if not 0x20 <= byte <= 0x7E or byte == ord("%")}


def timeout_of(value: bytes) -> float:
    """The seconds that a `grpc-timeout` header gives. Raises ValueError for what is none."""
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ValueError("is no number of at most 8 digits with a unit (H, M, S, m, u, n)")
    return int(digits) * unit


def encoded_message(message: str) -> bytes:
    """A text as `grpc-message` carries it: UTF-8, everything but plain ASCII percent-encoded."""
    encoded = message.encode()
    if message.isascii() and message.isprintable() and b"%" not in encoded:
        return encoded
    return b"".join(_ESCAPED.get(byte) or bytes((byte,)) for byte in encoded)


def encoded_binary(value: bytes) -> bytes:
    """A value as headers carry it whose key ends in `-bin`."""
    return base64.b64encode(value).rstrip(b"=")


def metadata_of(headers: Headers) -> Mapping[str, tuple[str | bytes, ...]]:
    """What the caller sent beside its call, by lower-case key, in order; what is the transport's own is left out.

    Raises ValueError, naming the key, for a binary value that is not base64.
    """
    found: dict[str, tuple[str | bytes, ...]] = {}
    for raw, value in headers:
        if raw in _TRANSPORT:
            continue
        key = raw.decode("latin-1")
        if key.endswith(_BINARY):
            # One header may carry several binary values.
            values: tuple[str | bytes, ...] = tuple(_decoded_binary(key, part) for part in value.split(b","))
        else:
            values = (value.decode("latin-1"),)
        found[key] = found.get(key, ()) + values
    return found


def _decoded_binary(key: str, value: bytes) -> bytes:
    value = value.strip().rstrip(b"=")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise ValueError(f"{key}: is not base64") from None
