"""The client for callers without an event loop: `AsyncClient`, each method waiting for its coroutine.

Nothing is written twice: signatures and docstrings are those of the asynchronous methods.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from peerload.client.cached import PulledModel
from peerload.client.client import AsyncClient
from peerload.client.loop import LoopThread
from peerload.client.opening import Opening
from peerload.client.source import AsyncSource
from peerload.client.weights import PulledFolder, Weights

__all__ = ["Client", "Source"]

P = ParamSpec("P")
R = TypeVar("R")


class _Same(Generic[R]):
    """An attribute of the asynchronous source."""

    def __init__(self, get: Callable[[AsyncSource], R]) -> None:
        self._get = get

    def __get__(self, source: Source, owner: type[Source]) -> R:
        return self._get(source._source)


class Source:
    """`AsyncSource` for callers without an event loop; a context manager that closes it."""

    def __init__(self, source: AsyncSource, loop: LoopThread) -> None:
        self._source = source
        self._loop = loop

    key = _Same(lambda source: source.key)
    source_id = _Same(lambda source: source.source_id)
    worker_id = _Same(lambda source: source.worker_id)
    rank = _Same(lambda source: source.rank)
    identity = _Same(lambda source: source.identity)
    manifest = _Same(lambda source: source.manifest)
    addresses = _Same(lambda source: source.addresses)
    skipped = _Same(lambda source: source.skipped)
    state = _Same(lambda source: source.state)
    load = _Same(lambda source: source.load)

    def close(self) -> None:
        self._loop.run(self._source.close())

    def beat(self) -> None:
        self._loop.run(self._source.beat())

    def quiet(self, seconds: float) -> None:
        self._loop.run(self._source.quiet(seconds))

    close.__doc__ = AsyncSource.close.__doc__
    beat.__doc__ = AsyncSource.beat.__doc__
    quiet.__doc__ = AsyncSource.quiet.__doc__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._source).replace("AsyncSource", "Source", 1)


def _made(make: Callable[P, AsyncClient]) -> Callable[Concatenate[Client, P], None]:
    @functools.wraps(make)
    def init(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> None:
        self._client = make(*args, **kwargs)
        self._loop = LoopThread()

    return init


def _waits(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(method(self._client, *args, **kwargs))

    return call


def _opens(
    method: Callable[Concatenate[AsyncClient, P], Opening[AsyncSource]],
) -> Callable[Concatenate[Client, P], Source]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Source:
        async def open_it() -> AsyncSource:
            return await method(self._client, *args, **kwargs)

        return Source(self._loop.run(open_it()), self._loop)

    return call


def _pulls(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Weights[AsyncSource]]],
) -> Callable[Concatenate[Client, P], Weights[Source]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Weights[Source]:
        weights = self._loop.run(method(self._client, *args, **kwargs))
        return weights.served_by(self._own(weights.source))

    return call


def _pulls_folder(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, PulledFolder[AsyncSource]]],
) -> Callable[Concatenate[Client, P], PulledFolder[Source]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> PulledFolder[Source]:
        folder = self._loop.run(method(self._client, *args, **kwargs))
        return folder.served_by(self._own(folder.source))

    return call


def _pulls_cached(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, PulledModel[AsyncSource]]],
) -> Callable[Concatenate[Client, P], PulledModel[Source]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> PulledModel[Source]:
        pulled = self._loop.run(method(self._client, *args, **kwargs))
        return pulled.served_by(self._own(pulled.source))

    return call


def _iterates(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[Client, P], Iterator[R]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        steps = method(self._client, *args, **kwargs)

        async def step() -> R:
            return await anext(steps)

        try:
            while True:
                try:
                    found = self._loop.run(step())
                except StopAsyncIteration:
                    return
                yield found
        finally:
            self._loop.run(steps.aclose())

    return call


class Client:
    """`AsyncClient` for callers without an event loop; may be called from any number of threads.

    Its coroutines, and with them the callbacks that are passed in, run on a thread of its own; a callback must not call
    the client. Close it, or use it as a context manager: that ends its sources too.
    """

    _client: AsyncClient
    _loop: LoopThread

    __init__ = _made(AsyncClient)
    publish = _opens(AsyncClient.publish)
    share = _opens(AsyncClient.share)
    pull = _pulls(AsyncClient.pull)
    pull_folder = _pulls_folder(AsyncClient.pull_folder)
    share_cached = _opens(AsyncClient.share_cached)
    pull_cached = _pulls_cached(AsyncClient.pull_cached)
    find = _waits(AsyncClient.find)
    watch = _iterates(AsyncClient.watch)
    explain = _waits(AsyncClient.explain)
    manifest = _waits(AsyncClient.manifest)
    read = _waits(AsyncClient.read)
    withdraw = _waits(AsyncClient.withdraw)

    @property
    def address(self) -> str:
        """The server's `host:port`."""
        return self._client.address

    def close(self) -> None:
        """End every source of this client, its engines and its connection. Closing twice is allowed."""
        if not self._loop.closed:
            try:
                self._loop.run(self._client.close())
            finally:
                self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own(self, source: AsyncSource | None) -> Source | None:
        return None if source is None else Source(source, self._loop)
