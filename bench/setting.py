"""What rows are given: options, stores, and the ways of measuring that they have in common."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.figures import Figure, median, percentiles
from bench.generator import Load, generate
from bench.messages import P2P, Fleet
from bench.processes import Process, bare, redis, served
from bench.seeding import seed
from peerload.wire import p2p_pb2

__all__ = ["Setting", "asked", "published"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One run of the bench."""

    seconds: float
    """Of load, for each round of each figure."""
    rounds: int
    stores: tuple[str, ...]
    fronts: tuple[str, ...]
    records: int
    """In the largest directory."""
    mib: int
    """MiB that are moved in each read."""
    generators: int
    """Processes that make the load."""
    cross: bool
    """Whether every store is measured with every front."""
    folder: Path
    """For what is only there during the run."""

    @property
    def longer(self) -> float:
        """How many times as long a row may take as by default, for what is asked for beyond that."""
        asked = (
            self.seconds * self.rounds / 2.4,
            self.records / 100_000,
            self.mib / 512,
            len(list(self.pairs())) / 4,
        )
        return math.prod(max(1.0, each) for each in asked)

    @contextlib.contextmanager
    def store(self, kind: str) -> Iterator[str]:
        """The URL of an empty store of that kind."""
        if kind == "redis":
            with redis() as url:
                yield url
        elif kind == "sqlite":
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                yield f"sqlite:{folder}/peerload.sqlite"
        else:
            yield f"{kind}:"

    @contextlib.contextmanager
    def filled(self, records: int) -> Iterator[str]:
        """The URL of a sqlite store of so many small records: 64, 1,024 and 10,000 of one model each where there is room, the others
        of many. The first to ask has it written; everybody gets a copy."""
        kept = self.folder / f"filled-{records}"
        if not kept.exists():
            kept.mkdir()
            seed(f"sqlite:{kept}/peerload.sqlite", records)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            yield f"sqlite:{folder}/peerload.sqlite"

    @contextlib.contextmanager
    def serving(self, kind: str, front: str, *flags: str) -> Iterator[Process]:
        """A server over an empty store of that kind."""
        with self.store(kind) as url, served(url, front, *flags) as server:
            yield server

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The stores and fronts to measure: unless all are wanted, each front over the first store, and the others over the last."""
        if self.cross:
            yield from itertools.product(self.stores, self.fronts)
        else:
            yield from ((self.stores[0], front) for front in self.fronts)
            yield from ((store, self.fronts[-1]) for store in self.stores[1:])

    def beside_bare(
        self,
        server: Process,
        front: str,
        loads: Sequence[Load],
        *,
        beside: Load | None = None,
        keeping: str = "",
        **figure: Any,
    ) -> Figure:
        """The rate of a load at a server, by turns with that at a bare handler which answers what the server answers. Of
        several loads each round takes the next; `beside` is kept up all the while; with `keeping`, the URL of an empty store, the
        bare handler keeps publications; `figure` is what the figure says besides. Raises `RuntimeError` where a call failed."""
        first = [load.calls[0] for load in (loads[0], beside) if load is not None]
        answers = {path: asked(server.address, path, request) for path, request in first}
        with bare(front, answers, keeping) as handler:
            return self.beside(
                handler,
                "bare + parse + compress + write" if keeping else "bare handler",
                server,
                front,
                loads,
                others=beside,
                **figure,
            )

    def beside(
        self,
        other: Process,
        called: str,
        server: Process,
        front: str,
        loads: Sequence[Load],
        *,
        others: Load | None = None,
        **figure: Any,
    ) -> Figure:
        """The same beside whatever else serves these calls; the figure says what that is `called`."""
        ours, theirs = _Side(), _Side()
        for number in range(self.rounds):
            load = loads[number % len(loads)]
            ours.measure(server, self.seconds, load, others)
            theirs.measure(other, self.seconds, load, others)
        return Figure(
            front=front,
            unit="/s",
            value=median(ours.rates),
            bound=median(theirs.rates),
            bounded_by=called,
            rounds=tuple(ours.rates),
            percentiles=percentiles(ours.times),
            more={
                "CPU µs a call": median(ours.costs),
                called.partition(" ")[0]: median(theirs.costs),
                "cores of the load": max(ours.cores + theirs.cores),
            },
            **figure,
        )


class _Side:
    """What is measured of a server, or of a bare handler."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.costs: list[float] = []
        self.cores: list[float] = []
        self.times: list[float] = []

    def measure(self, process: Process, seconds: float, load: Load, beside: Load | None) -> None:
        before = process.cpu()
        told, *others = generate(process.address, seconds, *(each for each in (load, beside) if each is not None))
        made = told.made + sum(each.made for each in others)
        if told.failed or not told.rate:
            raise RuntimeError(f"{told.failed} calls failed, {told.rate:.0f} a second were answered")
        self.rates.append(told.rate)
        self.costs.append((process.cpu() - before) / made * 1e6)
        self.cores.append(told.cores)
        self.times += told.all_times


def asked(address: str, path: str, request: bytes) -> bytes:
    """One call."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        answer: bytes = channel.unary_unary(path)(request, timeout=60)
        return answer


def published(address: str, fleet: Fleet, workers: Sequence[int], *, connections: int = 8) -> str:
    """Publish a fleet's workers; the source id. Raises `RuntimeError` where one is refused."""
    requests = [(f"{P2P}PublishMetadata", fleet.request(number)) for number in workers]
    connections = min(connections, len(requests))
    each = len(requests) // connections
    rest = requests[each * connections :]
    (told,) = generate(address, 0, Load(requests[: each * connections], connections=connections, each=each))
    if told.failed:
        raise RuntimeError(f"{told.failed} publications failed")
    for path, request in [*rest, requests[0]]:
        answer = p2p_pb2.PublishMetadataResponse.FromString(asked(address, path, request))
        if not answer.success:
            raise RuntimeError(answer.message)
    return answer.mx_source_id
