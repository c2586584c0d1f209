"""Client certificates of mutual TLS, by the names that they are for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from peerload.certificates import Subject, subject
from peerload.clock import Clock
from peerload.errors import NotAllowed, Unauthenticated
from peerload.metadata.principals import Principal
from peerload.server.security.access import Access, Rule
from peerload.server.security.authenticator import Credentials

__all__ = ["Certificates"]


@lru_cache(maxsize=1_024)
def _subject(pem: bytes) -> Subject:
    """The same few certificates come with every call."""
    return subject(pem)


class Certificates:
    """Knows the certificates whose names fit the access file's patterns. The connection has checked who signed them."""

    def __init__(self, access: Callable[[], Access], clock: Clock) -> None:
        self._access = access
        self._clock = clock

    @property
    def accepts(self) -> str:
        """What it wants to see."""
        return "a client certificate" if self._access().certificates else ""

    async def recognise(self, credentials: Credentials) -> Principal | None:
        """Whose certificate it is, by the first entry that fits."""
        if credentials.certificate is None:
            return None
        try:
            names = _subject(credentials.certificate)
        except ValueError:
            raise Unauthenticated("the client certificate cannot be read") from None
        if self._clock.wall_ms() > names.until:
            # A connection asks for it once, and may last for much longer.
            raise Unauthenticated("the client certificate has expired since the connection was made")
        for rule in self._access().certificates:
            for name in _candidates(names, rule):
                if rule.fits(name):
                    return Principal(f"certificate:{name}", rule.role, rule.models)
        shown = (*names.uris, *names.dns, *names.common)
        raise NotAllowed(
            f"the client certificate is of nobody who may call: {', '.join(shown)[:400] or 'without a name'}"
        )


def _candidates(names: Subject, rule: Rule) -> tuple[str, ...]:
    """The names that a pattern may be meant for: who may choose a common name must not pass for a URI by it."""
    return names.uris if "://" in rule.pattern else (*names.dns, *names.common)
