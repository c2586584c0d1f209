"""Sources that fall silent are asked whether they are there; what they answer counts only where it proves something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerload.metadata.publications.addresses import Address
from peerload.metadata.publications.publication import Publication
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.upkeep.dial import Answer
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from peerload.wire import p2p_pb2
from tests.metadata.publications import SOURCE, identity, worker

READY = Query(source_id=SOURCE, status=Status.READY, instances=True)


class Network:
    """Who listens where, and who was asked; an answer may be held back until `release`."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.default = Answer.NOTHING
        self.asked: list[str] = []
        self.hosts: list[str] = []
        self._gate = asyncio.Event()
        self._gate.set()
        self.at_once = self.most_at_once = 0

    def hold(self) -> None:
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    async def dial(self, address: Address, worker_host: str) -> Answer:
        self.asked.append(address.host)
        self.hosts.append(worker_host)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self._gate.wait()
        self.at_once -= 1
        return self.answers.get(address.host, self.default)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
async def backend(network: Network) -> AsyncIterator[FakeMetadataBackend]:
    async with FakeMetadataBackend(dial=network.dial) as fake:
        yield fake


def listening(worker_id: str = "w1", *hosts: str, rank: int = 0, **more: str) -> Publication:
    """What a stock worker publishes, reached at these hosts (else at one of its own name)."""
    message = worker(rank, topology=more)
    addresses = [f"{host}:5555" for host in hosts or (worker_id,)]
    message.worker_grpc_endpoint = addresses[0]
    message.metadata_endpoint = addresses[-1]
    return Publication.of(identity(), message, worker_id)


async def ready(backend: FakeMetadataBackend) -> list[str]:
    """The workers in a READY list, as stock clients get it."""
    listed = p2p_pb2.ListSourcesResponse.FromString(await backend.list_refs(READY)).instances
    return [ref.worker_id for ref in listed]


async def beat(backend: FakeMetadataBackend, worker_id: str = "w1") -> None:
    assert await backend.update_status(SOURCE, worker_id, 0, Status.READY)
    await backend.settle()


async def test_a_source_that_is_gone_leaves_soon_after_its_heartbeat_is_due(
    backend: FakeMetadataBackend, network: Network
) -> None:
    await backend.publish(listening("w1", host="h1"))
    await backend.publish(listening("w2"))
    network.answers = {"w1": Answer.REFUSED, "w2": Answer.ACCEPTED}
    events = backend.watch(Query(status=Status.READY))
    assert len((await anext(events)).present) == 2
    await backend.clock.advance(34)
    assert network.asked == []
    await backend.clock.advance(2)
    assert sorted(network.asked) == ["w1", "w2"]
    assert sorted(network.hosts) == ["", "h1"]
    assert await ready(backend) == ["w2"]
    assert (await anext(events)).gone == (SourceKey(SOURCE, 0, "w1"),)
    await events.aclose()
    gone = await backend.stored(SOURCE, "w1")
    assert gone is not None
    assert gone.record.status is Status.STALE
    # It is this server's finding alone: the store knows of nothing, and the reaper waits for the heartbeat to run out.
    entry = await backend.store.store.get(listening("w1").key.encode())
    assert entry is not None
    assert entry.value["status"] == "READY"
    assert backend.directory.expired() == []
    await backend.clock.advance(60)
    assert [key for key, _ in backend.directory.expired()] == [
        listening("w1").key.encode(),
        listening("w2").key.encode(),
    ]


@pytest.mark.parametrize("answer", [Answer.NOTHING, Answer.ACCEPTED])
async def test_what_proves_nothing_changes_nothing(
    backend: FakeMetadataBackend, network: Network, answer: Answer
) -> None:
    network.default = answer
    await backend.publish(listening())
    await backend.clock.advance(88)
    assert await ready(backend) == ["w1"]
    assert network.asked == ["w1", "w1"], "once an interval"
    await backend.clock.advance(4)
    assert await ready(backend) == []


async def test_every_address_must_refuse(backend: FakeMetadataBackend, network: Network) -> None:
    await backend.publish(listening("w1", "gone", "there"))
    await backend.publish(listening("w2", "gone", "silent"))
    await backend.publish(listening("w3", "gone", "away"))
    network.answers = {"gone": Answer.REFUSED, "away": Answer.REFUSED, "there": Answer.ACCEPTED}
    await backend.clock.advance(36)
    assert await ready(backend) == ["w1", "w2"]


async def test_fresh_sources_are_not_asked(backend: FakeMetadataBackend, network: Network) -> None:
    network.default = Answer.REFUSED
    await backend.publish(listening())
    for _ in range(5):
        await backend.clock.advance(30)
        await beat(backend)
    assert await ready(backend) == ["w1"]
    assert network.asked == []


async def test_nor_are_others(backend: FakeMetadataBackend, network: Network) -> None:
    """Those that offer nothing now, and those of which nobody knows where they listen (older records)."""
    network.default = Answer.REFUSED
    await backend.publish(Publication.of(identity(), worker(status=Status.INITIALIZING), "w1"))
    message = worker()
    message.metadata_endpoint = ""
    await backend.publish(Publication.of(identity(), message, "w2"))
    await backend.clock.advance(80)
    assert network.asked == []


async def test_a_heartbeat_newer_than_the_question_wins(backend: FakeMetadataBackend, network: Network) -> None:
    network.default = Answer.REFUSED
    await backend.publish(listening())
    network.hold()
    await backend.clock.advance(36)
    assert network.asked == ["w1"]
    await beat(backend)
    network.release()
    await backend.clock.settle()
    assert await ready(backend) == ["w1"]
    # It would be heeded another time: nothing was refused to a worker that lived.
    await backend.clock.advance(36)
    assert await ready(backend) == []


async def test_a_publication_newer_than_the_question_wins(backend: FakeMetadataBackend, network: Network) -> None:
    network.default = Answer.REFUSED
    await backend.publish(listening())
    network.hold()
    await backend.clock.advance(36)
    await backend.publish(listening())
    network.release()
    await backend.clock.settle()
    assert await ready(backend) == ["w1"]


async def test_withdrawn_while_it_is_asked(backend: FakeMetadataBackend, network: Network) -> None:
    network.default = Answer.REFUSED
    await backend.publish(listening())
    network.hold()
    await backend.clock.advance(36)
    assert await backend.withdraw(SOURCE, "w1")
    network.release()
    await backend.clock.settle()
    assert await ready(backend) == []


async def test_a_heartbeat_brings_it_back_and_what_refused_is_not_heeded_again(
    backend: FakeMetadataBackend, network: Network
) -> None:
    """Behind a firewall that refuses the server, every source would come and go with its heartbeats."""
    network.default = Answer.REFUSED
    await backend.publish(listening())
    await backend.clock.advance(36)
    assert await ready(backend) == []
    events = backend.watch(READY)
    assert (await anext(events)).present == ()
    await beat(backend)
    assert await ready(backend) == ["w1"]
    assert [record.key.worker_id for record in (await anext(events)).present] == ["w1"]
    await events.aclose()
    await backend.clock.advance(80)
    assert await ready(backend) == ["w1"]
    assert len(network.asked) == 1
    # Published anew, it is another process's.
    await backend.publish(listening())
    await backend.clock.advance(36)
    assert await ready(backend) == []


async def test_a_late_heartbeat_from_before_the_question_does_not(
    backend: FakeMetadataBackend, network: Network
) -> None:
    """Of a worker that beat at another server just before it died, and was reported at this one."""
    network.default = Answer.REFUSED
    await backend.publish(listening())
    async with FakeMetadataBackend(
        store=FaultyStore(backend.store.store), clock=backend.clock, dial=Network().dial
    ) as other:
        backend.store.hang("watch")
        await backend.clock.advance(1)
        await beat(other)
        since = backend.directory.now() + 5_000
        held = backend.directory.get(listening().key.encode())
        assert held is not None
        assert backend.directory.refused(listening().key.encode(), held.record.generation, since)
        backend.store.heal()
        await backend.clock.advance(2)
        assert held.heard <= since
        assert await ready(backend) == []
        assert await ready(other) == ["w1"], "each server finds out for itself"


async def test_without_the_store_nobody_is_judged(backend: FakeMetadataBackend, network: Network) -> None:
    network.default = Answer.REFUSED
    await backend.publish(listening())
    await backend.clock.advance(20)
    backend.store.hang("watch", "touch")
    await backend.clock.advance(60)
    assert network.asked == []
    backend.store.heal()
    await backend.clock.advance(3)
    assert network.asked == [], "time in which no heartbeat could arrive does not count"
    await beat(backend)
    await backend.clock.advance(36)
    assert network.asked == ["w1"]


async def test_turned_off(network: Network) -> None:
    network.default = Answer.REFUSED
    off = MetadataSettings(probe=False)
    async with FakeMetadataBackend(settings=off, dial=network.dial) as backend:
        await backend.publish(listening())
        await backend.clock.advance(88)
        assert await ready(backend) == ["w1"]
        assert network.asked == []
        assert not backend.directory.expiry.quiet
        await backend.clock.advance(4)
        assert await ready(backend) == []


async def test_an_empty_list_that_refusals_made_is_no_doubt(network: Network) -> None:
    clock = ManualClock()
    store = FaultyStore(MemoryStore(clock))
    async with FakeMetadataBackend(store=store, clock=clock, dial=network.dial) as first:
        await first.publish(listening())
        await first.clock.advance(10)
    clock.jump(1_000)
    network.default = Answer.REFUSED
    async with FakeMetadataBackend(store=store, clock=clock, dial=network.dial) as second:
        assert await ready(second) == ["w1"]
        await clock.advance(36)
        assert network.asked == ["w1"]
        assert await ready(second) == [], "answered at once: that nobody listens is known"


async def test_many_silent_ones_are_asked_a_few_at_a_time(backend: FakeMetadataBackend, network: Network) -> None:
    for number in range(200):
        await backend.publish(listening(f"w{number}"))
    network.hold()
    await backend.clock.advance(40)
    assert network.most_at_once == len(network.asked) == 64
    network.default = Answer.REFUSED
    network.release()
    await backend.clock.advance(1)
    assert 64 < len(network.asked) <= 64 + 51
    await backend.clock.advance(3)
    assert sorted(network.asked) == sorted(f"w{number}" for number in range(200))
    assert await ready(backend) == []
    assert len(backend.prober._turns) <= 200  # type: ignore[union-attr]
    await backend.clock.advance(60)
    assert not backend.prober._turns  # type: ignore[union-attr]
    assert not backend.directory.expiry.quiet


steps = st.lists(
    st.tuples(
        st.sampled_from(["publish", "beat", "hold", "release", "die", "live", "report", "withdraw"]),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.5, 6.0, 34.0, 40.0]),
    ),
    max_size=25,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_whatever_happens_the_living_are_listed(history: list[tuple[str, int, float]]) -> None:
    """A worker that was heard from since it was last found dead is listed; one that is listed was heard from in time."""

    async def play() -> None:
        network = Network()
        network.default = Answer.ACCEPTED
        async with FakeMetadataBackend(dial=network.dial) as backend:
            heard: dict[str, int] = {}
            dead: dict[str, float] = {}
            for step, number, seconds in history:
                name = f"w{number}"
                match step:
                    case "publish":
                        network.answers.pop(name, None)
                        dead.pop(name, None)
                        await backend.publish(listening(name))
                        heard[name] = backend.now()
                    case "beat" if name in heard and name not in dead:
                        await beat(backend, name)
                        heard[name] = backend.now()
                    case "hold":
                        network.hold()
                    case "release":
                        network.release()
                    case "die":
                        network.answers[name] = Answer.REFUSED
                        dead[name] = backend.now()
                    case "live":
                        network.answers.pop(name, None)
                        dead.pop(name, None)
                    case "report" if backend.prober is not None:
                        backend.prober.report(listening(name).key.encode())
                    case "withdraw" if name in heard:
                        await backend.withdraw(SOURCE, name)
                        del heard[name]
                await backend.clock.advance(seconds)
                now = backend.now()
                listed = set(await ready(backend))
                for each, stamp in heard.items():
                    if each not in dead and now - stamp < 34_000 and stamp > now - seconds * 1000 - 300:
                        assert each in listed, "heard from in this very step"
                    if now - stamp > 91_000:
                        assert each not in listed
                assert listed <= heard.keys()
            network.release()
            await backend.clock.advance(40)
            assert not set(await ready(backend)) & {
                name for name in dead if name in heard and not _unheeded(backend, name)
            }

    asyncio.run(play())


def _unheeded(backend: FakeMetadataBackend, name: str) -> bool:
    held = backend.directory.get(listening(name).key.encode())
    return held is not None and not held.judgeable
