"""The whole server against a plain dictionary: random publications, updates, removals, clock moves and restarts.

Everything goes through gRPC to a server in this process, on a clock driven by hand, over every store.
`HYPOTHESIS_PROFILE=long` looks a hundred times longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peerload.store.base import Store
from peerload.store.memory import MemoryStore
from peerload.store.sqlite import SqliteStore
from peerload.testing import ManualClock
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id
from tests.support.house import House
from tests.support.kube import ControlPlane
from tests.support.kube.clocked import ClockedKubernetesStore
from tests.support.live import publication, ready
from tests.support.redis import HandTimedRedisStore, RedisProcess

TIMEOUT = 20.0
REAPER = 5.0
GC = 200.0
GRACE = 150.0
SETTLE = TIMEOUT + GRACE
"""After an outage of the server, for how long the reaper marks nothing and absence may be in doubt."""
SHORT_OUTAGE = 5.0
"""Shorter absences of the server count as time in which heartbeats could have come."""
SLACK = 2.5
"""Seconds by which stored stamps of life lag behind, and with them what counts as an outage."""
REFRESH_DELAY = 1.0
"""Heartbeats that are answered at once are stored, and listed, within a second."""

MODELS = ("org/a", "org/b")
WORKERS = ("w1", "w2", "w/3\n")
RANKS = (0, 1, 7)
READY, STALE = p2p_pb2.SOURCE_STATUS_READY, p2p_pb2.SOURCE_STATUS_STALE
STATUSES = (p2p_pb2.SOURCE_STATUS_UNKNOWN, p2p_pb2.SOURCE_STATUS_INITIALIZING, READY, STALE)

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
KINDS = {"memory": 20, "sqlite": 10, "redis": 5, "kubernetes": 3}
"""How many examples, by the kind of store."""
EXAMPLES = dict.fromkeys(KINDS, 1500) if LONG else KINDS
STEPS = 60 if LONG else 40

Key = tuple[str, str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Beat:
    """A heartbeat: after how much server uptime, when, and the load that came with it."""

    uptime: float
    wall_ms: int
    load: float | None


@dataclass
class Record:
    """One (source, worker, rank) as the model knows it."""

    edition: int
    status: p2p_pb2.SourceStatus
    beats: list[Beat]
    """The last heartbeat; before it, while it may not be stored yet, those before."""
    in_doubt: bool = False
    """Whether the server was killed before all of them were known to be stored."""
    outages: list[float] = field(default_factory=list)
    """How long the server was away, each time, since the last heartbeat."""

    def beat(self, beat: Beat, *, durable: bool) -> None:
        self.beats = [beat] if durable else [*self.beats, beat]
        self.outages = []


Instances: TypeAlias = set[tuple[str, str, int, int]]
Manifests: TypeAlias = dict[tuple[str, str], p2p_pb2.GetMetadataResponse]


class Fleet(RuleBasedStateMachine):
    """The machine; its subclasses name the store."""

    kind: ClassVar[str]
    pace: ClassVar[float] = 0.0
    """How often the store wants heartbeats (`Store.pace`): all that has to do with them is later by so much."""
    redis: ClassVar[RedisProcess]
    kube: ClassVar[ControlPlane]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="peerload-model-")
        self.clock = ManualClock()
        self.first, self.first_wall_ms = self.clock.monotonic(), self.clock.wall_ms()
        memory = MemoryStore(self.clock)
        self.url = {
            "redis": lambda: self.redis.fresh_url(),
            "kubernetes": lambda: self.kube.fresh_namespace().store_url(),
        }.get(self.kind, lambda: "")()

        def make_store() -> Store:
            if self.kind == "memory":
                return memory
            if self.kind == "redis":
                return HandTimedRedisStore(self.url, self.clock, self.wall_ms)
            if self.kind == "kubernetes":
                return ClockedKubernetesStore(self.url, self.clock, self.wall_ms)
            return SqliteStore(Path(self.folder.name) / "peerload.sqlite", self.clock)

        self.house = House(self.clock, make_store, heartbeat_timeout=TIMEOUT, reaper_interval=REAPER, gc_timeout=GC)
        self.records: dict[Key, Record] = {}
        self.editions = 0
        self.down = 0.0
        self.started = 0.0
        self.restarted = False
        self.watched: dict[Key, tuple[int, int]] = {}
        self.token = ""
        self.watcher: asyncio.Task[None] | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def wall_ms(self) -> int:
        """What the host's clock would say if nobody had set it."""
        return self.first_wall_ms + round((self.clock.monotonic() - self.first) * 1000)

    @property
    def uptime(self) -> float:
        return self.clock.monotonic() - self.down

    def beat_now(self, load: float | None = None) -> Beat:
        return Beat(self.uptime, self.wall_ms(), load)

    @initialize()
    def begin(self) -> None:
        self.run(self._up())

    def teardown(self) -> None:
        try:
            self.run(self._down(kill=False))
        finally:
            self.run(self.loop.shutdown_asyncgens())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()

    async def _up(self) -> None:
        await self.house.start()
        self.started = self.uptime
        self.watcher = asyncio.create_task(self._watch())

    async def _down(self, *, kill: bool) -> None:
        if not self.house.up:
            return
        await (self.house.kill() if kill else self.house.stop())
        if self.watcher is not None:
            await asyncio.wait([self.watcher], timeout=20)
            assert self.watcher.done(), "the watch did not end with the server"
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                self.watcher.result()

    async def _watch(self) -> None:
        """Fold what the stream tells into what it says is there."""
        async for data in self.house.watch(self.token):
            event = sources_pb2.WatchResponse.FromString(data)
            self.token = event.resume_token
            if event.complete:
                self.watched.clear()
            for source in event.present:
                self.watched[key_of(source)] = (source.status, int(source.topology["edition"]))
            for gone in event.gone:
                del self.watched[key_of(gone)]

    # What may happen

    @rule(
        model=st.sampled_from(MODELS),
        worker=st.sampled_from(WORKERS),
        rank=st.sampled_from(RANKS),
        status=st.sampled_from(STATUSES),
    )
    def publish(self, model: str, worker: str, rank: int, status: p2p_pb2.SourceStatus) -> None:
        self.editions += 1
        request = publication(model, worker, rank=rank, status=status, tensors=self.editions % 5)
        request.worker.topology["edition"] = str(self.editions)
        beat = self.beat_now()
        answer = self.run(self.house.publish(request))
        assert answer.success, answer.message
        key = (answer.mx_source_id, worker, rank)
        self.records[key] = Record(self.editions, status, [beat])

    @rule(
        model=st.sampled_from(MODELS),
        worker=st.sampled_from(WORKERS),
        rank=st.sampled_from(RANKS),
        status=st.sampled_from((READY, READY, READY, *STATUSES)),
        load=st.sampled_from((None, 0.0, 0.5)),
    )
    def update(self, model: str, worker: str, rank: int, status: p2p_pb2.SourceStatus, load: float | None) -> None:
        key = (id_of(model), worker, rank)
        self.forget_if_gone(key)
        self._update(key, status, load)

    def _update(self, key: Key, status: p2p_pb2.SourceStatus, load: float | None) -> None:
        record = self.records.get(key)
        beat = self.beat_now(load)
        known = self.run(self.house.update(key[0], key[1], status, rank=key[2], load=load))
        assert known == (record is not None), f"{key}: {known}, but {record}"
        if record is not None:
            # Only a refresh of the same status may be answered before it is stored.
            record.beat(beat, durable=record.status != status)
            record.status = status

    @precondition(lambda self: self.records)
    @rule()
    def everybody_beats(self) -> None:
        for key, record in list(self.records.items()):
            if record.status != STALE and self.must_exist(record):
                self._update(key, record.status, None)

    @rule(
        model=st.sampled_from(MODELS),
        worker=st.sampled_from(WORKERS),
        rank=st.one_of(st.none(), st.sampled_from(RANKS)),
    )
    def withdraw(self, model: str, worker: str, rank: int | None) -> None:
        matching = [
            key for key in self.records if key[:2] == (id_of(model), worker) and (rank is None or key[2] == rank)
        ]
        for key in matching:
            self.forget_if_gone(key)
        expected = any(key in self.records for key in matching)
        assert self.run(self.house.withdraw(id_of(model), worker, rank)) == expected
        for key in matching:
            self.records.pop(key, None)

    @rule(seconds=st.sampled_from((0.3, 1.0, 4.0, 11.0, 21.0, 45.0, 200.0)))
    def time_passes(self, seconds: float) -> None:
        self.run(self.house.advance(seconds))
        if seconds >= REFRESH_DELAY + self.pace:
            self.all_is_stored()

    def all_is_stored(self) -> None:
        for record in self.records.values():
            del record.beats[:-1]

    @rule(patience=st.integers(0, 9))
    def nobody_speaks_for_long(self, patience: int) -> None:
        """So long that whoever is silent is marked, and then removed, whatever outages there were. Seldom."""
        if patience != 9:
            return
        self.run(self.house.advance(SETTLE + TIMEOUT + GC + 4 * REAPER))
        self.all_is_stored()

    @rule(kill=st.booleans(), seconds=st.sampled_from((0.0, 2.0, 30.0, 600.0)))
    def server_is_away(self, kill: bool, seconds: float) -> None:
        self.run(self._down(kill=kill))
        self.clock.set_wall_ms(self.wall_ms())
        if not kill:
            self.all_is_stored()
        for record in self.records.values():
            record.in_doubt = len(record.beats) > 1
            record.outages.append(seconds)
        self.run(self.clock.advance(seconds))
        self.down += seconds
        self.restarted = True
        self.run(self._up())

    @rule(jump=st.sampled_from((-3_600_000, 0, 3_600_000)))
    def wall_clock_steps(self, jump: int) -> None:
        """The host's wall clock is set wrong, or right again; elapsed time is what counts."""
        self.clock.set_wall_ms(self.wall_ms() + jump)

    # What must hold

    def ages(self, record: Record) -> tuple[float, float]:
        """The least and the most that the age of a record's heartbeat may be reckoned at, in seconds."""
        least = self.uptime - record.beats[-1].uptime
        first = record.beats[0]
        slack, short = SLACK + self.pace, max(SHORT_OUTAGE, 3 * self.pace)
        uncounted = sum(slack if away > short + slack else away for away in record.outages)
        return least - slack * len(record.outages), self.uptime - first.uptime + uncounted

    def statuses(self, record: Record) -> set[p2p_pb2.SourceStatus]:
        """What the server may show."""
        least, most = self.ages(record)
        allowed = {record.status}
        if most >= TIMEOUT - 1:
            allowed.add(STALE)
        if least > TIMEOUT + 1:
            allowed = {STALE}
        return allowed

    def must_exist(self, record: Record) -> bool:
        return self.ages(record)[1] < TIMEOUT + GC - 1

    def must_be_gone(self, record: Record) -> bool:
        silent = min(self.uptime - record.beats[-1].uptime, self.uptime - self.started)
        return silent > SETTLE + TIMEOUT + GC + 3 * REAPER

    def forget_if_gone(self, key: Key) -> None:
        """Whether a record that fell silent long ago is still there is for the server to say."""
        record = self.records.get(key)
        if record is not None and not self.must_exist(record):
            listed = {key_of(source) for source in self.run(self.house.sources()).sources}
            if key not in listed:
                del self.records[key]

    @invariant()
    def lists_agree(self) -> None:
        if self.house.up:
            self.run(self._lists_agree())

    async def _one_moment(self) -> tuple[sources_pb2.ListResponse, Instances, Instances, Manifests]:
        """Every list and manifest, asked while nothing changed: a stored heartbeat may still be on its way through the feed."""
        after = await self.house.sources()
        for _ in range(50):
            before = after
            everything = instances((await self.house.list(p2p_pb2.ListSourcesRequest())).instances)
            # Without a ready source this may be held (and this clock stands still), so it is asked for only with one.
            some = any(map(all_ready, by_worker(before).values()))
            fresh = instances((await self.house.list(ready())).instances) if some else set()
            manifests = {group: await self.house.get(*group) for group in by_worker(before)}
            after = await self.house.sources()
            if after.sources == before.sources:
                return after, everything, fresh, manifests
        raise AssertionError("the lists change although time stands still")

    async def _lists_agree(self) -> None:
        answer, everything, fresh, manifests = await self._one_moment()
        listed = {key_of(source): source for source in answer.sources}
        assert len(listed) == len(answer.sources), "a source is listed twice"
        assert answer.now == pytest.approx(self.wall_ms(), abs=1000)
        for key, record in list(self.records.items()):
            if key not in listed:
                assert not self.must_exist(record), f"{key} is lost"
                del self.records[key]
        assert set(listed) == set(self.records)
        for key, record in self.records.items():
            shown = listed[key]
            load = shown.source_load if shown.HasField("source_load") else None
            if record.in_doubt:
                kept = [beat for beat in record.beats if beat.wall_ms <= shown.updated_at]
                assert kept, f"{key}: a heartbeat that was stored is lost"
                # Of several in one millisecond it may be any: the load tells which.
                last = [beat for beat in kept if beat.wall_ms == kept[-1].wall_ms]
                record.beats = [beat for beat in last if beat.load == load][-1:] or last
                record.in_doubt = False
            assert not self.must_be_gone(record), f"{key} was to be removed long ago"
            assert shown.status in self.statuses(record), f"{key}: {shown.status}, {record}, {self.ages(record)}"
            assert shown.topology["edition"] == str(record.edition)
            assert shown.item_count == record.edition % 5
            assert load in {beat.load for beat in record.beats}
            # Stamps of one key grow even where the clock does not.
            assert record.beats[0].wall_ms <= shown.updated_at <= record.beats[-1].wall_ms + 1_000
        self._instances_agree(answer, everything, fresh, manifests)
        await self._watch_agrees(listed)

    def _instances_agree(
        self, answer: sources_pb2.ListResponse, everything: Instances, fresh: Instances, manifests: Manifests
    ) -> None:
        """ListSources shows a worker id's ranks as one, with a status only if all of them have it."""
        groups = by_worker(answer)
        assert everything == {instance_of(group, ranks) for group, ranks in groups.items()}
        assert fresh == {instance_of(group, ranks) for group, ranks in groups.items() if all_ready(ranks)}
        for group, ranks in groups.items():
            found = manifests[group]
            lowest = min(ranks, key=lambda source: source.worker_rank)
            assert found.found
            assert (found.worker.worker_rank, found.worker.status) == (lowest.worker_rank, lowest.status)
            assert found.worker.topology["edition"] == lowest.topology["edition"]
            assert len(found.worker.tensor_source.tensors) == lowest.item_count

    async def _watch_agrees(self, listed: dict[Key, sources_pb2.Source]) -> None:
        expected = {key: (source.status, int(source.topology["edition"])) for key, source in listed.items()}
        for _ in range(400):
            if self.watched == expected:
                return
            await asyncio.sleep(0.005)
        assert self.watcher is not None
        assert not self.watcher.done(), self.watcher
        assert self.watched == expected

    @rule()
    def ask_who_is_ready(self) -> None:
        """An empty READY list is a fact; it may be refused only while an outage is recent."""
        try:
            answer = self.run(self.house.list(ready()))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
            assert self.restarted
            assert self.uptime - self.started < SETTLE + 60
            return
        if not answer.instances:
            for record in self.records.values():
                held_back = len([key for key in self.records if self.records[key] is not record]) > 0
                assert self.statuses(record) != {READY} or held_back

    @rule(
        model=st.sampled_from((None, *MODELS)),
        rank=st.sampled_from((None, *RANKS)),
        limit=st.sampled_from((None, 0, 1, 2)),
        by_name=st.booleans(),
    )
    def list_with_filters(self, model: str | None, rank: int | None, limit: int | None, by_name: bool) -> None:
        everything = self.run(self.house.sources()).sources
        groups: dict[tuple[str, str], list[sources_pb2.Source]] = {}
        for source in everything:
            if model is None or source.model_name == model:
                groups.setdefault((source.source_id, source.worker_id), []).append(source)
        expected = {
            (*group, rank if rank is not None else min(ranks), min(source.updated_at for source in members))
            for group, members in groups.items()
            if (ranks := [source.worker_rank for source in members]) and (rank is None or rank in ranks)
        }
        request = p2p_pb2.ListSourcesRequest(worker_rank_filter=rank, limit=limit)
        if model is not None and by_name:
            request.model_name_filter = model
        elif model is not None:
            request.identity.CopyFrom(publication(model).identity)
        answer = self.run(self.house.list(request)).instances
        if not limit:
            assert instances(answer) == expected
        else:
            stamps = [ref.updated_at for ref in answer]
            assert stamps == sorted((stamp for *_, stamp in expected), reverse=True)[:limit]
            assert instances(answer) <= expected


def key_of(source: sources_pb2.Source | sources_pb2.SourceRef) -> Key:
    return source.source_id, source.worker_id, source.worker_rank


def id_of(model: str) -> str:
    return source_id(publication(model).identity)


def by_worker(answer: sources_pb2.ListResponse) -> dict[tuple[str, str], list[sources_pb2.Source]]:
    groups: dict[tuple[str, str], list[sources_pb2.Source]] = {}
    for source in answer.sources:
        groups.setdefault((source.source_id, source.worker_id), []).append(source)
    return groups


def all_ready(ranks: list[sources_pb2.Source]) -> bool:
    return all(source.status == READY for source in ranks)


def instance_of(worker: tuple[str, str], ranks: list[sources_pb2.Source]) -> tuple[str, str, int, int]:
    return (*worker, min(source.worker_rank for source in ranks), min(source.updated_at for source in ranks))


def instances(refs: Any) -> Instances:
    found = [(ref.mx_source_id, ref.worker_id, ref.worker_rank, ref.updated_at) for ref in refs]
    assert len(found) == len(set(found))
    return set(found)


class MemoryFleet(Fleet):
    """Over a memory store that outlives the server."""

    kind = "memory"


class SqliteFleet(Fleet):
    """Over a file."""

    kind = "sqlite"


class RedisFleet(Fleet):
    """Over a namespace of a real Redis."""

    kind = "redis"


class KubernetesFleet(Fleet):
    """Over a namespace of a real Kubernetes."""

    kind = "kubernetes"
    pace = 3.0


@pytest.fixture
def fleet_kube(shared_kube: ControlPlane) -> None:
    Fleet.kube = shared_kube


@pytest.fixture
def fleet_redis(shared_redis: RedisProcess) -> None:
    Fleet.redis = shared_redis


def length(kind: str) -> settings:
    return settings(
        # Making a failure smaller takes minutes; its steps are printed as they are, and the long profile shrinks them.
        phases=tuple(Phase) if LONG else (Phase.explicit, Phase.reuse, Phase.generate),
        max_examples=EXAMPLES[kind],
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


MemoryFleet.TestCase.settings = length("memory")
SqliteFleet.TestCase.settings = length("sqlite")
RedisFleet.TestCase.settings = length("redis")
KubernetesFleet.TestCase.settings = length("kubernetes")
TestMemory = pytest.mark.timeout(0 if LONG else 300)(MemoryFleet.TestCase)
TestSqlite = pytest.mark.timeout(0 if LONG else 300)(SqliteFleet.TestCase)
TestKubernetes = pytest.mark.usefixtures("fleet_kube")(
    pytest.mark.timeout(0 if LONG else 300)(KubernetesFleet.TestCase)
)
TestRedis = pytest.mark.usefixtures("fleet_redis")(pytest.mark.timeout(0 if LONG else 300)(RedisFleet.TestCase))
