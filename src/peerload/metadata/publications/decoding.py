"""Requests that the metadata is made of, from bytes."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from peerload.errors import InvalidArgument

__all__ = ["decoded"]

_M = TypeVar("_M", bound=Message)


def decoded(kind: type[_M], request: bytes) -> _M:
    """The message. Raises `InvalidArgument` for what is none."""
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise InvalidArgument("request", f"is not a valid {kind.DESCRIPTOR.name} (damaged, or not UTF-8)") from error
