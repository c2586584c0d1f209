"""What clients of three servers over one Redis were told, while servers and Redis are killed, stopped and continued.

Every call is recorded with its times and its answer; afterwards the histories are held against what must be true:

- nothing whose publication was acknowledged is lost;
- nothing whose withdrawal was acknowledged is found: at once at the server that answered, within moments elsewhere;
- an outage is never an answer: where anything is published, no list is empty;
- no older status stands over a newer one.

The seed is printed; PEERLOAD_HISTORY_SEED and PEERLOAD_HISTORY_SECONDS choose another, and a longer run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from peerload.wire import p2p_pb2
from tests.support.live import LiveServer, Rpc, code_of, eventually, publication
from tests.support.redis import RedisProcess, redis_process

SECONDS = float(os.environ.get("PEERLOAD_HISTORY_SECONDS", "12"))
SEED = int(os.environ.get("PEERLOAD_HISTORY_SEED", str(time.time_ns() % 1_000_000)))
SERVERS = 3
CLIENTS = 4
AGREE_SECONDS = 2.0
CALL_SECONDS = (0.3, 1.0, 8.0)
UNSURE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
ANCHOR = "anchor"


@dataclass
class Call:
    """One call: what, for whom, where, when it began and ended, and how; None: it is not known what came of it."""

    what: str
    worker_id: str
    server: int
    begun: float
    ended: float
    answer: object | None


class Client(threading.Thread):
    """Publishes, withdraws, lists and marks workers of its own, at a random server each time."""

    def __init__(self, number: int, rpcs: list[Rpc], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._random = random.Random(SEED * 100 + number)
        self._rpcs = rpcs
        self._over = over
        self.name = f"client{number}"
        self._fresh = 2
        self._workers = [f"{self.name}-{n}" for n in range(3)]
        self.source = ""
        self.history: list[Call] = []

    def run(self) -> None:
        while not self._over.wait(self._random.uniform(0, 0.03)):
            worker_id = self._random.choice(self._workers)
            step = self._random.choice(
                (self._publish, self._publish, self._withdraw, self._list, self._get, self._mark)
            )
            server = self._random.randrange(SERVERS)
            step(worker_id, server, self._rpcs[server])

    def _record(self, what: str, worker_id: str, server: int, call: Callable[[], object]) -> None:
        begun = time.monotonic()
        answer: object | None
        try:
            answer = call()
        except grpc.RpcError as error:
            if code_of(error) not in UNSURE:
                raise
            answer = None
            if what not in ("list", "get"):
                # It may yet happen, whenever the server that was asked goes on: no more is said of this worker.
                self._fresh += 1
                self._workers[self._workers.index(worker_id)] = f"{self.name}-{self._fresh}"
        self.history.append(Call(what, worker_id, server, begun, time.monotonic(), answer))

    def _patience(self) -> float:
        return self._random.choice(CALL_SECONDS)

    def _publish(self, worker_id: str, server: int, rpc: Rpc) -> None:
        def call() -> bool:
            answer = rpc.publish(publication(worker_id=worker_id), timeout=self._patience())
            self.source = answer.mx_source_id
            assert answer.success
            return True

        self._record("publish", worker_id, server, call)

    def _withdraw(self, worker_id: str, server: int, rpc: Rpc) -> None:
        if self.source:
            # Both answers say that it is gone.
            self._record(
                "withdraw",
                worker_id,
                server,
                lambda: rpc.withdraw(self.source, worker_id, timeout=self._patience()) in (True, False),
            )

    def _list(self, worker_id: str, server: int, rpc: Rpc) -> None:
        request = p2p_pb2.ListSourcesRequest()
        self._record(
            "list",
            worker_id,
            server,
            lambda: {ref.worker_id for ref in rpc.list(request, timeout=self._patience()).instances},
        )

    def _get(self, worker_id: str, server: int, rpc: Rpc) -> None:
        if self.source:
            self._record(
                "get", worker_id, server, lambda: rpc.get(self.source, worker_id, timeout=self._patience()).found
            )

    def _mark(self, worker_id: str, server: int, rpc: Rpc) -> None:
        if self.source:
            status = self._random.choice((p2p_pb2.SOURCE_STATUS_READY, p2p_pb2.SOURCE_STATUS_INITIALIZING))
            request = p2p_pb2.UpdateStatusRequest(mx_source_id=self.source, worker_id=worker_id, status=status)
            self._record(
                f"mark {status}", worker_id, server, lambda: rpc.update(request, timeout=self._patience()).success
            )


class Trouble:
    """Kills, stops and continues one process after another, all of which end with the thread that starts them."""

    def __init__(self, servers: list[LiveServer], redis: RedisProcess, over: threading.Event) -> None:
        self._random = random.Random(SEED)
        self._servers = servers
        self._redis = redis
        self._over = over
        self.done: list[str] = []

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._over.wait(self._random.uniform(0.5, 1.5))
            what = self._random.choice(("kill server", "stop server", "kill redis", "stop redis"))
            server = self._random.choice(self._servers)
            self.done.append(what)
            if what == "kill server":
                server.kill()
                self._over.wait(self._random.uniform(0, 1))
                server.start()
            elif what == "stop server":
                server.signal(signal.SIGSTOP)
                self._over.wait(self._random.uniform(0.1, 3))
                server.signal(signal.SIGCONT)
            elif what == "kill redis":
                self._redis.kill()
                self._over.wait(self._random.uniform(0, 1))
                self._redis.start()
            else:
                self._redis.pause()
                self._over.wait(self._random.uniform(0.1, 2))
                self._redis.resume()


def changes(history: list[Call]) -> dict[str, list[Call]]:
    """By worker: what its client did to it, in order; each worker has one client, which waits for every answer."""
    found: dict[str, list[Call]] = {}
    for call in history:
        if call.what in ("publish", "withdraw"):
            found.setdefault(call.worker_id, []).append(call)
    return found


def check(history: list[Call]) -> list[str]:
    """What a client was told that cannot be."""
    wrong = []
    # What is known of each worker: the last change, if it was acknowledged; an unanswered one leaves it open.
    last: dict[str, Call] = {}
    for call in history:
        if call.what in ("publish", "withdraw"):
            last[call.worker_id] = call
        elif call.answer is None:
            continue
        elif call.what == "list":
            assert isinstance(call.answer, set)
            if ANCHOR not in call.answer:
                wrong.append(f"the source that was always there is not listed by {call.server}: {call}")
            for worker_id, change in last.items():
                if change.answer is None or not certain(change, call):
                    continue
                if (worker_id in call.answer) != (change.what == "publish"):
                    wrong.append(f"{worker_id}: {change} and then {call}")
        else:
            change = last.get(call.worker_id)
            if change is None or change.answer is None or not certain(change, call):
                continue
            if bool(call.answer) != (change.what == "publish"):
                wrong.append(f"{call.worker_id}: {change} and then {call}")
    return wrong


def standing(clients: list[Client], rpc: Rpc) -> list[str]:
    """Workers whose status is not the last that was acknowledged."""
    wrong = []
    for client in clients:
        last: dict[str, str | None] = {}
        for call in client.history:
            if call.what in ("list", "get"):
                continue
            if call.what == "withdraw" or call.answer is None:
                last[call.worker_id] = None
            elif call.what == "publish":
                last[call.worker_id] = str(int(p2p_pb2.SOURCE_STATUS_READY))
            elif call.what.startswith("mark") and call.answer:
                last[call.worker_id] = call.what.removeprefix("mark ")
        for worker_id, status in last.items():
            if status is not None and str(int(rpc.get(client.source, worker_id).worker.status)) != status:
                wrong.append(f"{worker_id} should have status {status}")
    return wrong


def certain(change: Call, look: Call) -> bool:
    """Whether the one who looks must see the change."""
    return look.server == change.server or look.begun - change.ended > AGREE_SECONDS


@pytest.mark.timeout(0 if SECONDS > 60 else 180)
def test_nobody_is_told_what_is_not_so(tmp_path: Path) -> None:
    print(f"PEERLOAD_HISTORY_SEED={SEED}")
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_process(tmp_path, "--appendonly", "yes", "--appendfsync", "always"))
        servers = [stack.enter_context(LiveServer(redis.url)).start() for _ in range(SERVERS)]
        rpcs = [stack.enter_context(Rpc(server.address)) for server in servers]
        assert rpcs[0].publish(publication(worker_id=ANCHOR)).success
        for rpc in rpcs:
            eventually(lambda each=rpc: each.list(p2p_pb2.ListSourcesRequest()).instances)  # type: ignore[misc]
        clients = [Client(number, rpcs, over) for number in range(CLIENTS)]
        trouble = Trouble(servers, redis, over)
        for thread in clients:
            thread.start()
        trouble.run(SECONDS)
        over.set()
        for thread in clients:
            thread.join(60)
            assert not thread.is_alive(), "a call never ended"
        assert trouble.done
        wrong = [line for client in clients for line in check(client.history)]
        assert not wrong, "\n".join([f"seed {SEED}, {len(wrong)} contradictions after {trouble.done}", *wrong[:10]])

        # When all is well again, every server says the same, and it is what was acknowledged.
        final = {
            worker_id: calls[-1]
            for client in clients
            for worker_id, calls in changes(client.history).items()
            if calls[-1].answer is not None
        }
        must = {ANCHOR, *(worker_id for worker_id, call in final.items() if call.what == "publish")}
        must_not = {worker_id for worker_id, call in final.items() if call.what == "withdraw"}

        def agreed() -> bool:
            try:
                lists = [
                    {ref.worker_id for ref in rpc.list(p2p_pb2.ListSourcesRequest(), timeout=3).instances}
                    for rpc in rpcs
                ]
            except grpc.RpcError:
                return False
            return all(must <= each and not must_not & each and each == lists[0] for each in lists)

        eventually(agreed, within=30, what=f"the servers to agree (seed {SEED})")
        assert standing(clients, rpcs[0]) == []
        calls = [call for client in clients for call in client.history]
        answered = sum(call.answer is not None for call in calls)
        print(f"{len(calls)} calls, {answered} answered, {len(trouble.done)} troubles")
        assert answered > len(trouble.done)
