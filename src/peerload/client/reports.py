"""Telling the server how reads from sources ended: in the background, and only if it costs nobody any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, cast

from peerload.client.connection import Connection
from peerload.client.measures import MEASURES
from peerload.client.sources import SourceInfo
from peerload.client.transfer import SourceBusy
from peerload.errors import Fault, PeerloadError, TransferFailed, VerificationFailed
from peerload.metadata.transfers import Outcome
from peerload.wire import sources_pb2, transfers_pb2

__all__ = ["Reader", "Reports"]

_log: Final = logging.getLogger("peerload.client")
_DEADLINE_S: Final = 2.0
_LAST_WORDS_S: Final = 0.5
"""How long a client that is closed waits for reports that are on their way."""
_MOST: Final = 32
"""Reports on their way; further ones are dropped."""
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


class Reports:
    """The reports of one client, to the server that `connection` gives. Belongs to one event loop."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection
        self._sending: set[asyncio.Task[None]] = set()
        self._closed = False

    @contextlib.contextmanager
    def attempt(self, reader: Reader, source: SourceInfo, engine: str, verified: Callable[[], int]) -> Iterator[None]:
        """Report how the block ends, in which `source` is read; `verified` counts the bytes that are right. A block that is
        cancelled, or ends for a reason of the reader's own, says nothing about the source."""
        loop = asyncio.get_running_loop()
        begun, before = loop.time(), verified()
        outcome = Outcome.UNSPECIFIED
        try:
            yield
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
            MEASURES.read(engine, outcome, max(0, verified() - before), loop.time() - begun)
            if outcome is not Outcome.UNSPECIFIED:
                transfer = transfers_pb2.Transfer(
                    source=sources_pb2.SourceRef(
                        source_id=source.source_id, worker_id=source.worker_id, worker_rank=source.worker_rank
                    ),
                    outcome=cast(transfers_pb2.Outcome, int(outcome)),
                    bytes=max(0, verified() - before),
                    seconds=loop.time() - begun,
                    engine=engine,
                    target=transfers_pb2.Target(worker_id=reader.worker_id, worker_rank=reader.rank, host=reader.host),
                )
                self._send(transfers_pb2.ReportRequest(transfers=[transfer]))

    async def close(self) -> None:
        """Let reports that are on their way arrive, but not for long; send no more."""
        self._closed = True
        sending = list(self._sending)
        if sending:
            _, late = await asyncio.wait(sending, timeout=_LAST_WORDS_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _send(self, request: transfers_pb2.ReportRequest) -> None:
        if not self._closed and len(self._sending) < _MOST:
            task = asyncio.get_running_loop().create_task(self._report(request), name="peerload-report")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _report(self, request: transfers_pb2.ReportRequest) -> None:
        try:
            await self._connection().report(request, timeout=_DEADLINE_S)
        except PeerloadError as error:
            _log.debug("a report was not taken: %s", error)
