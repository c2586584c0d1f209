"""Asking a Kubernetes API server whose token that is (TokenReview)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from peerload.clock import Clock
from peerload.errors import InvalidArgument
from peerload.kubernetes.place import SCHEME, KubernetesPlace

__all__ = ["Reviewed", "Reviewer", "TokenReviews"]

_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_CALL_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What the API server said of a token. `user` is empty where it does not know it."""

    user: str
    audiences: tuple[str, ...]
    """Those that were asked for and that it is good for; empty: the API server does not look at audiences."""


class Reviewer(Protocol):
    """Who knows the tokens of service accounts."""

    async def open(self) -> None:
        """Find out where it is. Raises `InvalidArgument`, `MissingExtra`, `Unavailable`."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...

    async def review(self, token: str, audiences: tuple[str, ...]) -> Reviewed:
        """What it says. Raises `Unavailable` where it says nothing."""
        ...


class TokenReviews:
    """The API server that the store's URL leads to, if it is one in Kubernetes; else the one that is found as for that."""

    def __init__(self, store_url: str, clock: Clock) -> None:
        # Needs the extra, which only those have who use this.
        from peerload.kubernetes.api import KubeApi

        url = store_url if store_url.startswith(f"{SCHEME}:") else f"{SCHEME}:"
        self._api = KubeApi(KubernetesPlace.parse(url), clock)

    async def open(self) -> None:
        """Read the configuration; see `Reviewer.open`."""
        try:
            await self._api.open()
        except InvalidArgument as error:
            words = str(error).removeprefix("store: ")
            raise InvalidArgument("service_accounts", f"nobody can review their tokens: {words}") from None

    async def close(self) -> None:
        """Break the connections."""
        await self._api.close()

    async def review(self, token: str, audiences: tuple[str, ...]) -> Reviewed:
        """Create a TokenReview, which is never kept, and read its answer."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": list(audiences)},
        }
        answer = await self._api.call("POST", _PATH, body=body, seconds=_CALL_SECONDS)
        status = answer.get("status")
        if not isinstance(status, dict) or status.get("authenticated") is not True:
            return Reviewed("", ())
        user, known = status.get("user"), status.get("audiences")
        name = user.get("username") if isinstance(user, dict) else None
        found = tuple(each for each in known if isinstance(each, str)) if isinstance(known, list) else ()
        return Reviewed(name if isinstance(name, str) else "", found)
