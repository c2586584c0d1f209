"""The one place that speaks to the API server: requests with deadlines, and watches.

The work is done with aiohttp. What it does not give is here: a deadline over all that a call does, waiting and asking
again where the API server wishes it; no request that is sent twice without our knowing; whether a write that failed may
have been done; connections that are given up together when one of them leads to silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final

from peerload.clock import Clock
from peerload.errors import InvalidArgument, MissingExtra, PeerloadError
from peerload.kubernetes.access import Access, Login
from peerload.kubernetes.attempts import Answer, Late, Progress, Request, pause_after
from peerload.kubernetes.lines import MOST_EVENT_BYTES, Lines
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import (
    Broken,
    Outage,
    Unauthorized,
    read_object,
    refusal,
    retry_after,
)
from peerload.kubernetes.wires import Wires, translated

try:
    import aiohttp
except ImportError:
    raise MissingExtra("asking Kubernetes", "kubernetes") from None

__all__ = ["JSON_PATCH", "MOST_ANSWER_BYTES", "MOST_EVENT_BYTES", "SLOW_BYTES", "Answer", "KubeApi"]

JSON_PATCH: Final = "application/json-patch+json"
"""The content type of a list of changes, made if all of them can be."""
MOST_ANSWER_BYTES: Final = 256 * 1024 * 1024
SLOW_BYTES: Final = 10_000_000
"""Bytes a second that the slowest network worth waiting for carries."""

_MOST_CONNECTIONS: Final = 32
_LATE_SECONDS: Final = 0.5
_OPENING_SECONDS: Final = 10.0
"""After this a watch that the API server has not begun is given up."""
_MOST_STATUS_BYTES: Final = 1 << 20
_CLOSED: Final = "the store was closed"
_NOTHING: Final[Mapping[str, str]] = {}


class KubeApi:
    """Speaks to one API server. Everything that it raises is in `peerload.kubernetes.trouble`, besides what `open`
    says."""

    def __init__(self, place: KubernetesPlace, clock: Clock, *, access: Access | None = None) -> None:
        self._place = place
        self._clock = clock
        self._access = Access(place, clock) if access is None else access
        self._calls: Wires | None = None
        self._watches: Wires | None = None
        self._deadlines: set[asyncio.Timeout] = set()
        self._namespace = place.namespace
        self.on_date: Callable[[float, float, str], None] | None = None
        """Called with every answer's `Date` header, and the monotonic times between which it was written."""

    @property
    def namespace(self) -> str:
        """Where everything is kept; known once open."""
        return self._namespace

    async def open(self) -> None:
        """Find out where the API server is; it is not asked yet. Raises `InvalidArgument` where no configuration can be
        used, `Unauthorized` where a credential plugin fails, `MissingExtra`."""
        self._namespace = (await self._access.login()).namespace
        self._calls, self._watches = Wires(_MOST_CONNECTIONS), Wires(0)

    async def close(self) -> None:
        """End every call and every watch in flight, which raise `Unavailable`, and every connection."""
        wires, self._calls, self._watches = (self._calls, self._watches), None, None
        loop = asyncio.get_running_loop()
        for deadline in list(self._deadlines):
            deadline.reschedule(loop.time())
        for each in wires:
            if each is not None:
                await each.close()
        await self._access.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = _NOTHING,
        body: object | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        seconds: float = 2.0,
    ) -> dict[str, Any]:
        """The object that answers a request; `path` is below the server's root.

        A call has `seconds`, and more in proportion to the bytes that it carries. Within them the API server's wish to be
        asked later is honoured, and what was certainly not done is tried again for a moment. `body` is sent as JSON; bytes
        are sent as they are.
        """
        answer = await self.fetch(
            method, path, query=query, body=body, content_type=content_type, accept=accept, seconds=seconds
        )
        return answer.json()

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = _NOTHING,
        body: object | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        seconds: float = 2.0,
        most_bytes: int = MOST_ANSWER_BYTES,
    ) -> Answer:
        """The answer to a request whole and unread, otherwise as `call`."""
        headers = {"Accept": accept}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
            headers["Content-Type"] = content_type
        request = Request(method, path, query, headers, data, most_bytes)
        while True:
            try:
                return await self._run(request, seconds + len(data or b"") / SLOW_BYTES)
            except Late:
                continue

    async def _run(self, request: Request, seconds: float) -> Answer:
        progress = Progress()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        when = begun + seconds
        try:
            async with self._until(seconds) as deadline:
                while True:
                    try:
                        return await self._attempt(request, deadline, progress)
                    except Outage as error:
                        progress.note(error)
                        if self._closed:  # which is why
                            raise Broken(_CLOSED, ambiguous=progress.doubtful) from None
                        pause = pause_after(error, request, loop.time() - begun)
                        if pause is None or loop.time() + pause >= when:
                            raise
                    except PeerloadError as error:
                        if not progress.doubtful:
                            raise
                        # What it found may be what an earlier attempt of ours has done.
                        raise Broken(f"after an attempt that may have been done: {error}", ambiguous=True) from None
                    await asyncio.sleep(pause)
        except TimeoutError:
            ambiguous = progress.doubtful or (request.writes and progress.sending)
            if self._closed:
                raise Broken(_CLOSED, ambiguous=ambiguous) from None
            if not request.writes and loop.time() - (deadline.when() or 0.0) > _LATE_SECONDS:
                raise Late from None
            if progress.sending:
                await self._renew_connections(progress.wires)  # the others lead to the same silence
            if progress.last is not None:
                progress.last.ambiguous = ambiguous
                raise progress.last from None
            what = "did not answer in time" if progress.sending else "was not asked: no credentials came in time"
            raise Broken(f"the Kubernetes API server {what}", ambiguous=ambiguous) from None

    async def watch(
        self, path: str, query: Mapping[str, str] = _NOTHING, *, silence: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a watch, bookmarks among them, until the API server ends it in good order.

        An event that is an error raises what it means (`Gone`: list again). Silence of so many seconds, and a connection
        that breaks, raise `Broken`.
        """
        asked = {"watch": "1", "allowWatchBookmarks": "true", **query}
        request = Request("GET", path, asked, {"Accept": "application/json"}, None, MOST_EVENT_BYTES)
        async with contextlib.AsyncExitStack() as stack:
            response, server = await self._begin(stack, request)
            lines = Lines()
            while chunk := await self._more(response, silence):
                for line in lines.feed(chunk):
                    event = read_object(line)
                    said = event.get("object")
                    if not isinstance(said, dict):
                        raise Broken("what answers there is no Kubernetes API server: it sent no event")
                    if event.get("type") == "ERROR":
                        raise refusal(server, said.get("code"), said, after=retry_after({}, said), writes=False)
                    yield event
            if lines.partial:
                raise Broken("the watch ended in the middle of an event")

    async def _begin(self, stack: contextlib.AsyncExitStack, request: Request) -> tuple[aiohttp.ClientResponse, str]:
        """The answer to a watch, to be read, and whose it is. The stack ends it."""
        try:
            async with self._until(_OPENING_SECONDS):
                login = await self._login()
                while True:
                    if self._watches is None:
                        raise Broken(_CLOSED)
                    try:
                        sent = self._sent(self._watches, login, request, _OPENING_SECONDS)
                        return await stack.enter_async_context(sent), login.server
                    except Unauthorized:
                        login, refused = await self._login(login), login
                        if login == refused:
                            raise
        except TimeoutError:
            raise Broken(self._silent("did not begin a watch in time")) from None

    async def _more(self, response: aiohttp.ClientResponse, silence: float) -> bytes:
        """What comes next; nothing at the end."""
        with translated(writes=False):
            try:
                async with self._until(silence):
                    return await response.content.readany()
            except TimeoutError:
                # What came while this process did not run is no silence.
                if not self._closed and (chunk := response.content.read_nowait(-1)):
                    return chunk
                raise Broken(self._silent(f"sent nothing on a watch for {silence:g} s")) from None

    def _silent(self, words: str) -> str:
        return _CLOSED if self._closed else f"the Kubernetes API server {words}"

    @property
    def _closed(self) -> bool:
        return self._calls is None

    @contextlib.asynccontextmanager
    async def _until(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        if self._closed:
            raise Broken("the store is not open")
        async with asyncio.timeout(seconds) as deadline:
            self._deadlines.add(deadline)
            try:
                yield deadline
            finally:
                self._deadlines.discard(deadline)

    async def _login(self, refused: Login | None = None) -> Login:
        try:
            return await (self._access.login() if refused is None else self._access.renew(refused))
        except InvalidArgument as error:  # it could be used before
            raise Unauthorized(str(error)) from error

    async def _attempt(self, request: Request, deadline: asyncio.Timeout, progress: Progress) -> Answer:
        login = await self._login()
        try:
            return await self._send(login, request, deadline, progress)
        except Unauthorized:  # nothing was done
            progress.sending = False
            renewed = await self._login(login)
            if renewed == login:
                raise
            return await self._send(renewed, request, deadline, progress)

    async def _send(self, login: Login, request: Request, deadline: asyncio.Timeout, progress: Progress) -> Answer:
        wires = self._calls
        if wires is None:
            raise Broken(_CLOSED)
        allowed = deadline.when() or 0.0
        left = allowed - asyncio.get_running_loop().time()
        parts: list[bytes] = []
        size = 0
        progress.sending, progress.wires = True, wires
        async with self._sent(wires, login, request, left) as response:
            with translated(writes=request.writes):
                async for chunk in response.content.iter_any():
                    size += len(chunk)
                    if size > request.most_bytes:
                        raise Broken(f"an answer has more than {request.most_bytes} bytes", ambiguous=request.writes)
                    parts.append(chunk)
                    if not self._closed:  # which is a deadline, too
                        deadline.reschedule(allowed + size / SLOW_BYTES)
        progress.sending = False
        return Answer(response.status, response.headers, b"".join(parts))

    @contextlib.asynccontextmanager
    async def _sent(
        self, wires: Wires, login: Login, request: Request, seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request that is sent once, to be read in the block. Raises what it means if it is no success."""
        headers = dict(request.headers)
        if login.authorization:
            headers["Authorization"] = login.authorization
        before = self._clock.monotonic()
        async with wires.used() as session:
            with translated(writes=request.writes):
                response = await session.request(
                    request.method,
                    login.server + request.path,
                    params=request.query,
                    data=None if request.data is None else io.BytesIO(request.data),  # which it sends in parts
                    headers=headers,
                    ssl=login.tls if login.tls is not None else True,
                    server_hostname=login.server_name,
                    proxy=login.proxy,
                    allow_redirects=False,
                    # A little less than the deadline: then that no connection was made is known to be all.
                    timeout=aiohttp.ClientTimeout(total=None, connect=max(0.001, seconds * 0.9)),
                )
            try:
                if self.on_date is not None and (date := response.headers.get("Date")):
                    self.on_date(before, self._clock.monotonic(), date)
                if not 200 <= response.status < 300:
                    with translated(writes=request.writes):
                        status = read_object(await response.content.read(_MOST_STATUS_BYTES))
                    after = retry_after(response.headers, status)
                    raise refusal(login.server, response.status, status, after=after, writes=request.writes)
                yield response
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    # A TLS connection that is closed waits for the other side to say goodbye, and outlives the store.
                    if response.connection is not None and response.connection.transport is not None:
                        response.connection.transport.abort()
                    response.close()

    async def _renew_connections(self, wires: Wires | None) -> None:
        """Use none of these connections again."""
        if wires is not None and self._calls is wires:
            self._calls = Wires(_MOST_CONNECTIONS)
            await wires.retire()
