"""Certificates, keys and tokens in files: readable, valid, and for how long yet."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from peerload.certificates import KeyPair, Validity
from peerload.errors import MissingExtra
from peerload.finding import Finding, Level

__all__ = ["authorities", "expiry", "own_key", "pair"]

_DAY_MS: Final = 24 * 3600 * 1000
_SOON_MS: Final = 14 * _DAY_MS
"""What servers warn of, too."""
_OTHERS: Final = stat.S_IRWXO


def pair(what: str, held: KeyPair, key: Path, now: int) -> list[Finding]:
    """Of a certificate and its key, which fit each other."""
    try:
        validity = held.validity
    except MissingExtra as error:
        return [Finding(Level.WARNING, f"until when {what} is valid cannot be read: {error}", "install that")]
    return [expiry(what, validity, now, "replace its files: what runs reads them again by itself"), *own_key(key)]


def expiry(what: str, validity: Validity, now: int, advice: str) -> Finding:
    """How long something is valid yet."""
    if fault := validity.fault(now):
        return Finding(Level.PROBLEM, f"{what} {fault}, and the other side refuses it", advice)
    left = validity.ends - now
    if left < _SOON_MS:
        return Finding(Level.WARNING, f"{what} expires in {left / _DAY_MS:.1f} days, at {validity.end}", advice)
    return Finding(Level.OK, f"{what} is valid until {validity.end}")


def own_key(key: Path) -> Sequence[Finding]:
    """Whether others on this machine may read a key; nothing to say where they may not."""
    if key.stat().st_mode & _OTHERS:
        return [Finding(Level.WARNING, f"everybody on this machine may read the key {key}", f"chmod o= {key}")]
    return []


def authorities(what: str, path: Path) -> Finding:
    """Of a file of authorities, which has been read."""
    return Finding(Level.OK, f"{what} {path} can be read")
