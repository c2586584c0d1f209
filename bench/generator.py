"""Load from several processes, of calls that are all different.

A `Load` is kept up for some seconds: either closed, with so many calls in flight on each connection, or open, with so many calls a
second whatever becomes of them (its times count from when a call was due). Each load tells how much of a core it took itself: one that
takes all of its cores is measuring itself.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import resource
import selectors
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final

from bench.http2 import Connection, head_of
from bench.processes import spawned

__all__ = ["Call", "Load", "Told", "generate"]

_WARM_SECONDS: Final = 0.3
"""Until connections, caches and windows are what they stay."""
_GIVE_UP_SECONDS: Final = 300.0
"""Of calls that are made once: what is not answered by then has failed."""
_TURN_SECONDS: Final = 0.005

Call = tuple[str, bytes]
"""A method's path, and a request."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one or several processes ask. The calls are dealt out among them, and come again from the first after the last."""

    calls: Sequence[Call]
    connections: int = 8
    streams: int = 16
    rate: float | None = None
    """Calls a second in all; None: as many as are answered."""
    processes: int = 1
    each: int = 0
    """If not 0: each connection makes so many calls that follow each other in `calls`, once, one after the other."""


@dataclass(slots=True)
class Told:
    """What became of a load."""

    seconds: float = 0.0
    cores: float = 0.0
    """Of processor time that the load itself took, in cores for each of its processes."""
    made: int = 0
    """Calls in all, those that warmed up too."""
    failed: int = 0
    size: int = 0
    """Bytes of all answers."""
    times: dict[str, array.array[float]] = field(default_factory=dict)
    """Seconds that each call took, by path."""

    @property
    def all_times(self) -> list[float]:
        """Of calls of any path."""
        return list(itertools.chain.from_iterable(self.times.values()))

    @property
    def rate(self) -> float:
        """Calls a second that were answered."""
        return sum(map(len, self.times.values())) / self.seconds if self.seconds else 0.0


class _Worker:
    """One process of a load."""

    def __init__(self, address: str, load: Load) -> None:
        heads = {path: head_of(path) for path, _ in load.calls}
        self._calls = [(heads[path], path, body) for path, body in load.calls]
        self._load = load
        self._connections = [Connection(address) for _ in range(load.connections)]
        self._selector = selectors.DefaultSelector()
        for number, connection in enumerate(self._connections):
            self._selector.register(connection.socket, selectors.EVENT_READ, (number, connection))
        self._next = itertools.cycle(range(len(self._calls)))
        self._told = Told(times={path: array.array("d") for path in heads})
        self._left = dict.fromkeys(range(load.connections), load.each)
        self._counting = bool(load.each)

    def run(self, seconds: float) -> Told:
        """Ask."""
        begun = time.perf_counter()
        load, told = self._load, self._told
        counted_from, cpu = begun, time.process_time()
        end = begun + (_GIVE_UP_SECONDS if load.each else _WARM_SECONDS + seconds)
        if load.rate is None:
            for number, connection in enumerate(self._connections):
                for _ in range(1 if load.each else load.streams):
                    self._begin(number, connection)
                connection.send()
        issued = 0
        turn = itertools.cycle(enumerate(self._connections))
        while (now := time.perf_counter()) < end:
            if not self._counting and now >= begun + _WARM_SECONDS:
                self._counting, counted_from, cpu = True, now, time.process_time()
            if load.rate is not None:
                for at in range(issued, int((now - begun) * load.rate)):
                    number, connection = next(turn)
                    self._begin(number, connection, begun + at / load.rate)
                    issued += 1
                for connection in self._connections:
                    self._send(connection)
            for key, _ in self._selector.select(_TURN_SECONDS if load.rate is None else 0.001):
                number, connection = key.data
                self._answered(number, connection)
            if load.each and not any(connection.in_flight for connection in self._connections):
                break
        told.seconds = time.perf_counter() - counted_from
        told.cores = (time.process_time() - cpu) / told.seconds
        if load.each:
            told.failed += sum(connection.in_flight for connection in self._connections)
        for connection in self._connections:
            connection.socket.close()
        return told

    def _begin(self, number: int, connection: Connection, due: float | None = None) -> None:
        load = self._load
        if load.each:
            if not self._left[number]:
                return
            which = number * load.each + load.each - self._left[number]
            self._left[number] -= 1
        else:
            which = next(self._next)
        head, _, body = self._calls[which]
        connection.begin(which, head, body, due)

    def _answered(self, number: int, connection: Connection) -> None:
        done = connection.receive()
        self._told.made += len(done)
        for call, seconds, size in done:
            if self._counting:
                if size:
                    self._told.times[self._calls[call][1]].append(seconds)
                    self._told.size += size
                else:
                    self._told.failed += 1
            if self._load.rate is None:
                self._begin(number, connection)
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.send() else 0)
        key = self._selector.get_key(connection.socket)
        if key.events != wanted:
            self._selector.modify(connection.socket, wanted, key.data)


def _work(pipe: Pipe, address: str, load: Load, seconds: float) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        worker = _Worker(address, load)
        pipe.send(None)
        pipe.recv()
        pipe.send(worker.run(seconds))
    except ConnectionError as error:
        pipe.send(error)


def _parts(load: Load) -> Iterator[Load]:
    """What each process of a load does."""
    count = load.processes
    for number in range(count):
        if load.each:
            connections = len(range(number, load.connections, count))
            first = sum(len(range(before, load.connections, count)) for before in range(number)) * load.each
            calls = load.calls[first : first + connections * load.each]
        else:
            connections = max(1, load.connections // count)
            calls = load.calls[number::count]
        rate = None if load.rate is None else load.rate / count
        yield Load(calls, connections, load.streams, rate, 1, load.each)


def generate(address: str, seconds: float, *loads: Load) -> list[Told]:
    """Keep all loads up at once; what became of each. Raises `ConnectionError` where a server hung up."""
    with contextlib.ExitStack() as stack:
        pipes: list[list[Pipe]] = []
        for load in loads:
            pipes.append([])
            for part in _parts(load):
                pipes[-1].append(stack.enter_context(spawned(_work, address, part, seconds)).pipe)
        every = [pipe for of_load in pipes for pipe in of_load]
        for message in (None, "go"):
            for pipe in every:
                if message is None:
                    _received(pipe)
                else:
                    pipe.send(message)
        return [_joined([_received(pipe) for pipe in of_load]) for of_load in pipes]


def _received(pipe: Pipe) -> Any:
    told = pipe.recv()
    if isinstance(told, ConnectionError):
        raise told
    return told


def _joined(parts: Sequence[Told]) -> Told:
    told = Told(seconds=max(part.seconds for part in parts), cores=sum(part.cores for part in parts) / len(parts))
    for part in parts:
        told.failed += part.failed
        told.made += part.made
        told.size += part.size
        for path, times in part.times.items():
            told.times.setdefault(path, array.array("d")).extend(times)
    return told
