"""How soon a thousand who wait are told."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable, Iterator

from bench.figures import Figure, median, percentiles
from bench.http2 import Connection, head_of
from bench.messages import P2P, SOURCES, Fleet
from bench.setting import Setting
from peerload.wire import sources_pb2

__all__ = ["measure"]

_WATCHERS = 1_000
_ON_EACH = 100
"""Streams of one connection; it may have no more."""
_PUBLICATIONS = 10
_QUIET_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0


class _Watchers:
    """The watchers, and one who publishes, in one loop."""

    def __init__(self, address: str, request: bytes) -> None:
        self._selector = selectors.DefaultSelector()
        self._publisher = Connection(address)
        self._watching = [Connection(address) for _ in range(_WATCHERS // _ON_EACH)]
        self.told: dict[int, float] = {}
        """When each watcher was last told something."""
        head = head_of(f"{SOURCES}Watch")
        for number, connection in enumerate(self._watching):
            connection.tells_messages = True
            for call in range(_ON_EACH):
                connection.begin(number * _ON_EACH + call, head, request)
        for connection in (self._publisher, *self._watching):
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()

    def publish(self, request: bytes) -> float:
        """Begin to; when that was."""
        begun = time.perf_counter()
        self._publisher.begin(0, head_of(f"{P2P}PublishMetadata"), request)
        self._publisher.send()
        return begun

    def until(self, enough: Callable[[], bool]) -> None:
        """Hear what is told until it is enough."""
        end = time.perf_counter() + _PATIENCE_SECONDS
        while not enough():
            if time.perf_counter() > end:
                raise RuntimeError(f"only {len(self.told)} of {_WATCHERS} watchers were told")
            for key, _ in self._selector.select(0.01):
                connection: Connection = key.data
                connection.receive()
                for call, now in connection.events:
                    self.told[call] = now
                connection.events.clear()
                connection.send()

    def complete(self) -> bool:
        """Whether everybody was told."""
        return len(self.told) == _WATCHERS

    def quiet(self) -> bool:
        """Whether nothing more is told."""
        return self.complete() and time.perf_counter() - max(self.told.values()) > _QUIET_SECONDS

    def close(self) -> None:
        for connection in (self._publisher, *self._watching):
            connection.socket.close()


def measure(setting: Setting) -> Iterator[Figure]:
    """From the beginning of a publication until the last of 1,000 watchers has it."""
    fleet = Fleet(0)
    selector = sources_pb2.Selector(model_name=fleet.identity.model_name)
    request = sources_pb2.WatchRequest(selector=selector).SerializeToString()
    for store, front in setting.pairs():
        with setting.serving(store, front) as server:
            watchers = _Watchers(server.address, request)
            with contextlib.closing(watchers):
                last, times = [], []
                watchers.until(watchers.quiet)
                for number in range(_PUBLICATIONS):
                    watchers.told.clear()
                    begun = watchers.publish(fleet.request(number))
                    watchers.until(watchers.complete)
                    last.append((max(watchers.told.values()) - begun) * 1e3)
                    times += [told - begun for told in watchers.told.values()]
                    watchers.until(watchers.quiet)
        yield Figure(
            row="watch",
            case=f"from a publication to the last of {_WATCHERS:,}",
            store=store,
            front=front,
            unit="ms",
            less=True,
            value=median(last),
            rounds=tuple(last),
            percentiles=percentiles(times),
        )
