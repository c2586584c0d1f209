"""The manifests that a pull reads by, however the source publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from peerload import tracing
from peerload.client.connection import Connection
from peerload.client.manifest import SourceManifest
from peerload.client.search import fetch_manifest, get_manifest
from peerload.client.sources import SourceInfo
from peerload.client.stock.reading import stock_manifest
from peerload.client.threads import in_thread
from peerload.engines.agents import AgentImporter
from peerload.metadata.records import Form, SourceKey

__all__ = ["Manifests", "is_stock"]


def is_stock(source: SourceInfo) -> bool:
    """Whether the stock package published it."""
    return source.form is Form.UNSPECIFIED


class Manifests:
    """Of one pull. What a source of ours published holds until it is forgotten; a stock worker is asked for each read.

    `agents` is the target side of the engine that reads from stock workers; it blocks.
    """

    def __init__(self, connection: Connection, agents: Callable[[], AgentImporter] | None, executor: Executor) -> None:
        self._connection = connection
        self._agents = agents
        self._executor = executor
        self._known: dict[SourceKey, SourceManifest] = {}

    def __contains__(self, key: SourceKey) -> bool:
        """Whether the server need not be asked for it."""
        return key in self._known

    def forget(self, key: SourceKey) -> None:
        """Ask again the next time."""
        self._known.pop(key, None)

    @asynccontextmanager
    async def open(self, source: SourceInfo) -> AsyncIterator[SourceManifest]:
        """What a source offers, for one read of it. Raises what `fetch_manifest` and `stock_manifest` raise; leaving it too, where
        a read from a stock worker cannot be confirmed."""
        if not is_stock(source):
            known = self._known.get(source.key)
            if known is None:
                with tracing.span("peerload.manifest", {"peerload.source": str(source)}):
                    known = await fetch_manifest(self._connection, source.key, self._executor)
                self._known[source.key] = known
            yield known
            return
        agents = self._agents
        assert agents is not None
        async with stock_manifest(
            source,
            lambda: get_manifest(self._connection, source.key),
            lambda: in_thread(self._executor, lambda stop: agents()),
        ) as found:
            yield found
