"""The gate: before a call is handled it is known who calls, and that they may call this."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from peerload.clock import Clock
from peerload.errors import InvalidArgument, NotAllowed, PeerloadError, Unauthenticated
from peerload.metadata.principals import Principal, Role
from peerload.server.metrics import Metrics
from peerload.server.rpc import Context
from peerload.server.security.access import Access
from peerload.server.security.authenticator import Authenticator, Credentials
from peerload.server.security.certificates import Certificates
from peerload.server.security.reviews import TokenReviews
from peerload.server.security.roles import OPEN, ROLES
from peerload.server.security.service_accounts import ServiceAccounts
from peerload.server.security.tokens import Tokens
from peerload.server.security.watched import AccessFile
from peerload.server.settings import Settings
from peerload.server.status import to_rpc_error

__all__ = ["AccessGate"]

_HEADER: Final = "authorization"
_SCHEME: Final = "bearer"
_NOBODY: Final = Principal("", Role.READ, ())
"""Whoever calls what everybody may call."""

_log = structlog.get_logger("peerload.server")


class AccessGate:
    """A `Gate` by settings. `start` it before it is asked, `run` it meanwhile, `close` it at the end. `on_change` is called when
    it may judge otherwise than before."""

    def __init__(
        self, settings: Settings, clock: Clock, metrics: Metrics, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._file = AccessFile(Path(settings.access), clock, self._check, on_change) if settings.access else None
        self._accounts: ServiceAccounts | None = None
        bearers: list[Authenticator] = []
        self._others: Sequence[Authenticator] = ()
        if self._file is not None:
            bearers.append(Tokens(self._access))
            self._others = (Certificates(self._access, clock),)
        if settings.reviews_tokens:
            self._accounts = ServiceAccounts(
                TokenReviews(settings.store, clock),
                clock,
                audiences=settings.audiences,
                allowed=frozenset(settings.accounts),
                ttl=settings.token_cache_ttl,
                access=self._access,
            )
            bearers.append(self._accounts)
        self._bearers: Sequence[Authenticator] = bearers

    async def start(self) -> None:
        """Read the access file, find the API server. Raises `InvalidArgument`, `MissingExtra`, `Unavailable`."""
        if self._file is not None:
            await asyncio.to_thread(self._file.load)
        else:
            self._check(Access())
        if self._accounts is not None:
            await self._accounts.open()

    async def run(self) -> None:
        """Follow the access file until cancelled."""
        if self._file is not None:
            await self._file.run()
        else:
            await asyncio.Event().wait()

    async def close(self) -> None:
        """Let go of everything."""
        if self._accounts is not None:
            await self._accounts.close()

    async def admit(self, path: str, context: Context) -> Principal:
        """Who calls, if they may; see `Gate.admit`."""
        if path in OPEN:
            return _NOBODY
        try:
            principal = await self._recognise(context)
            role = ROLES.get(path)
            if role is None or principal.role < role:
                needed = "nobody" if role is None else f"the role {role.name.lower()}"
                raise NotAllowed(
                    f"{path.rpartition('/')[2]} is for {needed}; {principal.name} has {principal.role.name.lower()}"
                )
        except PeerloadError as error:
            refusal = to_rpc_error(error)
            if refusal is None:
                raise
            self._metrics.refused.labels(refusal.code.name.lower()).inc()
            _log.debug("a call was refused", method=path, peer=context.peer, code=refusal.code.name, reason=str(error))
            raise refusal from None
        return principal

    async def _recognise(self, context: Context) -> Principal:
        headers = context.metadata.get(_HEADER, ())
        # Workers in Kubernetes send a token wherever they have one: where none is accepted, the certificate counts.
        if headers and any(each.accepts for each in self._bearers):
            credentials, asked = Credentials(token=_token(headers)), self._bearers
        else:
            credentials, asked = Credentials(certificate=context.client_certificate), self._others
        for authenticator in asked:
            principal = await authenticator.recognise(credentials)
            if principal is not None:
                return principal
        found = "the token is not known" if credentials.token is not None else "no credentials came with the call"
        raise Unauthenticated(f"{found}; accepted is {self._accepts()}")

    def _accepts(self) -> str:
        return ", or ".join(each.accepts for each in (*self._bearers, *self._others) if each.accepts) or "nothing"

    def _access(self) -> Access:
        return Access() if self._file is None else self._file.access

    def _check(self, access: Access) -> None:
        """Raises `InvalidArgument` where the file and the settings do not go together."""
        settings = self._settings
        if access.service_accounts and not settings.audiences:
            raise InvalidArgument("token_audiences", "is missing: the access file names service accounts")
        if settings.reviews_tokens and not settings.audiences:
            raise InvalidArgument("token_audiences", "is missing: it says for whom tokens of service accounts are made")
        if settings.reviews_tokens and not settings.accounts and not access.service_accounts:
            raise InvalidArgument("service_accounts", "is missing: token_audiences alone lets nobody in")


def _token(headers: tuple[str | bytes, ...]) -> str:
    """The token of an authorization header. Raises `Unauthenticated`."""
    if len(headers) == 1 and isinstance(headers[0], str):
        scheme, _, token = headers[0].strip().partition(" ")
        if scheme.lower() == _SCHEME and token.strip():
            return token.strip()
    raise Unauthenticated("the authorization header must be one, of the form: Bearer TOKEN")
