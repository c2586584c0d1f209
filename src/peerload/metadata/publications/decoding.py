"""Requests that the metadata is made of, from bytes."""

from __future__ import annotations

import mmap
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from peerload.errors import InvalidArgument

__all__ = ["decoded"]

_M = TypeVar("_M", bound=Message)

_MOST_NEEDED: Final = 32
"""Bytes that a message takes at most for each of its encoded ones: empty elements of a list have two."""


def decoded(kind: type[_M], request: bytes) -> _M:
    """The message. Raises `InvalidArgument` for what is none, `MemoryError` where that is not certain."""
    try:
        return kind.FromString(request)
    except DecodeError as error:
        _check_memory(len(request))
        raise InvalidArgument("request", f"is not a valid {kind.DESCRIPTOR.name} (damaged, or not UTF-8)") from error


def _check_memory(size: int) -> None:
    """Where memory is short, protobuf says the same as of what is damaged: so no valid request may be denied for good."""
    try:
        mmap.mmap(-1, _MOST_NEEDED * size + 1).close()  # asked for, and not touched
    except OSError as error:
        raise MemoryError(f"there is no room to read {size} bytes") from error
