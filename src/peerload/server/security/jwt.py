"""What a service account's token says of itself, before anybody has confirmed a word of it (RFC 7519)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Claims", "claims_of"]

_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_MOST_CHARACTERS: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Claims:
    """For whom it was made, and until when it is good."""

    audiences: tuple[str, ...]
    """Empty: it does not say."""
    expires: float | None
    """Seconds since 1970."""


def claims_of(token: str) -> Claims | None:
    """What it claims; None for what is no such token."""
    found = _FORM.fullmatch(token) if len(token) <= _MOST_CHARACTERS else None
    if found is None:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    audience, expires = claims.get("aud"), claims.get("exp")
    listed = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
    if isinstance(expires, bool) or not isinstance(expires, (int, float)) or not abs(expires) < 1 << 53:
        expires = None
    return Claims(tuple(each for each in listed if isinstance(each, str)), None if expires is None else float(expires))
