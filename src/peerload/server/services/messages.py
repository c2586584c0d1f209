"""Requests from bytes."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from peerload.errors import InvalidArgument

__all__ = ["decode", "shown"]

_M = TypeVar("_M", bound=Message)

_SHOWN: int = 200


def decode(kind: type[_M], request: bytes) -> _M:
    """The message. Raises `InvalidArgument` for what is none: malformed, or text that is not UTF-8."""
    try:
        return kind.FromString(request)
    except DecodeError:
        raise InvalidArgument(
            "request", f"is not an encoded {kind.DESCRIPTOR.full_name} (malformed, or text that is not UTF-8)"
        ) from None


def shown(text: str) -> str:
    """A name that a caller sent, as it may stand in a message: quoted, control characters escaped, bounded."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}… ({len(text)} characters)"
