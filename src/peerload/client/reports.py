"""Telling the server of reads from sources, while they last and how they ended: in the background, and only if it costs nobody
any time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, cast

from peerload.client.connection import Connection
from peerload.client.measures import MEASURES
from peerload.client.sources import SourceInfo
from peerload.client.transfer import SourceBusy
from peerload.clock import Clock
from peerload.errors import Fault, PeerloadError, TransferFailed, VerificationFailed
from peerload.metadata.transfers import MAX_TRANSFERS, Outcome
from peerload.wire import sources_pb2, transfers_pb2

__all__ = ["Reader", "Reports", "Under"]

_log: Final = logging.getLogger("peerload.client")
_DEADLINE_S: Final = 2.0
_LAST_WORDS_S: Final = 0.5
"""How long a client that is closed waits for reports that are on their way."""
_MOST: Final = 32
"""Reports on their way; further ones are dropped."""
_FIRST_S: Final = 0.25
"""A read that ends sooner is told of when it has ended."""
_LEAST_S, _LONGEST_S = 0.5, 60.0
"""Between two tellings, whatever the server asks for. While it does not answer, ever longer."""
_OUTCOMES: Final = {
    Fault.REFUSED: Outcome.REFUSED,
    Fault.UNREACHABLE: Outcome.UNREACHABLE,
    Fault.LOST: Outcome.LOST,
    Fault.STALLED: Outcome.STALLED,
    Fault.OURS: Outcome.UNSPECIFIED,
    Fault.OTHER: Outcome.FAILED,
}


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: the worker id is the one under which it publishes what it has read, if it does."""

    worker_id: str
    rank: int
    host: str


@dataclass(slots=True, eq=False)
class Under:
    """An attempt that is under way."""

    name: str
    reader: Reader
    source: SourceInfo
    engine: str
    verified: Callable[[], int]
    total: int
    """Bytes that are to be read; 0: not known."""
    begun: float
    before: int
    moved: int = 0
    """Bytes that arrived, for people to see; whoever reads sets it. They need not be verified yet."""

    @property
    def right(self) -> int:
        """Bytes that arrived and are verified."""
        return max(0, self.verified() - self.before)

    def reading(self, now: float, *, abandoned: bool = False) -> transfers_pb2.Reading:
        """How far it is."""
        return transfers_pb2.Reading(
            attempt=self.name,
            source=_ref(self.source),
            target=_target(self.reader),
            engine=self.engine,
            bytes=max(self.moved, self.right),
            total_bytes=self.total,
            seconds=now - self.begun,
            abandoned=abandoned,
        )

    def ended(self, now: float, outcome: Outcome, right: int) -> transfers_pb2.Transfer:
        """How it ended, and with how many bytes that are right."""
        return transfers_pb2.Transfer(
            source=_ref(self.source),
            outcome=cast(transfers_pb2.Outcome, int(outcome)),
            bytes=right,
            seconds=now - self.begun,
            engine=self.engine,
            target=_target(self.reader),
            attempt=self.name,
        )


class Reports:
    """The reports of one client, to the server that `connection` gives; with `enabled` false there are none. Belongs to one
    event loop."""

    def __init__(self, connection: Callable[[], Connection], clock: Clock, *, enabled: bool = True) -> None:
        self._connection = connection
        self._clock = clock
        self._enabled = enabled
        self._sending: set[asyncio.Task[None]] = set()
        self._under: dict[str, Under] = {}
        self._telling: asyncio.Task[None] | None = None
        self._not_before = 0.0
        """When the server wants to hear of what is under way again."""
        self._closed = False

    @contextlib.contextmanager
    def attempt(
        self, reader: Reader, source: SourceInfo, engine: str, verified: Callable[[], int], total: int = 0
    ) -> Iterator[Under]:
        """Report how far the block is, in which `source` is read, and how it ends; `verified` counts the bytes that are right,
        `total` is how many are to be read. A block that is cancelled, or ends for a reason of the reader's own, says nothing
        about the source."""
        loop = asyncio.get_running_loop()
        under = Under(uuid.uuid4().hex, reader, source, engine, verified, total, loop.time(), verified())
        self._begin(under)
        outcome = Outcome.UNSPECIFIED
        try:
            yield under
            outcome = Outcome.OK
        except VerificationFailed:
            outcome = Outcome.CORRUPT
            raise
        except SourceBusy:
            outcome = Outcome.BUSY
            raise
        except TransferFailed as failure:
            outcome = _OUTCOMES[failure.fault]
            raise
        finally:
            right = under.right
            MEASURES.read(engine, outcome, right, loop.time() - under.begun)
            self._end(under, outcome, right)

    async def close(self) -> None:
        """Let reports that are on their way arrive, but not for long; send no more."""
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        sending = list(self._sending)
        if sending:
            _, late = await asyncio.wait(sending, timeout=_LAST_WORDS_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, under: Under) -> None:
        if self._enabled and not self._closed:
            self._under[under.name] = under
            if self._telling is None or self._telling.done():
                self._telling = asyncio.get_running_loop().create_task(self._tell(), name="peerload-progress")

    def _end(self, under: Under, outcome: Outcome, right: int) -> None:
        if self._under.pop(under.name, None) is None:
            return
        now = asyncio.get_running_loop().time()
        if outcome is not Outcome.UNSPECIFIED:
            self._send(self._report(transfers_pb2.ReportRequest(transfers=[under.ended(now, outcome, right)])))
        elif now - under.begun >= _FIRST_S:
            self._send(self._progress([under.reading(now, abandoned=True)]))

    def _send(self, report: Coroutine[None, None, object]) -> None:
        if self._closed or len(self._sending) >= _MOST:
            report.close()
            return
        task = asyncio.get_running_loop().create_task(self._quietly(report), name="peerload-report")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _quietly(self, report: Coroutine[None, None, object]) -> None:
        try:
            await report
        except PeerloadError as error:
            _log.debug("a report was not taken: %s", error)

    async def _report(self, request: transfers_pb2.ReportRequest) -> None:
        await self._connection().report(request, timeout=_DEADLINE_S)

    async def _progress(self, readings: Iterable[transfers_pb2.Reading]) -> float:
        """Tell how far reads are; how many seconds to wait before telling again."""
        request = transfers_pb2.ProgressRequest(readings=readings)
        answer = await self._connection().progress(request, timeout=_DEADLINE_S)
        return min(max(answer.again_ms / 1000, _LEAST_S), _LONGEST_S)

    async def _tell(self) -> None:
        """Tell how far reads are, as long as there are any: all of them in one call, and one call at a time."""
        loop, pause = asyncio.get_running_loop(), _FIRST_S
        while self._under:
            await self._clock.sleep(max(_FIRST_S, self._not_before - self._clock.monotonic()))
            if not self._under:
                break
            now = loop.time()
            try:
                pause = await self._progress(
                    under.reading(now) for under in itertools.islice(self._under.values(), MAX_TRANSFERS)
                )
            except PeerloadError as error:
                _log.debug("progress was not taken: %s", error)
                pause = min(max(pause, _LEAST_S) * 2, _LONGEST_S)
            self._not_before = self._clock.monotonic() + pause


def _ref(source: SourceInfo) -> sources_pb2.SourceRef:
    return sources_pb2.SourceRef(source_id=source.source_id, worker_id=source.worker_id, worker_rank=source.worker_rank)


def _target(reader: Reader) -> transfers_pb2.Target:
    return transfers_pb2.Target(worker_id=reader.worker_id, worker_rank=reader.rank, host=reader.host)
