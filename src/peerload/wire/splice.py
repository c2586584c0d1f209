"""Taking messages apart and putting them together as bytes, without decoding what is inside.

Rests on two rules of the protobuf encoding (https://protobuf.dev/programming-guides/encoding/): the later of two
scalars with one field number wins, and concatenated encodings of a message merge. So a stored message is changed by
appending to it, and a large part is copied once instead of being decoded and encoded again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from peerload.errors import InvalidArgument

__all__ = ["bytes_field", "head_of_bytes", "submessage", "varint", "varint_field"]

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_MAX_VARINT_BYTES: Final = 10
_SHORT: Final = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """An unsigned number (a signed one as its 64-bit two's complement) as a varint."""
    if 0 <= number < 0x80:
        return _SHORT[number]
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint_field(field: int, number: int) -> bytes:
    """A scalar field of type int32, int64, uint32, uint64, bool or enum, encoded."""
    return varint(field << 3 | _VARINT) + varint(number)


def bytes_field(field: int, *parts: bytes) -> bytes:
    """A field of type bytes, string or message whose content is the parts joined, encoded with one copy."""
    return b"".join((head_of_bytes(field, sum(map(len, parts))), *parts))


@lru_cache(maxsize=4096)
def head_of_bytes(field: int, size: int) -> bytes:
    """What precedes the content, of that size, of such a field."""
    return varint(field << 3 | _LENGTH) + varint(size)


def submessage(message: bytes, field: int) -> bytes | None:
    """The encoded content of a message field, as it stands in an encoded message; None where it is absent.

    Several occurrences are joined, which is what decoding would merge. Raises `InvalidArgument` for bytes that are no
    encoded message.
    """
    found: list[bytes] = []
    position, end = 0, len(message)
    while position < end:
        tag, position = _read_varint(message, position)
        kind = tag & 7
        start = position
        if kind == _LENGTH:
            length, start = _read_varint(message, position)
            position = start + length
        elif kind == _VARINT:
            _, position = _read_varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise InvalidArgument("message", f"has wire type {kind}, which proto3 does not use")
        if position > end:
            raise InvalidArgument("message", "ends in the middle of a field")
        if kind == _LENGTH and tag >> 3 == field:
            found.append(message[start:position])
    if not found:
        return None
    return found[0] if len(found) == 1 else b"".join(found)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    number = 0
    for index in range(_MAX_VARINT_BYTES):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position
    raise InvalidArgument("message", "has a malformed varint")
