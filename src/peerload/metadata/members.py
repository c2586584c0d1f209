"""Members of stored values, as they are read back.

What a store holds was written by this release or by another, or by a person. A member that is missing, of another type, or
beyond what its field can hold counts as not given: one bad record must not stand in the way of the good ones beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["MAX_INT64", "MAX_UINT32", "MAX_UINT64", "decimal", "number", "text"]

MAX_UINT32: Final = 2**32 - 1
MAX_INT64: Final = 2**63 - 1
MAX_UINT64: Final = 2**64 - 1
_DIGITS: Final = 20


def text(value: Mapping[str, object], name: str) -> str:
    """A text that can be encoded; empty where there is none."""
    member = value.get(name)
    if not isinstance(member, str):
        return ""
    if not member.isascii():
        try:
            member.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say
            return ""
    return member


def number(value: Mapping[str, object], name: str, most: int = MAX_INT64) -> int | None:
    """A number from 0 to `most`; None where there is none."""
    member = value.get(name)
    if not isinstance(member, int) or isinstance(member, bool) or not 0 <= member <= most:
        return None
    return member


def decimal(digits: str, most: int = MAX_UINT64) -> int | None:
    """The number from 0 to `most` that a text of digits says; None for any other text."""
    # The length first: Python refuses to convert thousands of digits.
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _DIGITS or int(digits) > most:
        return None
    return int(digits)
