"""What a call brings to be recognised by, and what recognises it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from peerload.metadata.principals import Principal

__all__ = ["Authenticator", "Credentials"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What came with one call. Secret, so not shown."""

    token: str | None = field(default=None, repr=False)
    """The bearer token of its authorization header."""
    certificate: bytes | None = field(default=None, repr=False)
    """The client's certificate (PEM), whose signature the connection has checked."""


class Authenticator(Protocol):
    """One way to recognise a caller."""

    @property
    def accepts(self) -> str:
        """What it wants to see, for whoever came without; empty where it knows nobody."""
        ...

    async def recognise(self, credentials: Credentials) -> Principal | None:
        """Who that is; None where it is nobody that this one knows, and another may.

        Raises `Unauthenticated` where it is certain that no other knows them either, `NotAllowed` for somebody who is known
        and may not call, `Unavailable` where it cannot be found out now.
        """
        ...
