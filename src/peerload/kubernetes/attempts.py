"""A call on its way: what is asked and answered, how far it has come, and when what failed is worth trying again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from peerload.kubernetes.trouble import Broken, Distrusted, Outage, read_object
from peerload.kubernetes.wires import Wires

__all__ = ["Answer", "Late", "Progress", "Request", "pause_after"]

_RIDE_SECONDS: Final = 0.3
"""How long a connection that cannot be made is tried again. Who can wait for longer, asks again."""
_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server answered, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body. Raises `Broken` if it is no JSON object: then what answers is no API server."""
        found = read_object(self.body)
        if not found:
            raise Broken("what answers there is no Kubernetes API server: it sent no JSON object", ambiguous=True)
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, apart from as whom."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    data: bytes | None = field(repr=False)
    """A review has a token in it."""
    most_bytes: int

    @property
    def writes(self) -> bool:
        """Whether it may change anything."""
        return self.method not in ("GET", "HEAD")


class Late(Exception):
    """The deadline was noticed long after it: this process did not run, and that says nothing about the API server."""


class Progress:
    """How far a call has come."""

    def __init__(self) -> None:
        self.last: Outage | None = None
        self.doubtful = False
        """An attempt that failed may have been done."""
        self.sending = False
        """An attempt is on its way."""
        self.wires: Wires | None = None
        """The connections that the last attempt was given."""

    def note(self, error: Outage) -> None:
        """An attempt failed."""
        self.sending = False
        self.doubtful = error.ambiguous = self.doubtful or error.ambiguous
        self.last = error


def pause_after(error: Outage, request: Request, elapsed: float) -> float | None:
    """Seconds after which a call is worth trying again; None: it is not."""
    if error.retry_after is not None:
        # Some later than asked for, and not all at once.
        return max(_PAUSE_SECONDS, error.retry_after) * random.uniform(1.0, 1.1)
    if isinstance(error, Broken) and not isinstance(error, Distrusted):
        harmless = not request.writes or not error.ambiguous
        return _PAUSE_SECONDS if harmless and elapsed < _RIDE_SECONDS else None
    return None
