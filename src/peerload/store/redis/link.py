"""One connection to one Redis process: commands in, replies out, for one caller at a time.

hiredis packs and parses; the connection itself is ours, so that every wait has the caller's deadline, nothing is sent
twice behind anybody's back, and a connection that has died while it lay idle is known to be dead before it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from peerload.errors import MissingExtra
from peerload.store.redis.place import Address, Credentials
from peerload.store.redis.trouble import Broken, refusal

try:
    import hiredis
    from hiredis import ReplyError
except ImportError:
    raise MissingExtra("the Redis store", "redis") from None

__all__ = ["Command", "Link", "Replies", "ReplyError", "connect"]

Command: TypeAlias = tuple[str | bytes | int, ...]
Replies: TypeAlias = list[Any]

_MORE: Final = object()
_NOT_CONNECTED: Final = re.compile(r"\[Errno (\d+)\] Connect call failed")


class Link(asyncio.Protocol):
    """A connection. `ask` is for one task at a time; whoever is interrupted in it closes the link."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._reader = hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=ReplyError, notEnoughData=_MORE)
        self._transport: asyncio.Transport
        self._waiting: asyncio.Future[None] | None = None
        self._wanted = 0
        self._owed = 0
        self._replies: Replies = []
        self._lost = "not connected"

    @property
    def open(self) -> bool:
        """Whether it can be used."""
        return not self._lost

    @property
    def idle(self) -> bool:
        """Whether it can be used, and nothing is on its way."""
        return self.open and not self._owed and not self._replies

    def stirs(self) -> bool:
        """Whether there is something to read, which on an idle link is its end: news that the event loop has not
        brought yet."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    async def ask(self, *commands: Command) -> Replies:
        """The replies, one a command, errors among them as `ReplyError`. Raises `Broken`."""
        await self.send(commands)
        return await self.receive(len(commands))

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands; `receive` gets as many replies as were sent, at once or in parts."""
        if not self.open:
            raise Broken(self.address, self._lost)
        self._owed += len(commands)
        self._transport.writelines([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]

    async def receive(self, count: int) -> Replies:
        """The next replies."""
        if len(self._replies) < count:
            if not self.open:
                raise Broken(self.address, self._lost)
            self._wanted = count
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        replies, self._replies = self._replies[:count], self._replies[count:]
        return replies

    def close(self, reason: str = "closed") -> None:
        """Drop the connection at once."""
        self._fail(reason)
        self._transport.abort()  # what has not been sent yet never is: nobody waits for it any more

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._lost = ""

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _MORE:
                self._replies.append(reply)
                self._owed -= 1
        except hiredis.ProtocolError:
            self.close("it does not speak the Redis protocol")
            return
        if self._owed < 0:  # it says why it is about to hang up, or it is no Redis
            said = self._replies[-1]
            self.close(str(said)[:200] if isinstance(said, ReplyError) else "it spoke without being asked")
        elif self._waiting is not None and len(self._replies) >= self._wanted and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(_words(error) if error else "it closed the connection")

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Broken(self.address, self._lost))


async def connect(address: Address, credentials: Credentials, *, db: int = 0, tls: Any = None) -> Link:
    """A connection that is logged in. Raises `Broken` where there is nobody, and `Refused` where we are not let in."""
    loop = asyncio.get_running_loop()
    link = Link(address)
    try:
        if address.path:
            await loop.create_unix_connection(lambda: link, address.path)
        else:
            await loop.create_connection(lambda: link, address.host, address.port, ssl=tls)
    except OSError as error:  # a failed look-up of a name and a failed TLS handshake are such too
        raise Broken(address, _words(error)) from error
    with contextlib.ExitStack() as on_error:
        on_error.callback(link.close)
        greeting: list[Command] = []
        if credentials.password:
            user = (credentials.username,) if credentials.username else ()
            greeting.append(("AUTH", *user, credentials.password))
        if db:
            greeting.append(("SELECT", db))
        for reply in await link.ask(*greeting):
            if isinstance(reply, ReplyError):
                raise refusal(address, str(reply))
        on_error.pop_all()
    return link


def _words(error: Exception) -> str:
    # A name may lead to several addresses; asyncio tells how each failed, in words of its own.
    if refused := dict.fromkeys(_NOT_CONNECTED.findall(str(error))):
        return " and ".join(os.strerror(int(number)).lower() for number in refused)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
