"""A request to the page, as the gate and the services see a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection

from peerload.metadata.principals import ANYONE, Principal
from peerload.server.addresses import join_address
from peerload.server.requests import request_id
from peerload.server.rpc import Gate

__all__ = ["CERTIFICATE", "MANIFEST", "WATCH", "Visitor", "admit"]

WATCH: Final = "/peerload.v1.SourceService/Watch"
MANIFEST: Final = "/peerload.v1.SourceService/GetManifest"
"""The methods that show what the page shows: whoever may call them may look."""
CERTIFICATE: Final = "certificate"
"""Where the port keeps a connection's client certificate, in the state of its requests."""


@dataclass(slots=True)
class Visitor:
    """A `Context`. What it sets to be sent after the answer is not sent."""

    peer: str
    metadata: Mapping[str, tuple[str | bytes, ...]] = field(repr=False)
    client_certificate: bytes | None = None
    deadline: float | None = None
    principal: Principal = ANYONE
    request_id: str = field(default_factory=lambda: request_id(()))

    @classmethod
    def of(cls, request: HTTPConnection) -> Visitor:
        """Whose credentials are those of a request: its authorization header and its connection's certificate."""
        headers = tuple(request.headers.getlist("authorization"))
        host, port = ("", 0) if request.client is None else request.client
        return cls(
            peer=f"{'ipv6' if ':' in host else 'ipv4'}:{join_address(host, port)}",
            metadata={"authorization": headers} if headers else {},
            client_certificate=request.scope.get("state", {}).get(CERTIFICATE),
            request_id=request_id(request.headers.getlist("x-request-id")),
        )

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        """Does nothing."""


async def admit(gate: Gate | None, path: str, request: HTTPConnection) -> Principal:
    """Who asks, if they may call that method. Raises `RpcError` to refuse them."""
    return ANYONE if gate is None else await gate.admit(path, Visitor.of(request))
