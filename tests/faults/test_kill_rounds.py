"""kill -9 of the server at random moments of a stream of publications, withdrawals and changes of status.

`make scale` does ten times as many rounds; `PEERLOAD_FAULT_ROUNDS` says how many, and `PEERLOAD_FAULT_SEED` repeats them.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from peerload.wire import p2p_pb2
from peerload.wire.identity import source_id
from tests.support.live import LiveServer, Rpc, code_of, publication, ready
from tests.support.server import store_url

ROUNDS = int(os.environ.get("PEERLOAD_FAULT_ROUNDS", "20"))
SEED = int(os.environ.get("PEERLOAD_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
SHARES = {"sqlite": 1, "kubernetes": 5}
"""The stores, and by how much fewer the rounds are that their time allows."""
WRITERS = 3
WORKERS = 4
"""Worker ids of each writer; each is written by that writer alone, so its order is known."""
ACKNOWLEDGED = 25
"""At most so many operations are acknowledged in a round before the server is killed."""

STATUSES = (p2p_pb2.SOURCE_STATUS_INITIALIZING, p2p_pb2.SOURCE_STATUS_READY, p2p_pb2.SOURCE_STATUS_STALE)


@dataclass(frozen=True)
class State:
    """What one worker's record holds: which publication, and which status since."""

    edition: int
    status: p2p_pb2.SourceStatus


@dataclass
class Worker:
    """One worker's record as its writer knows it: the acknowledged state, and what else it may be now."""

    worker_id: str
    rank: int
    known: State | None = None
    perhaps: list[State | None] = field(default_factory=list)


def request_of(worker: Worker, state: State) -> p2p_pb2.PublishMetadataRequest:
    """A publication that repeats its edition everywhere, so that halves of two never look whole."""
    edition = state.edition
    request = publication(f"org/model-{worker.rank % 2}", worker.worker_id, rank=worker.rank, tensors=0)
    request.worker.nixl_metadata = b"%d" % edition * (1 + edition % 50 * 200)
    request.worker.accelerator = f"edition-{edition}"
    request.worker.topology["edition"] = str(edition)
    request.worker.status = state.status
    for number in range(edition % 40):
        request.worker.tensor_source.tensors.add(name=f"{edition}.{number}", addr=edition, size=number)
    return request


class Writer(threading.Thread):
    """Writes at random until the server is gone; what it was doing then is in doubt."""

    def __init__(self, address: str, workers: list[Worker], seed: int, acknowledged: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._workers = workers
        self._random = random.Random(seed)
        self._acknowledged = acknowledged
        self._edition = max([0, *(state.edition for one in workers for state in [one.known] if state)])
        self.trouble: BaseException | None = None

    def run(self) -> None:
        with Rpc(self._address) as rpc:
            try:
                while True:
                    self._step(rpc)
                    self._acknowledged.release()
            except grpc.RpcError as error:
                if code_of(error) is not grpc.StatusCode.UNAVAILABLE:
                    self.trouble = error
            except BaseException as error:
                self.trouble = error
            finally:
                self._acknowledged.release(ACKNOWLEDGED)

    def _step(self, rpc: Rpc) -> None:
        worker = self._random.choice(self._workers)
        kind = self._random.choices(("publish", "status", "withdraw"), (5, 4, 2))[0]
        before = worker.known
        if kind == "publish" or before is None:
            self._edition += self._random.randrange(1, 7)
            after: State | None = State(self._edition, self._random.choice(STATUSES))
        elif kind == "status":
            after = State(before.edition, self._random.choice(STATUSES))
        else:
            after = None
        worker.perhaps = [before, after]
        self._perform(rpc, worker, before, after)
        worker.known, worker.perhaps = after, []

    def _perform(self, rpc: Rpc, worker: Worker, before: State | None, after: State | None) -> None:
        identity = publication(f"org/model-{worker.rank % 2}").identity
        if after is None:
            assert rpc.withdraw(source_id(identity), worker.worker_id, worker.rank)
        elif before is not None and before.edition == after.edition:
            update = p2p_pb2.UpdateStatusRequest(
                mx_source_id=source_id(identity),
                worker_id=worker.worker_id,
                worker_rank=worker.rank,
                status=after.status,
            )
            answer = rpc.update(update)
            assert answer.success, answer.message
        else:
            published = rpc.publish(request_of(worker, after))
            assert published.success, published.message


def held_by(rpc: Rpc, worker: Worker) -> State | None:
    """What the server holds of this worker: one whole publication, or nothing."""
    answer = rpc.get(source_id(publication(f"org/model-{worker.rank % 2}").identity), worker.worker_id)
    if not answer.found:
        return None
    state = State(int(answer.worker.accelerator.removeprefix("edition-")), answer.worker.status)
    expected = request_of(worker, state)
    answer.worker.updated_at = 0
    assert answer.worker == expected.worker, "a record of two halves"
    assert answer.identity == expected.identity
    return state


def check(rpc: Rpc, workers: list[Worker], note: str) -> None:
    """Everything acknowledged is there, what was in doubt is there wholly or not at all, and the lists agree."""
    listed = {ref.worker_id: dict(ref.topology)["edition"] for ref in rpc.list(p2p_pb2.ListSourcesRequest()).instances}
    alive = {ref.worker_id for ref in rpc.list(ready()).instances}
    for worker in workers:
        held = held_by(rpc, worker)
        allowed = worker.perhaps or [worker.known]
        assert held in allowed, f"{note}: {worker.worker_id} is {held}, not one of {allowed}"
        assert listed.get(worker.worker_id) == (str(held.edition) if held else None), note
        assert (worker.worker_id in alive) == (held is not None and held.status == p2p_pb2.SOURCE_STATUS_READY), note
        worker.known, worker.perhaps = held, []


@pytest.fixture(params=SHARES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    # No heartbeats are sent here for as long as the whole test takes.
    with LiveServer(store_url(request, tmp_path), environment={"MX_HEARTBEAT_TIMEOUT_SECS": "36000"}) as live:
        yield live.start()


@pytest.mark.timeout(60 + 60 * ROUNDS)
@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(10 * ROUNDS, marks=pytest.mark.scale)])
def test_nothing_acknowledged_is_lost_and_nothing_is_half(server: LiveServer, rounds: int) -> None:
    print(f"PEERLOAD_FAULT_SEED={SEED}")
    chance = random.Random(SEED)
    groups = [[Worker(f"writer{w}/worker\n{n}", rank=10 * w + n) for n in range(WORKERS)] for w in range(WRITERS)]
    everybody = [worker for group in groups for worker in group]
    for number in range(max(1, rounds // SHARES[server.store.partition(":")[0]])):
        acknowledged = threading.Semaphore(0)
        writers = [Writer(server.address, group, chance.getrandbits(32), acknowledged) for group in groups]
        for writer in writers:
            writer.start()
        for _ in range(chance.randint(0, ACKNOWLEDGED)):
            assert acknowledged.acquire(timeout=30)
        server.kill()
        for writer in writers:
            writer.join(30)
            assert not writer.is_alive()
            assert writer.trouble is None, writer.trouble
        server.start()
        with Rpc(server.address) as rpc:
            check(rpc, everybody, f"seed {SEED}, round {number}")
