"""What is asked for at the page's port: the page, what moves, and manifests."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peerload.clock import Clock
from peerload.errors import PeerloadError
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.principals import Principal
from peerload.server.admission import Places
from peerload.server.page.condition import Condition
from peerload.server.page.files import Files
from peerload.server.page.manifests import Asked, Manifests
from peerload.server.page.stream import EventStream, Looker
from peerload.server.page.visitor import MANIFEST, WATCH, admit
from peerload.server.rpc import Code, Gate, RpcError
from peerload.server.status import to_rpc_error
from peerload.server.traffic import Traffic

__all__ = ["application"]

_MOST_LOOKERS: Final = 64
_STALL_SECONDS: Final = 20.0
_HTTP: Final = {
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.INVALID_ARGUMENT: 400,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text of anybody's becomes markup, whatever the page's own code does.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": _POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }.items()
)


def application(
    backend: MetadataBackend,
    traffic: Traffic,
    condition: Condition,
    clock: Clock,
    *,
    gate: Gate | None,
    fixed: Callable[[Principal], dict[str, Any]],
    local: bool,
    ending: asyncio.Event,
) -> ASGIApp:
    """The page as an ASGI application. `fixed` is what a browser is told first. `local`: only this machine can connect, and
    what a name leads to is not to be believed. When `ending` is set, streams of events end."""
    files = Files()
    manifests = Manifests(backend, clock)
    looking = Places(_MOST_LOOKERS, setting="ui", unit="browsers looking on")

    async def page(request: Request) -> Response:
        found = files.answer(request.path_params.get("name", "index.html"), request)
        return Response("there is nothing here\n", 404, media_type="text/plain") if found is None else found

    async def events(request: Request) -> Response:
        async def again() -> Principal:
            return await admit(gate, WATCH, request)

        principal = await again()
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        with looking:
            pass  # refuses; the place is taken while events are sent
        looker = Looker(backend, traffic, condition, clock, admit=again, fixed=fixed)

        async def told() -> AsyncGenerator[bytes, None]:
            with looking:
                async with aclosing(looker.events(principal)) as each:
                    async for event in each:
                        yield event

        return EventStream(told(), stall=_STALL_SECONDS, ending=ending)

    async def manifest(request: Request) -> Response:
        principal = await admit(gate, MANIFEST, request)
        asked = Asked.of(lambda name: request.query_params.get(name, ""))
        return JSONResponse(await manifests.page(asked, principal), headers={"Cache-Control": "no-store"})

    async def refused(request: Request, error: Exception) -> Response:
        known = error if isinstance(error, RpcError) else None
        if isinstance(error, PeerloadError):
            known = to_rpc_error(error)
        if known is None:
            raise error
        return JSONResponse(
            {"reason": known.message}, _HTTP.get(known.code, 500), headers={"Cache-Control": "no-store"}
        )

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/files/{name:path}", page),
            Route("/api/events", events),
            Route("/api/manifest", manifest),
        ],
        exception_handlers={PeerloadError: refused, RpcError: refused},
    )
    return _Guarded(app, local)


class _Guarded:
    """Answers with the headers that keep a browser strict. Where only this machine can connect, it answers nobody who came by a
    name that anybody could have led here (DNS rebinding)."""

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        if scope["type"] != "http":
            return
        if self._local and not _is_here(dict(scope["headers"]).get(b"host", b"").decode("latin-1")):
            refusal = Response("this page is at an address or at localhost only\n", 421, media_type="text/plain")
            await refusal(scope, receive, strict)
            return
        await self._app(scope, receive, strict)


def _is_here(host: str) -> bool:
    """Whether a Host header is an address, or localhost: no foreign page has either for its origin."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
