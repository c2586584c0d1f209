"""A large fleet on the embedded store: time, memory and disk of 10,000 workers with 1,500 tensors each."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.figures import Figure, percentiles
from bench.generator import Call, Load, Told, generate
from bench.messages import P2P, RANKS, Fleet, list_request
from bench.processes import served
from bench.setting import Setting, asked
from peerload.wire import p2p_pb2

__all__ = ["Measured", "fleet", "measure"]

_CONNECTIONS: Final = 8
_AT_ONCE: Final = 400
"""Publications that are held in memory for the load."""
_GETS: Final = 3_000
_LISTS: Final = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one fleet. Rates are calls a second, sizes bytes, times seconds."""

    request_bytes: int
    publish_rate: float
    publish_times: Sequence[float]
    heartbeat_rate: float
    list_times: Sequence[float]
    list_bytes: int
    listed: int
    get_rate: float
    get_again_rate: float
    server_bytes: float
    """More than an empty server's, for each worker; the manifests that it keeps at hand are among them."""
    file_bytes: float
    """For each worker."""
    restart_seconds: float


def _once(address: str, calls: Sequence[Call]) -> Told:
    """Each of the calls once, some at a time. Raises `RuntimeError` where one fails."""
    connections = min(_CONNECTIONS, len(calls))
    each = len(calls) // connections
    parts = [Load(calls[: each * connections], connections=connections, each=each)]
    if rest := calls[each * connections :]:
        parts.append(Load(rest, connections=1, each=len(rest)))
    told = generate(address, 0, *parts)
    if failed := sum(part.failed for part in told):
        raise RuntimeError(f"{failed} calls failed")
    return told[0]


def fleet(workers: int, tensors: int, folder: Path, front: str, *, twice: bool = False) -> Measured:
    """Publish, beat, list and fetch a whole fleet against a fresh server.

    With `twice` each tensor list is sent in both of its places, as stock engines do for the sake of older servers.
    """
    made = Fleet(tensors, twice=twice)
    url = f"sqlite:{folder / 'peerload.sqlite'}"
    chance = random.Random(1)
    apart = chance.sample(range(workers), min(_GETS, workers))
    with served(url, front) as server:
        idle = server.memory()
        seconds, times = 0.0, []
        for first in range(0, workers, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, workers))
            told = _once(server.address, [(f"{P2P}PublishMetadata", made.request(number)) for number in numbers])
            seconds += told.seconds
            times += told.all_times
        answer = asked(server.address, f"{P2P}PublishMetadata", made.request(0))
        source_id = p2p_pb2.PublishMetadataResponse.FromString(answer).mx_source_id
        beaten = _once(server.address, [(f"{P2P}UpdateStatus", made.update(source_id, at)) for at in range(workers)])
        question = (f"{P2P}ListSources", list_request(made.identity))
        (lists,) = generate(server.address, 0, Load([question] * _LISTS, connections=1, each=_LISTS))
        fetched = _once(server.address, [(f"{P2P}GetMetadata", made.get(source_id, at)) for at in apart])
        again = _once(server.address, [(f"{P2P}GetMetadata", made.get(source_id, at % RANKS)) for at in apart])
        listed = asked(server.address, *question)
        memory = server.memory()
    files = sum(path.stat().st_size for path in folder.glob("peerload.sqlite*"))
    with served(url, front) as server:
        restarted = server.started
    return Measured(
        request_bytes=len(made.request(workers - 1)),
        publish_rate=len(times) / seconds,
        publish_times=times,
        heartbeat_rate=beaten.rate,
        list_times=lists.all_times,
        list_bytes=len(listed),
        listed=len(p2p_pb2.ListSourcesResponse.FromString(listed).instances),
        get_rate=fetched.rate,
        get_again_rate=again.rate,
        server_bytes=(memory - idle) / workers,
        file_bytes=files / workers,
        restart_seconds=restarted,
    )


def measure(setting: Setting) -> Iterator[Figure]:
    """A tenth as many workers as there are records elsewhere."""
    workers, tensors, front = setting.records // 10, 1_500, setting.fronts[-1]
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        told = fleet(workers, tensors, Path(folder), front)
    if told.listed != workers:
        raise RuntimeError(f"{told.listed:,} of {workers:,} workers are listed")
    figure = partial(Figure, row="scale", store="sqlite", front=front)
    less = partial(figure, less=True)
    yield figure(
        case=f"{workers:,} publications of {told.request_bytes / 1e3:.0f} kB", unit="/s", value=told.publish_rate,
        percentiles=percentiles(told.publish_times),
    )  # fmt: skip
    yield figure(case="a heartbeat of each, once", unit="/s", value=told.heartbeat_rate)
    lists = percentiles(told.list_times)
    yield less(
        case=f"a list of all, {told.list_bytes / 1e3:.0f} kB", unit="ms", value=lists["50"], percentiles=lists
    )  # fmt: skip
    yield figure(case=f"manifests, {tensors:,} tensors, for the first time", unit="/s", value=told.get_rate)
    yield figure(case=f"manifests of {RANKS} workers, again", unit="/s", value=told.get_again_rate)
    yield less(case="memory of a worker, with the manifests at hand", unit="kB", value=told.server_bytes / 1e3)
    yield less(case="disk of a worker", unit="kB", value=told.file_bytes / 1e3)
    yield less(case="start over all of them", unit="s", value=told.restart_seconds)
