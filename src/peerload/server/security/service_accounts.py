"""Service accounts of Kubernetes, by their tokens, which the API server reviews."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from peerload.clock import Clock
from peerload.errors import NotAllowed, Unauthenticated, Unavailable
from peerload.metadata.coalesced import Coalesced, Pace
from peerload.metadata.principals import EVERY_MODEL, Principal, Role
from peerload.server.security.access import Access, digest
from peerload.server.security.authenticator import Credentials
from peerload.server.security.jwt import Claims, claims_of
from peerload.server.security.reviews import Reviewer

__all__ = ["ACCOUNT_PREFIX", "ServiceAccounts"]

ACCOUNT_PREFIX: Final = "system:serviceaccount:"

_UNKNOWN_SECONDS: Final = 5.0
"""How long it is remembered that a token is none: a new one may reach the API servers a moment after its first use."""
_MOST_KNOWN: Final = 10_000
"""Tokens that are remembered as good, and as bad: apart, so that made-up ones drive out no real ones."""
_PER_SECOND: Final = 100
_BURST: Final = 200
_AT_ONCE: Final = 8
_CROWDED: Final = "more tokens are to be reviewed than can be soon; try again"
_COMPLAINT_SECONDS: Final = 30.0

_log = structlog.get_logger("peerload.server")


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was reviewed: whose it is (empty: nobody's), and until when that is believed."""

    user: str
    until: float


class ServiceAccounts:
    """Knows the accounts in `allowed` (NAMESPACE/NAME; they may publish) and those that fit the access file's patterns.

    A token that is good is believed for `ttl` seconds, and never for longer than it is good. Reviews are bounded in rate and
    in number, one for all who come with the same token; that a review failed is nobody's answer but that call's.
    """

    def __init__(
        self,
        reviewer: Reviewer,
        clock: Clock,
        *,
        audiences: tuple[str, ...],
        allowed: frozenset[str],
        ttl: float,
        access: Callable[[], Access],
    ) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._audiences = audiences
        self._allowed = allowed
        self._ttl = ttl
        self._access = access
        self._good: OrderedDict[bytes, _Known] = OrderedDict()
        self._bad: OrderedDict[bytes, _Known] = OrderedDict()
        self._reviews = Coalesced(self._review, Pace(clock, _PER_SECOND, _BURST, at_once=_AT_ONCE), crowded=_CROWDED)
        self._complained_at = -_COMPLAINT_SECONDS

    @property
    def accepts(self) -> str:
        """What it wants to see."""
        return f"a token of a Kubernetes service account for the audience {' or '.join(self._audiences)}"

    async def open(self) -> None:
        """Find the API server. Raises `InvalidArgument`, `MissingExtra`, `Unavailable`."""
        await self._reviewer.open()

    async def close(self) -> None:
        """End the reviews in flight."""
        await self._reviews.close()
        await self._reviewer.close()

    async def recognise(self, credentials: Credentials) -> Principal | None:
        """Whose token it is."""
        token = credentials.token
        claims = None if token is None else claims_of(token)
        if token is None or claims is None:
            return None
        if claims.audiences and not set(claims.audiences) & set(self._audiences):
            # Of that the API server would say the same.
            raise Unauthenticated(f"the token is for another audience; {self.accepts} is accepted")
        known = self._remembered(digest(token))
        if known is None:
            known = await self._ask(token)
        if not known.user:
            raise Unauthenticated(f"the token is not known to Kubernetes, or has expired; {self.accepts} is accepted")
        return self._principal(known.user)

    async def _ask(self, token: str) -> _Known:
        try:
            return await self._reviews.read(token)
        except Unavailable as error:
            now = self._clock.monotonic()
            if now - self._complained_at >= _COMPLAINT_SECONDS:
                self._complained_at = now
                _log.warning("tokens of service accounts cannot be reviewed", error=str(error))
            raise Unavailable("tokens of service accounts cannot be reviewed at the moment; try again") from None

    async def _review(self, token: str) -> _Known:
        key = digest(token)
        # Whoever asked before may just have been told.
        if (known := self._remembered(key)) is not None:
            return known
        reviewed = await self._reviewer.review(token, self._audiences)
        good = reviewed.user and set(reviewed.audiences) & set(self._audiences)
        now = self._clock.monotonic()
        if not good:
            return self._remember(self._bad, key, _Known("", now + min(self._ttl, _UNKNOWN_SECONDS)))
        # What it says of itself has been confirmed by now.
        return self._remember(self._good, key, _Known(reviewed.user, now + self._good_for(claims_of(token))))

    def _good_for(self, claims: Claims | None) -> float:
        if claims is None or claims.expires is None:
            return self._ttl
        return max(0.0, min(self._ttl, claims.expires - self._clock.wall_ms() / 1000))

    def _remembered(self, key: bytes) -> _Known | None:
        now = self._clock.monotonic()
        for memory in (self._good, self._bad):
            known = memory.get(key)
            if known is not None:
                if now < known.until:
                    return known
                del memory[key]
        return None

    def _remember(self, memory: OrderedDict[bytes, _Known], key: bytes, known: _Known) -> _Known:
        memory[key] = known
        memory.move_to_end(key)
        while len(memory) > _MOST_KNOWN:
            memory.popitem(last=False)
        return known

    def _principal(self, user: str) -> Principal:
        namespace, colon, name = user.removeprefix(ACCOUNT_PREFIX).partition(":")
        if not user.startswith(ACCOUNT_PREFIX) or not colon:
            raise NotAllowed(f"{user[:200]!r} is no service account")
        account = f"{namespace}/{name}"
        for rule in self._access().service_accounts:
            if rule.fits(account):
                return Principal(user, rule.role, rule.models)
        if account in self._allowed:
            return Principal(user, Role.PUBLISH, EVERY_MODEL)
        raise NotAllowed(f"service account {account} is not among those that may call")
