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
from peerload.client.delivery import WeightStream
from peerload.client.loop import LoopThread
from peerload.client.opening import Opening
from peerload.client.source import AsyncSource
from peerload.client.stock.artifact_source import AsyncArtifact
from peerload.client.weights import Filled, PulledFolder, PullReport, Weights

__all__ = ["Artifact", "Client", "Source", "WeightIterator"]

P = ParamSpec("P")
R = TypeVar("R")


class _Same(Generic[R]):
    """An attribute of the asynchronous source."""

    def __init__(self, get: Callable[[AsyncSource], R]) -> None:
        self._get = get

    def __get__(self, source: Source, owner: type[Source]) -> R:
        return self._get(source._source)


class _SameArtifact(Generic[R]):
    """An attribute of the asynchronous artifact."""

    def __init__(self, get: Callable[[AsyncArtifact], R]) -> None:
        self._get = get

    def __get__(self, artifact: Artifact, owner: type[Artifact]) -> R:
        return self._get(artifact._artifact)


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
        if not self._loop.closed:
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


class Artifact:
    """`AsyncArtifact` for callers without an event loop; a context manager that closes it."""

    def __init__(self, artifact: AsyncArtifact, loop: LoopThread) -> None:
        self._artifact = artifact
        self._loop = loop

    key = _SameArtifact(lambda artifact: artifact.key)
    identity = _SameArtifact(lambda artifact: artifact.identity)
    artifact_id = _SameArtifact(lambda artifact: artifact.artifact_id)
    total_size = _SameArtifact(lambda artifact: artifact.total_size)
    skipped = _SameArtifact(lambda artifact: artifact.skipped)
    state = _SameArtifact(lambda artifact: artifact.state)
    load = _SameArtifact(lambda artifact: artifact.load)

    def close(self) -> None:
        if not self._loop.closed:
            self._loop.run(self._artifact.close())

    def beat(self) -> None:
        self._loop.run(self._artifact.beat())

    close.__doc__ = AsyncArtifact.close.__doc__
    beat.__doc__ = AsyncArtifact.beat.__doc__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._artifact).replace("AsyncArtifact", "Artifact", 1)


class WeightIterator(Iterator[tuple[str, R]]):
    """`WeightStream` for callers without an event loop: for one thread at a time, and a context manager that closes it."""

    def __init__(self, stream: WeightStream[R], loop: LoopThread) -> None:
        self._stream = stream
        self._loop = loop

    @property
    def report(self) -> PullReport | None:
        """How the pull went, once the last tensor was given."""
        return self._stream.report

    @property
    def source(self) -> Source | None:
        """This process as a source of the weights, if that was asked for, once the last tensor was given."""
        source = self._stream.source
        return None if source is None else Source(source, self._loop)

    def __next__(self) -> tuple[str, R]:
        # What is here already needs no visit to the loop, which costs more than a small tensor does.
        if (found := self._stream.take()) is not None:
            return found

        async def step() -> tuple[str, R]:
            return await anext(self._stream)

        try:
            return self._loop.run(step())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Stop: nothing is read any more when this returns. Closing twice is allowed, and after the end does nothing."""
        if not self._loop.closed:
            self._loop.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def _opens_artifact(
    method: Callable[Concatenate[AsyncClient, P], Opening[AsyncArtifact]],
) -> Callable[Concatenate[Client, P], Artifact]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Artifact:
        async def open_it() -> AsyncArtifact:
            return await method(self._client, *args, **kwargs)

        return Artifact(self._loop.run(open_it()), self._loop)

    return call


def _pulls(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Weights[R, AsyncSource]]],
) -> Callable[Concatenate[Client, P], Weights[R, Source]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Weights[R, Source]:
        weights = self._loop.run(method(self._client, *args, **kwargs))
        return weights.served_by(self._own(weights.source))

    return call


def _pulls_into(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Filled[AsyncSource]]],
) -> Callable[Concatenate[Client, P], Filled[Source]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Filled[Source]:
        filled = self._loop.run(method(self._client, *args, **kwargs))
        return filled.served_by(self._own(filled.source))

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
            if not self._loop.closed:
                self._loop.run(steps.aclose())

    return call


def _streams(
    method: Callable[Concatenate[AsyncClient, P], WeightStream[R]],
) -> Callable[Concatenate[Client, P], WeightIterator[R]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> WeightIterator[R]:
        return WeightIterator(method(self._client, *args, **kwargs), self._loop)

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
    pull_into = _pulls_into(AsyncClient.pull_into)
    iter_weights = _streams(AsyncClient.iter_weights)
    pull_folder = _pulls_folder(AsyncClient.pull_folder)
    share_cached = _opens(AsyncClient.share_cached)
    pull_cached = _pulls_cached(AsyncClient.pull_cached)
    share_artifact = _opens_artifact(AsyncClient.share_artifact)
    pull_artifact = _waits(AsyncClient.pull_artifact)
    find = _waits(AsyncClient.find)
    watch = _iterates(AsyncClient.watch)
    explain = _waits(AsyncClient.explain)
    health = _waits(AsyncClient.health)
    server_info = _waits(AsyncClient.server_info)
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
