"""Numbers and names as people read them."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from peerload.errors import InvalidArgument

__all__ = ["age", "clean", "duration", "parse_size", "plural", "rate", "size"]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_FACTORS: Final = {
    "": 1,
    **{unit.lower(): 1000**power for power, unit in enumerate(_UNITS) if power},
    **{unit[0].lower(): 1000**power for power, unit in enumerate(_UNITS) if power},
    **{f"{unit[0].lower()}ib": 1024**power for power, unit in enumerate(_UNITS) if power},
    "b": 1,
}


def size(count: float) -> str:
    """Bytes in decimal units: `90.9 MB`."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 999.95:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"


def rate(count: float, seconds: float) -> str:
    """Bytes a second: `1.2 GB/s`; `-` where no time has passed."""
    return f"{size(count / seconds)}/s" if seconds > 0 and count > 0 else "-"


def duration(seconds: float) -> str:
    """Elapsed time: `340 ms`, `2.3 s`, `4 min`, `3 h`, `2 d`."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    for limit, unit, name in ((7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def age(seconds: float) -> str:
    """How long ago, in whole seconds below two minutes: `3 s`; clocks may differ, so never less than 0."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 120 else duration(whole)


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`, `12,000 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def clean(text: str, limit: int = 200) -> str:
    """Text that others chose, safe for a terminal and for one line: control characters shown escaped, long text cut."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(
        char if not unicodedata.category(char).startswith(("C", "Zl", "Zp")) else char.encode("unicode_escape").decode()
        for char in text
    )


def parse_size(text: str, field: str) -> int:
    """Bytes from `800MB`, `1.5 GiB`, `4000000`, as people write them. Raises `InvalidArgument` naming `field`."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-zA-Z]{0,3})(?:/s)?\s*", text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise InvalidArgument(field, f"{text[:40]!r} is not a number of bytes, as in 800MB or 1.5GiB")
    count = int(float(match[1]) * factor)
    if count < 1:
        raise InvalidArgument(field, "must be at least one byte")
    return count
