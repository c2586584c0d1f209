"""Those who call, each in a thread of its own, and write down what they were told."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from peerload.wire import p2p_pb2, sources_pb2
from tests.support.histories.records import INITIALIZING, READY, Look, Piece, State, Told, Watch, Write
from tests.support.live import Rpc, code_of, publication

__all__ = ["ANCHOR", "RIVAL", "Anchor", "Client", "Recorder", "Rival", "Watcher", "look", "publish"]

ANCHOR = "anchor"
"""A worker that is always there."""
RIVAL = "rival"
"""A worker id that two clients publish under."""
BEAT = 0.8
"""Seconds between two heartbeats of a worker that lives."""
ABANDON = 3.0
"""Every so often a client lets one of its workers die."""
PATIENCE = (0.3, 1.0, 8.0)
UNSURE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
SOURCES = "/peerload.v1.SourceService"

_T = TypeVar("_T")


class Recorder(threading.Thread):
    """A thread that runs until `over`; what broke it is kept."""

    def __init__(self, name: str, over: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.over = over
        self.broken: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.broken = error
            raise

    def work(self) -> None:
        """What it does."""
        raise NotImplementedError

    def stop(self) -> None:
        """Called once it is over."""


def timed(call: Callable[[], _T]) -> tuple[float, float, _T | None]:
    """When a call began and ended, and its answer; None if it is not known what came of it."""
    begun = time.monotonic()
    answer: _T | None = None
    try:
        answer = call()
    except grpc.RpcError as error:
        if code_of(error) not in UNSURE:
            raise
    return begun, time.monotonic(), answer


def publish(rpc: Rpc, worker_id: str, step: int, **more: Any) -> str:
    """Publish so that everybody is shown which publication it is; the source id."""
    request = publication(worker_id=worker_id)
    request.worker.accelerator = str(step)
    answer = rpc.publish(request, **more)
    assert answer.success
    return answer.mx_source_id


def look(rpc: Rpc, server: int, *, ready: bool, patience: float) -> Look:
    """A list of everything, or of what is READY."""
    selector = sources_pb2.Selector(status=p2p_pb2.SOURCE_STATUS_READY) if ready else sources_pb2.Selector()
    request = sources_pb2.ListRequest(selector=selector)
    begun, ended, answer = timed(
        lambda: rpc.call(f"{SOURCES}/List", request, sources_pb2.ListResponse, timeout=patience)
    )
    shown = None if answer is None else _shown(answer.sources)
    return Look(server, begun, ended, shown, ready, patience=patience)


def _shown(sources: Sequence[sources_pb2.Source]) -> dict[str, State]:
    return {source.worker_id: State(int(source.accelerator), int(source.status)) for source in sources}


@dataclass
class _Own:
    """A worker of one client, as far as that knows."""

    status: int
    beaten: float


class Client(Recorder):
    """Publishes, withdraws, marks and keeps alive workers of its own, and looks, at a random server each time."""

    def __init__(
        self,
        number: int,
        rpcs: Sequence[Rpc],
        over: threading.Event,
        seed: int,
        source: str,
        steps: itertools.count[int],
    ) -> None:
        super().__init__(f"client{number}", over)
        self.writes: list[Write] = []
        self.looks: list[Look] = []
        self._random = random.Random(seed)
        self._rpcs = rpcs
        self._source = source
        self._steps = steps
        self._names = (f"{self.name}-{n}" for n in itertools.count())
        self._workers: dict[str, _Own | None] = {next(self._names): None for _ in range(3)}
        self._abandon = time.monotonic() + self._random.uniform(0, ABANDON)

    def work(self) -> None:
        steps = (self._publish, self._publish, self._withdraw, self._mark, self._list, self._list, self._get)
        while not self.over.wait(self._random.uniform(0, 0.03)):
            now = time.monotonic()
            server = self._random.randrange(len(self._rpcs))
            patience = self._random.choice(PATIENCE)
            tired = min(self._workers, key=lambda each: own.beaten if (own := self._workers[each]) else now)
            held = self._workers[tired]
            if held is not None and now > self._abandon:
                self._abandon = now + self._random.uniform(0, 2 * ABANDON)
                self._replace(tired)
            elif held is not None and now - held.beaten > BEAT:
                self._set(tired, server, held.status, patience)
            else:
                self._random.choice(steps)(self._random.choice(list(self._workers)), server, patience)

    def _replace(self, worker_id: str) -> None:
        """Say no more of a worker."""
        del self._workers[worker_id]
        self._workers[next(self._names)] = None

    def _wrote(self, write: Write) -> bool:
        self.writes.append(write)
        if write.answer is None:
            # It may yet happen, whenever the server that was asked goes on.
            self._replace(write.worker_id)
        return write.answer is not None

    def _publish(self, worker_id: str, server: int, patience: float) -> None:
        step = next(self._steps)
        begun, ended, answer = timed(lambda: publish(self._rpcs[server], worker_id, step, timeout=patience))
        done = None if answer is None else True
        if self._wrote(Write("publish", worker_id, server, begun, ended, done, step, patience=patience)):
            self._workers[worker_id] = _Own(READY, ended)

    def _withdraw(self, worker_id: str, server: int, patience: float) -> None:
        begun, ended, answer = timed(lambda: self._rpcs[server].withdraw(self._source, worker_id, timeout=patience))
        if self._wrote(Write("withdraw", worker_id, server, begun, ended, answer, patience=patience)):
            self._workers[worker_id] = None

    def _mark(self, worker_id: str, server: int, patience: float) -> None:
        self._set(worker_id, server, self._random.choice((READY, INITIALIZING)), patience)

    def _set(self, worker_id: str, server: int, status: int, patience: float) -> None:
        begun, ended, answer = timed(lambda: mark(self._rpcs[server], self._source, worker_id, status, patience))
        write = Write("mark", worker_id, server, begun, ended, answer, status=status, patience=patience)
        if self._wrote(write) and self._workers[worker_id] is not None:
            self._workers[worker_id] = _Own(status, ended)

    def _list(self, _: str, server: int, patience: float) -> None:
        self.looks.append(look(self._rpcs[server], server, ready=self._random.random() < 0.5, patience=patience))

    def _get(self, worker_id: str, server: int, patience: float) -> None:
        begun, ended, answer = timed(lambda: self._rpcs[server].get(self._source, worker_id, timeout=patience))
        shown = None
        if answer is not None:
            worker = answer.worker
            shown = {worker_id: State(int(worker.accelerator), int(worker.status))} if answer.found else {}
        self.looks.append(Look(server, begun, ended, shown, only=worker_id, patience=patience))


def mark(rpc: Rpc, source: str, worker_id: str, status: int, patience: float) -> bool:
    """A status, or a heartbeat."""
    request = p2p_pb2.UpdateStatusRequest(mx_source_id=source, worker_id=worker_id, status=status)  # type: ignore[arg-type]
    return rpc.update(request, timeout=patience).success


class Anchor(Recorder):
    """Keeps one worker alive, at a random server each time."""

    def __init__(self, rpcs: Sequence[Rpc], over: threading.Event, seed: int, source: str, first: Write) -> None:
        super().__init__(ANCHOR, over)
        self.writes = [first]
        self._random = random.Random(seed)
        self._rpcs = rpcs
        self._source = source

    def work(self) -> None:
        while not self.over.wait(0.2):
            server = self._random.randrange(len(self._rpcs))
            rpc = self._rpcs[server]
            begun, ended, answer = timed(lambda rpc=rpc: mark(rpc, self._source, ANCHOR, READY, 0.5))
            self.writes.append(Write("mark", ANCHOR, server, begun, ended, answer, status=READY))


class Rival(Recorder):
    """Publishes under a key that is another's too."""

    def __init__(
        self, number: int, rpcs: Sequence[Rpc], over: threading.Event, seed: int, steps: itertools.count[int]
    ) -> None:
        super().__init__(f"rival{number}", over)
        self.writes: list[Write] = []
        self._random = random.Random(seed)
        self._rpcs = rpcs
        self._steps = steps

    def work(self) -> None:
        while not self.over.wait(self._random.uniform(0, 0.3)):
            server, step = self._random.randrange(len(self._rpcs)), next(self._steps)
            rpc = self._rpcs[server]
            patience = self._random.choice(PATIENCE)
            begun, ended, answer = timed(
                lambda rpc=rpc, step=step, patience=patience: publish(rpc, RIVAL, step, timeout=patience)
            )
            done = None if answer is None else True
            self.writes.append(Write("publish", RIVAL, server, begun, ended, done, step, patience=patience))


class Watcher(Recorder):
    """Watches at one server, for as long as there is anything to watch, and then again."""

    def __init__(self, server: int, rpc: Rpc, over: threading.Event, seed: int, *, ready: bool) -> None:
        super().__init__(f"watcher at {server}", over)
        self.watches: list[Watch] = []
        self._random = random.Random(seed)
        self._server = server
        self._rpc = rpc
        self._ready = ready
        self._stream: Any = None
        self._token = ""

    def work(self) -> None:
        while not self.over.wait(0.05):
            token = self._token if self._random.random() < 0.7 else ""
            selector = sources_pb2.Selector(status=p2p_pb2.SOURCE_STATUS_READY) if self._ready else None
            request = sources_pb2.WatchRequest(selector=selector, resume_token=token)
            self._stream = self._rpc.channel.unary_stream(f"{SOURCES}/Watch")(request.SerializeToString())
            self._follow(self._stream)

    def stop(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def _follow(self, stream: Any) -> None:
        piece: Piece | None = None
        try:
            for data in stream:
                answer = sources_pb2.WatchResponse.FromString(data)
                told = Told(
                    time.monotonic(),
                    answer.complete,
                    _shown(answer.present),
                    tuple(reference.worker_id for reference in answer.gone),
                )
                self._token = answer.resume_token
                if piece is not None:
                    piece.told.append(told)
                    continue
                piece = Piece([told], told.at)
                if told.complete or not self.watches:
                    self.watches.append(Watch(self._server, self._ready, []))
                self.watches[-1].pieces.append(piece)
        except grpc.RpcError as error:
            if code_of(error) not in (*UNSURE, grpc.StatusCode.CANCELLED):
                raise
        finally:
            if piece is not None:
                piece.ended = time.monotonic()
