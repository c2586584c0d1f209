"""How NIXL agents hand each other their metadata over TCP: the listener's side, and the side that asks.

What goes over the connection (NIXL 1.x, its P2P metadata backend): a message is its length as 8 bytes, little-endian, and
as many bytes of text or blob. `NIXLCOMM:SEND` asks for the other's metadata, `NIXLCOMM:LOAD` and the blob answer;
`NIXLCOMM:INVL` and an agent's name say that it goes. Both ends keep the connection: an agent that asks again does so on the
one that it has, and does not notice that it was closed, so a listener never closes one that behaves.

It is spoken here rather than by NIXL's own listener because that one loads what any stranger sends it, waits for ever, and
lives in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from peerload.errors import Fault, InvalidArgument, TransferFailed, Unavailable
from peerload.metadata.publications.addresses import Address

__all__ = ["MAX_AGENT_BYTES", "AgentListener", "fetch_agent", "host_of"]

MAX_AGENT_BYTES: Final = 64 << 20
"""The largest blob of metadata that is believed: that of a hundred thousand registered tensors has a tenth of it."""

_LENGTH: Final = struct.Struct("<Q")
_ASK: Final = b"NIXLCOMM:SEND"
_ANSWER: Final = b"NIXLCOMM:LOAD"
_MAX_REQUEST_BYTES: Final = 64 * 1024
"""Of what a reader sends: a request, or the name of an agent."""
_MAX_CONNECTIONS: Final = 1024
_SEND_S: Final = 10.0
"""For a reader to take the blob, and to send the rest of a message that it began."""


def host_of(endpoint: str) -> str:
    """The host of HOST:PORT, "" for what is none."""
    address = Address.of(endpoint)
    return "" if address is None else address.host


async def fetch_agent(endpoint: str, *, timeout: float) -> bytes:
    """The metadata of the agent whose listener is at `endpoint` (HOST:PORT).

    Raises `TransferFailed`: `REFUSED` or `UNREACHABLE` where nobody listens, `STALLED` where nobody answers in time, `LOST`
    where the connection breaks, and `OTHER` for an answer that is none.
    """
    address = Address.of(endpoint)
    if address is None:
        raise TransferFailed(f"the metadata endpoint {endpoint[:200]!r} is not HOST:PORT", retryable=False)
    try:
        async with asyncio.timeout(timeout):
            return await _ask(address)
    except TimeoutError:
        text = f"the NIXL listener at {endpoint} gave nothing within {timeout:g} s"
        raise TransferFailed(text, fault=Fault.STALLED) from None


async def _ask(address: Address) -> bytes:
    shown = f"{address.host}:{address.port}"
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    except ConnectionRefusedError as error:
        raise TransferFailed(f"no NIXL listener answers at {shown}", fault=Fault.REFUSED) from error
    except UnicodeError:
        raise TransferFailed(f"the NIXL listener's address {shown} has no host name", retryable=False) from None
    except OSError as error:
        text = f"the NIXL listener at {shown} cannot be reached: {error.strerror or error}"
        raise TransferFailed(text, fault=Fault.UNREACHABLE) from error
    try:
        writer.write(_LENGTH.pack(len(_ASK)) + _ASK)
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if not len(_ANSWER) < length <= MAX_AGENT_BYTES + len(_ANSWER):
            raise TransferFailed(
                f"the NIXL listener at {shown} announces {length:,} bytes; metadata has at most {MAX_AGENT_BYTES:,}",
                retryable=False,
            )
        if await reader.readexactly(len(_ANSWER)) != _ANSWER:
            raise TransferFailed(f"what answers at {shown} is not a NIXL listener", retryable=False)
        return await reader.readexactly(length - len(_ANSWER))
    except (asyncio.IncompleteReadError, OSError) as error:
        text = f"the NIXL listener at {shown} closed the connection in the middle"
        raise TransferFailed(text, fault=Fault.LOST) from error
    finally:
        writer.transport.abort()


class AgentListener:
    """Gives an agent's metadata to who asks, like the listener of a NIXL agent. Belongs to one event loop.

    `metadata` is asked for at each request: what was registered meanwhile is in the next answer. A request that it fails for
    with `TransferFailed` ends the connection.
    """

    def __init__(self, metadata: Callable[[], Awaitable[bytes]], *, most: int = _MAX_CONNECTIONS) -> None:
        self._metadata = metadata
        self._most = most
        self._server: asyncio.Server | None = None
        self._open: OrderedDict[asyncio.StreamWriter, None] = OrderedDict()
        """Connections, the one that was silent longest first."""
        self.port = 0
        """Where it listens, once started."""

    async def start(self, bind: str, port: int = 0) -> None:
        """Listen on an address ("" for all) and a port (0 for any that is free). Raises `Unavailable` where it is taken."""
        try:
            # Agents know IPv4 only, so where all addresses are meant one socket for those is enough.
            self._server = await asyncio.start_server(self._serve, bind or "0.0.0.0", port, limit=_MAX_REQUEST_BYTES)
        except OSError as error:
            raise Unavailable(f"port {port} of the NIXL listener cannot be listened on: {error.strerror}") from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, and end every connection. Closing twice is allowed."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > self._most:
            oldest, _ = self._open.popitem(last=False)
            oldest.transport.abort()
        try:
            # A connection that breaks or talks nonsense ends, and nothing else does.
            with contextlib.suppress(OSError, EOFError, InvalidArgument, TransferFailed, TimeoutError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        async with asyncio.timeout(_SEND_S):
            (length,) = _LENGTH.unpack(first + await reader.readexactly(_LENGTH.size - 1))
            if length > _MAX_REQUEST_BYTES:
                raise InvalidArgument("length", f"{length} bytes; a request has at most {_MAX_REQUEST_BYTES}")
            message = await reader.readexactly(length)
            if writer in self._open:
                self._open.move_to_end(writer)
            # Whatever else is said is for agents that load each other, which a source has no need to.
            if message == _ASK:
                blob = await self._metadata()
                writer.write(_LENGTH.pack(len(_ANSWER) + len(blob)) + _ANSWER + blob)
                await writer.drain()
