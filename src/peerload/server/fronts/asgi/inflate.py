"""Compressed requests, inflated no further than the limit."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["ENCODINGS", "Corrupt", "TooLarge", "inflate", "most_inflated"]

ENCODINGS: Final[dict[bytes, int]] = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
"""The names of the encodings that are understood beside `identity`, and what zlib calls them."""

_MOST_EXPANSION: Final = 1032
"""To one: more than that deflate cannot do (https://zlib.net/zlib_tech.html)."""


class Corrupt(Exception):
    """It is not one whole stream of its encoding."""


class TooLarge(Exception):
    """It is larger than the limit, once inflated."""


def most_inflated(size: int) -> int:
    """What `size` compressed bytes may become at most."""
    return size * _MOST_EXPANSION


def inflate(encoding: bytes, data: bytes, limit: int) -> bytes:
    """What `data` was before it was compressed. Holds no more than `limit` bytes of it, and one.

    Raises `TooLarge` or `Corrupt`.
    """
    if not data:
        # What some clients make of an empty message.
        return b""
    inflater = zlib.decompressobj(ENCODINGS[encoding])
    try:
        message = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise Corrupt(str(error)) from None
    if len(message) > limit:
        raise TooLarge
    if not inflater.eof or inflater.unused_data:
        raise Corrupt("it is cut short, or something follows it")
    return message
