"""An HTTPS proxy before a real API server, which a test makes fail in ways that a healthy one does not.

::

    with FaultProxy(kube) as proxy:
        kubeconfig = namespace.kubeconfig(url=proxy.url)
        with proxy.fault(Answer(429, "TooManyRequests", retry_after=1), method="PATCH", times=2):
            …                               # two writes are refused; everything else goes through
        proxy.hush()                        # open watches fall silent, though their connections stay
        proxy.tell({"type": "ERROR", …})    # something that open watches are told

It knows just enough of HTTP/1.1 for that. It runs in a thread of its own, so that it serves a test's own event loop as
well as other processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit

from tests.support.kube.plane import ControlPlane
from tests.support.ports import free_port

__all__ = ["Answer", "Asked", "Cut", "FaultProxy", "Hold", "Lose", "Rule"]

T = TypeVar("T")
_CALL_SECONDS = 30.0
_FAREWELL_TURNS = 20
"""Turns of the event loop, in which it is seen that a connection has ended."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it came."""

    method: str
    target: str
    """Path and query, as they were written."""
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def watching(self) -> bool:
        return self.query.get("watch") in ("1", "true")

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True, slots=True)
class Answer:
    """The request goes no further; this is answered."""

    code: int
    reason: str = ""
    message: str = "the test says so"
    retry_after: int | None = None

    def encoded(self) -> bytes:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        body = json.dumps({**status, "reason": self.reason, "code": self.code}).encode()
        head = [
            f"HTTP/1.1 {self.code} {HTTPStatus(self.code).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        if self.retry_after is not None:
            head.append(f"Retry-After: {self.retry_after}")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True, slots=True)
class Hold:
    """The request goes no further until the fault is mended, and then takes its way; if its client still waits.

    A client that gives up hangs up a little later: before a test lets go what must not happen, it waits for `held` to
    be 0.
    """


@dataclass(frozen=True, slots=True)
class Cut:
    """The request goes no further, and its connection breaks."""


@dataclass(frozen=True, slots=True)
class Lose:
    """The request takes effect, and its connection breaks instead of the answer."""


Action: TypeAlias = Answer | Hold | Cut | Lose


@dataclass(eq=False, slots=True)
class Rule:
    """What happens to which requests. `met` counts them."""

    matches: Callable[[Asked], bool]
    action: Action
    times: int | None
    met: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)


class _Exchange:
    """A request under way, and the connections at both of its ends."""

    def __init__(self, asked: Asked, client: asyncio.StreamWriter) -> None:
        self.asked = asked
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.held = False
        self.silent = False
        self.answering = False

    def cut(self) -> None:
        for writer in (self.client, self.upstream):
            if writer is not None:
                writer.transport.abort()


class FaultProxy:
    """A proxy before `plane`; it serves once it is entered. Each of the client's connections has one of its own upstream."""

    def __init__(self, plane: ControlPlane) -> None:
        self.port = free_port()
        self.asked: list[Asked] = []
        """All requests, in the order in which they came."""
        self._target = plane.port
        certificates = plane.certificates
        self._trust = ssl.create_default_context(cafile=str(certificates.authority))
        self._serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._serving.load_cert_chain(certificates.server, certificates.server_key)
        self._rules: list[Rule] = []
        self._exchanges: set[_Exchange] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(
            asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self._serving, limit=1 << 20)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await _turns()  # in which connections that were aborted are let go

    # What tests tell it.

    @contextlib.contextmanager
    def fault(
        self,
        action: Action,
        *,
        method: str | None = None,
        path: str = "",
        watching: bool | None = None,
        times: int | None = None,
        where: Callable[[Asked], bool] = lambda asked: True,
    ) -> Iterator[Rule]:
        """While the block runs, this happens to requests of this method whose path contains this; to `times` of them."""

        def matches(asked: Asked) -> bool:
            return (
                method in (None, asked.method)
                and path in asked.path
                and watching in (None, asked.watching)
                and where(asked)
            )

        rule = Rule(matches, action, times)
        self._do(self._add(rule))
        try:
            yield rule
        finally:
            self._do(self._remove(rule))

    def hush(self) -> int:
        """Let the watches that are open now fall silent for good. Returns how many."""

        async def hush() -> int:
            watches = [exchange for exchange in self._exchanges if exchange.asked.watching]
            for exchange in watches:
                exchange.silent = True
            return len(watches)

        return self._do(hush())

    def tell(self, event: dict[str, Any]) -> int:
        """Tell all watches that are open now this event. Returns how many were told."""

        async def tell() -> int:
            watches = [exchange for exchange in self._exchanges if exchange.asked.watching and exchange.answering]
            for exchange in watches:
                exchange.client.write(_chunk(json.dumps(event).encode() + b"\n"))
            return len(watches)

        return self._do(tell())

    def cut(self, *, watching: bool | None = None) -> int:
        """Break the connections of requests that are under way. Returns how many."""

        async def cut() -> int:
            chosen = [exchange for exchange in self._exchanges if watching in (None, exchange.asked.watching)]
            for exchange in chosen:
                exchange.cut()
            return len(chosen)

        return self._do(cut())

    def watches(self) -> int:
        """How many watches are open and answered."""

        async def count() -> int:
            return sum(exchange.asked.watching and exchange.answering for exchange in self._exchanges)

        return self._do(count())

    def held(self) -> int:
        """How many requests are held whose clients have not hung up, as far as is seen yet."""

        async def count() -> int:
            return sum(exchange.held for exchange in self._exchanges)

        return self._do(count())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)

    async def _add(self, rule: Rule) -> None:
        self._rules.append(rule)

    async def _remove(self, rule: Rule) -> None:
        self._rules.remove(rule)
        rule.over.set()

    # What it does.

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        _end_with(writer, task)
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (asked := await _request(reader)) is not None:
                self.asked.append(asked)
                exchange = _Exchange(asked, writer)
                self._exchanges.add(exchange)
                try:
                    rule = self._rule(asked)
                    match rule.action if rule else None:
                        case Answer() as answer:
                            writer.write(answer.encoded())
                            await writer.drain()
                            continue
                        case Cut():
                            return
                        case Hold():
                            assert rule is not None
                            exchange.held = True
                            await rule.over.wait()
                            exchange.held = False
                            await _turns()  # in which it is seen that its client has hung up
                    if upstream is None:
                        upstream = await asyncio.open_connection(
                            "127.0.0.1", self._target, ssl=self._trust, limit=1 << 24
                        )
                        _end_with(upstream[1], task)
                    exchange.upstream = upstream[1]
                    upstream[1].write(_encoded(asked))
                    lose = rule is not None and isinstance(rule.action, Lose)
                    if not await self._forward(exchange, upstream[0], lose=lose):
                        return
                finally:
                    self._exchanges.discard(exchange)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # one of the ends is gone, and so is this connection
        except asyncio.CancelledError:
            pass  # one of the ends has hung up, or this is closed; nobody above waits for it
        finally:
            self._connections.discard(task)
            writer.transport.abort()
            if upstream is not None:
                upstream[1].transport.abort()

    def _rule(self, asked: Asked) -> Rule | None:
        for rule in self._rules:
            if (rule.times is None or rule.met < rule.times) and rule.matches(asked):
                rule.met += 1
                return rule
        return None

    async def _forward(self, exchange: _Exchange, upstream: asyncio.StreamReader, *, lose: bool) -> bool:
        """Bring the answer to the client. False: its connection cannot be used again."""
        head = await upstream.readuntil(b"\r\n\r\n")
        headers = _headers(head)
        code = int(head.split(b" ", 2)[1])

        async def give(data: bytes) -> None:
            # Before its first await, so that what `tell` writes comes between two chunks.
            if not lose and not exchange.silent:
                exchange.client.write(data)
                await exchange.client.drain()

        await give(head)
        if headers.get("transfer-encoding") == "chunked":
            exchange.answering = True
            while True:
                size = int(await upstream.readline(), 16)
                data = await upstream.readexactly(size + 2)
                await give(b"%x\r\n" % size + data)
                if size == 0:
                    break
        elif exchange.asked.method != "HEAD" and code not in (204, 304):
            left = int(headers["content-length"])
            while left:
                data = await upstream.read(min(left, 1 << 16))
                if not data:
                    raise ConnectionResetError
                left -= len(data)
                await give(data)
        if exchange.silent:
            await asyncio.Event().wait()  # until the client hangs up, or is cut off
        return not lose and headers.get("connection") != "close"


async def _turns() -> None:
    for _ in range(_FAREWELL_TURNS):
        await asyncio.sleep(0)


def _end_with(writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
    """Cancel the task when the connection is closed."""

    def closed(waiting: asyncio.Future[None]) -> None:
        if not waiting.cancelled():
            waiting.exception()  # how it was closed says nothing
        task.cancel()

    asyncio.ensure_future(writer.wait_closed()).add_done_callback(closed)


async def _request(reader: asyncio.StreamReader) -> Asked | None:
    """The next request of a connection; None where there is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = _headers(head)
    if headers.get("transfer-encoding") == "chunked":
        parts = []
        while size := int(await reader.readline(), 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
        body = b"".join(parts)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    url = urlsplit(target)
    return Asked(method, target, url.path, dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.lower(): value.strip() for name, _, value in pairs}


def _encoded(asked: Asked) -> bytes:
    headers = {**asked.headers, "content-length": str(len(asked.body))}
    headers.pop("transfer-encoding", None)
    lines = [f"{asked.method} {asked.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + asked.body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
