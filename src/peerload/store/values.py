"""What stores take, and how they keep values: the checks that every store makes before it writes, and the one form of a value."""

from __future__ import annotations

import json
import math
import sys
from typing import Final, NoReturn

from peerload.errors import InvalidArgument, LimitExceeded
from peerload.store.base import MAX_BLOB_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Beat, Keep, Value

__all__ = [
    "check_beat",
    "check_blob",
    "check_key",
    "check_prefix",
    "decode_beat",
    "decode_value",
    "encode_value",
]


def check_key(key: str) -> str:
    """The key, if a store may hold it. Raises `InvalidArgument`."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument("key", "is not valid Unicode (a lone surrogate)") from error
    if not size:
        raise InvalidArgument("key", "must not be empty")
    if size > MAX_KEY_BYTES:
        raise LimitExceeded("key", f"has {size} bytes, more than {MAX_KEY_BYTES}", limit=MAX_KEY_BYTES)
    return key


def check_blob(blob: bytes | Keep) -> None:
    """Raises `LimitExceeded` for a blob that no store takes."""
    if not isinstance(blob, Keep) and len(blob) > MAX_BLOB_BYTES:
        raise LimitExceeded("blob", f"has {len(blob)} bytes, more than {MAX_BLOB_BYTES}", limit=MAX_BLOB_BYTES)


def check_beat(beat: Beat | None) -> None:
    """Raises `InvalidArgument` for a beat that no store takes."""
    if beat is None:
        return
    if not 0 <= beat.stamp < 1 << 63:
        raise InvalidArgument("beat", f"stamp {beat.stamp} is not a time in milliseconds since 1970")
    if beat.load is not None and not math.isfinite(beat.load):
        raise InvalidArgument("beat", f"load {beat.load} is not a number from 0 to 1")


def check_prefix(prefix: str) -> str:
    """The prefix, if keys can begin with it. Raises `InvalidArgument`."""
    try:
        prefix.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument("prefix", "is not valid Unicode (a lone surrogate)") from error
    return prefix


def encode_value(value: Value) -> str:
    """The value as JSON, in the one form that every store keeps. Raises `InvalidArgument` if it is not flat, not
    finite, not Unicode or too large."""
    members: dict[object, object] = dict(value.items())
    for name, member in members.items():
        if not isinstance(name, str) or not (member is None or isinstance(member, (str, int, float, bool))):
            raise InvalidArgument("value", f"member {name!r} is not a scalar")
    try:
        text = json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (ValueError, UnicodeEncodeError) as error:
        raise InvalidArgument("value", f"cannot be kept as JSON: {error}") from error
    if size > MAX_VALUE_BYTES:
        raise LimitExceeded("value", f"has {size} bytes as JSON, more than {MAX_VALUE_BYTES}", limit=MAX_VALUE_BYTES)
    return text


def decode_value(text: str | bytes) -> Value:
    """The value that `encode_value` made JSON of. Raises ValueError for text that it never makes."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("the value is nested deeply") from None
    if not isinstance(value, dict) or not _SCALARS.issuperset(map(type, value.values())):
        raise ValueError("the value is not a flat object")
    if "\\u" in text:
        # An escape may stand for half of a surrogate pair, which can be neither kept nor sent on.
        json.dumps(value, ensure_ascii=False).encode()
    # Entries have members of the same few names.
    return {sys.intern(name): member for name, member in value.items()}


def decode_beat(stamp: str | bytes | int, load: str | bytes | float | None) -> Beat:
    """A beat from what is kept of it; an empty load is none. Raises ValueError for one that no store takes."""
    try:
        beat = Beat(int(stamp), None if load is None or load in ("", b"") else float(load))
        check_beat(beat)
    except (InvalidArgument, OverflowError) as error:
        raise ValueError(str(error)) from None
    return beat


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON's")


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
# Made once: one for each value would cost as much as decoding it does.
_DECODER: Final = json.JSONDecoder(parse_constant=_no_number)
