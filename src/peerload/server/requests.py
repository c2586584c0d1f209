"""What a call is known by: an id of the caller's choosing or one of ours, in log lines and beside errors."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

from peerload.server.rpc import Context

__all__ = ["CURRENT", "request_id"]

_TAKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")

CURRENT: Final[ContextVar[Context | None]] = ContextVar("peerload_call", default=None)
"""The call that this task answers, for log lines."""


def request_id(given: Iterable[str]) -> str:
    """The first of the ids that the caller sent, where it is fit to stand in a log line; else a fresh one."""
    first = next(iter(given), "")
    return first if _TAKEN.fullmatch(first) else secrets.token_hex(8)
