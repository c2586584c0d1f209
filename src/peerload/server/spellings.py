"""How settings may be written, and the one form in which they are kept.

Each function takes what was given, and raises ValueError, saying what it must be, for text that is none of it. What is no
text is somebody else's to judge.
"""

from __future__ import annotations

import re
from typing import Final

from peerload.server.addresses import MAX_PORT, split_address

__all__ = ["AUTO", "OFF", "accounts", "address", "listed", "log_format", "log_level", "metrics", "ui"]

OFF: Final = "off"
AUTO: Final = "auto"
"""Of the port for metrics: the usual one, if it is free."""

_LEVELS: Final = {"trace": "debug", "warn": "warning", "fatal": "critical"}
_FORMATS: Final = {"pretty": "console", "compact": "console", "full": "console", "text": "console"}
_ACCOUNT_PREFIX: Final = "system:serviceaccount:"
_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9.-]{0,252}")


def log_level(text: object) -> object:
    """A level by the name that Python's logging has for it."""
    return _LEVELS.get(text.strip().lower(), text.strip().lower()) if isinstance(text, str) else text


def log_format(text: object) -> object:
    """A format by our name for it."""
    return _FORMATS.get(text.strip().lower(), text.strip().lower()) if isinstance(text, str) else text


def address(text: object) -> object:
    """HOST:PORT."""
    if isinstance(text, str):
        split_address(text)
    return text


def metrics(text: object) -> object:
    """PORT, HOST:PORT, off or auto."""
    if not isinstance(text, str):
        return text
    given = text.strip().lower()
    if given.isascii() and given.isdigit():
        if int(given) > MAX_PORT:
            raise ValueError("must be a port from 1 to 65535, HOST:PORT, or off")
        # In deployments of this protocol port 0 means none.
        return given if int(given) else OFF
    if given not in (AUTO, OFF):
        try:
            split_address(given)
        except ValueError:
            raise ValueError("must be a port from 1 to 65535, HOST:PORT, or off") from None
    return given


def ui(text: object) -> object:
    """HOST:PORT or off."""
    if not isinstance(text, str):
        return text
    given = text.strip()
    if given.lower() == OFF:
        return OFF
    try:
        split_address(given)
    except ValueError as error:
        raise ValueError(f"{error}, or off") from None
    return given


def listed(text: str) -> tuple[str, ...]:
    """What stands between commas, each once."""
    return tuple(dict.fromkeys(part for each in text.split(",") if (part := each.strip())))


def accounts(text: object) -> object:
    """Service accounts between commas, each as NAMESPACE/NAME."""
    return ",".join(map(_account, listed(text))) if isinstance(text, str) else text


def _account(text: str) -> str:
    account = text.removeprefix(_ACCOUNT_PREFIX).replace(":", "/") if text.startswith(_ACCOUNT_PREFIX) else text
    if not _ACCOUNT.fullmatch(account):
        raise ValueError(f"{text[:200]!r} is neither NAMESPACE/NAME nor {_ACCOUNT_PREFIX}NAMESPACE:NAME")
    return account
