"""Static bearer tokens, of which the access file has the digests."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from peerload.metadata.principals import Principal
from peerload.server.security.access import Access, digest
from peerload.server.security.authenticator import Credentials

__all__ = ["Tokens"]


class Tokens:
    """Knows the tokens of the access file."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access

    @property
    def accepts(self) -> str:
        """What it wants to see."""
        return "a bearer token of the access file" if self._access().tokens else ""

    async def recognise(self, credentials: Credentials) -> Principal | None:
        """Whose token it is. It is compared with all, each in constant time, so that how long it takes tells nothing."""
        if credentials.token is None:
            return None
        given = digest(credentials.token)
        found = None
        for token in self._access().tokens:
            for known in token.digests:
                if hmac.compare_digest(given, known):
                    found = token.principal
        return found
