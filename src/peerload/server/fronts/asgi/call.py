"""One call, as its handler sees it and as its answer is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from peerload.metadata.principals import ANYONE, Principal
from peerload.server.addresses import join_address
from peerload.server.admission import Admission
from peerload.server.fronts.asgi.framing import PREFIX_BYTES, Disconnected, prefix
from peerload.server.fronts.asgi.headers import encoded_binary, encoded_message, metadata_of
from peerload.server.limits import SMALL_BYTES
from peerload.server.requests import request_id
from peerload.server.rpc import REQUEST_ID_KEY, Code, Context, RpcError

__all__ = ["Call", "Send"]

Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PIECE_BYTES: Final = 256 * 1024
"""Of a large answer a piece is handed over at a time: the server takes the next once the reader has taken others."""
_HEADERS: Final = ((b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip,deflate"))
_START: Final[dict[str, Any]] = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_REQUEST_ID: Final = REQUEST_ID_KEY.encode()
_END: Final[dict[str, Any]] = {"type": "http.response.body", "body": b"", "more_body": False}
_OK: Final = ((b"grpc-status", b"0"),)


class Call(Context):
    """A `Context`, and the answer's way out. Everything is looked up only when it is asked for."""

    __slots__ = (
        "_admission",
        "_complete",
        "_deadline",
        "_request_id",
        "_scope",
        "_send",
        "_started",
        "_trailing",
        "principal",
    )

    def __init__(self, scope: Mapping[str, Any], send: Send, deadline: float | None, admission: Admission) -> None:
        self._scope = scope
        self._send = send
        self._deadline = deadline
        self._admission = admission
        self.principal: Principal = ANYONE
        self._trailing: tuple[tuple[str, str | bytes], ...] = ()
        self._started = False
        self._complete = False
        self._request_id = ""

    @property
    def metadata(self) -> Mapping[str, tuple[str | bytes, ...]]:
        try:
            return metadata_of(self._scope["headers"])
        except ValueError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"metadata {error}") from None

    @property
    def peer(self) -> str:
        client = self._scope.get("client")
        if client is None:
            return "unknown"
        host, port = client
        return f"ipv{6 if ':' in host else 4}:{join_address(host, port)}"

    @property
    def deadline(self) -> float | None:
        return self._deadline

    @property
    def client_certificate(self) -> bytes | None:
        tls = self._scope["extensions"].get("tls")
        chain = tls["client_cert_chain"] if tls else ()
        return chain[0].encode() if chain else None

    @property
    def request_id(self) -> str:
        if not self._request_id:
            given = self._scope["headers"]
            self._request_id = request_id(value.decode("latin-1") for key, value in given if key == _REQUEST_ID)
        return self._request_id

    def set_trailing_metadata(self, *pairs: tuple[str, str | bytes]) -> None:
        self._trailing = pairs

    async def answer(self, message: bytes) -> None:
        """Send an answer that has but this message, and end the call well. Raises what `send` raises."""
        size = len(message)
        if size > SMALL_BYTES:
            await self.send(message)
            await self.finish()
            return
        # Every heartbeat ends here, so its three events are handed over without anything in between.
        send = self._send
        self._started = True
        try:
            await send(_START)
            await send({"type": "http.response.body", "body": prefix(size) + message, "more_body": False})
            self._complete = True
            await send({"type": "http.response.trailers", "headers": self._well()})
        except OSError:
            raise Disconnected from None

    async def send(self, message: bytes) -> None:
        """Send one message of the answer; returns when the transport has taken all but the end of it.

        Raises `LimitExceeded` for one that is too large, or finds no room; `Disconnected`.
        """
        size = len(message)
        if size <= SMALL_BYTES:
            await self._put({"type": "http.response.body", "body": prefix(size) + message, "more_body": True})
            return
        self._admission.check_answer(size)
        with await self._admission.answers.take(size, self._deadline):
            first = _PIECE_BYTES - PREFIX_BYTES
            body = prefix(size) + message[:first]
            await self._put({"type": "http.response.body", "body": body, "more_body": True})
            for start in range(first, size, _PIECE_BYTES):
                body = message[start : start + _PIECE_BYTES]
                await self._put({"type": "http.response.body", "body": body, "more_body": True})

    async def finish(self) -> None:
        """End the call well. Raises `Disconnected`."""
        await self._end(self._well())

    async def fail(self, error: RpcError) -> None:
        """End the call with a status. Raises `Disconnected`."""
        status = [
            (b"grpc-status", str(int(error.code)).encode()),
            (b"grpc-message", encoded_message(error.message)),
            *self._trailers(),
            (_REQUEST_ID, self.request_id.encode()),
        ]
        if error.details is not None:
            status.append((b"grpc-status-details-bin", encoded_binary(error.details)))
        await self._end(status)

    async def _end(self, trailers: Iterable[tuple[bytes, bytes]]) -> None:
        if not self._complete:
            await self._put(_END)
        await self._put({"type": "http.response.trailers", "headers": trailers})

    async def _put(self, event: dict[str, Any]) -> None:
        try:
            if not self._started:
                self._started = True
                await self._send(_START)
            await self._send(event)
        except OSError:
            # So ASGI says that the client has taken its call back.
            raise Disconnected from None

    def _well(self) -> Iterable[tuple[bytes, bytes]]:
        return (*_OK, *self._trailers()) if self._trailing else _OK

    def _trailers(self) -> list[tuple[bytes, bytes]]:
        return [
            (key.encode(), encoded_binary(value) if isinstance(value, bytes) else value.encode())
            for key, value in self._trailing
        ]
