"""What workers tell of transfers among them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from peerload.errors import InvalidArgument, MissingField
from peerload.metadata.limits import MAX_TEXT_BYTES, MAX_WORKER_ID_BYTES, check_count, check_text
from peerload.metadata.publications.decoding import decoded
from peerload.metadata.records import SourceKey
from peerload.wire import transfers_pb2
from peerload.wire.identity import is_source_id

__all__ = ["MAX_TRANSFERS", "Outcome", "Reading", "Transfer"]

MAX_TRANSFERS: Final = 100
"""In one report."""
_MAX_ATTEMPT_BYTES: Final = 64


class Outcome(IntEnum):
    """How an attempt to read from a source ended; the numbers are `peerload.v1.Outcome`'s, and so are the meanings."""

    UNSPECIFIED = 0
    OK = 1
    REFUSED = 2
    UNREACHABLE = 3
    LOST = 4
    STALLED = 5
    CORRUPT = 6
    BUSY = 7
    FAILED = 8

    @property
    def failed(self) -> bool:
        """Whether the source did not do what it is there for."""
        return self not in (Outcome.UNSPECIFIED, Outcome.OK, Outcome.BUSY)

    @property
    def disputable(self) -> bool:
        """Whether it is about the way to the source, so that somebody else's connection there proves the contrary."""
        return self in (Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.LOST)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One attempt of one target to read from one source, after it has ended. Nothing in it is proven."""

    source: SourceKey
    outcome: Outcome
    nbytes: int
    """Those that arrived and were right."""
    seconds: float
    engine: str
    target_worker_id: str
    """Under which the target publishes what it read, if it does; else one that no record has."""
    target_rank: int
    target_host: str
    attempt: str = ""
    """Names it, as its progress did; empty where none was told."""

    @classmethod
    def from_report(cls, request: bytes) -> tuple[Transfer, ...]:
        """Those in an encoded `ReportRequest`. Raises `InvalidArgument`, naming the field."""
        message = decoded(transfers_pb2.ReportRequest, request)
        check_count("transfers", len(message.transfers), MAX_TRANSFERS, "transfers")
        return tuple(cls._checked(f"transfers[{index}]", each) for index, each in enumerate(message.transfers))

    @classmethod
    def _checked(cls, field: str, message: transfers_pb2.Transfer) -> Transfer:
        source = _checked(field, message)
        outcome = int(message.outcome)
        return cls(
            source=source,
            # Numbers that a newer client may send say nothing here.
            outcome=Outcome(outcome) if outcome in Outcome._value2member_map_ else Outcome.UNSPECIFIED,
            nbytes=message.bytes,
            seconds=message.seconds,
            engine=message.engine,
            target_worker_id=message.target.worker_id,
            target_rank=message.target.worker_rank,
            target_host=message.target.host,
            attempt=message.attempt,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """One attempt of one target to read from one source that has not ended. Nothing in it is proven."""

    attempt: str
    """Names it; no other attempt is called that."""
    source: SourceKey
    nbytes: int
    """So far."""
    total: int
    """Bytes that are to be read; 0: not known."""
    seconds: float
    engine: str
    target_worker_id: str
    """As in `Transfer`."""
    target_rank: int
    target_host: str
    abandoned: bool = False
    """Whether the reader gave up, which says nothing about the source."""

    @classmethod
    def from_progress(cls, request: bytes) -> tuple[Reading, ...]:
        """Those in an encoded `ProgressRequest`. Raises `InvalidArgument`, naming the field."""
        message = decoded(transfers_pb2.ProgressRequest, request)
        check_count("readings", len(message.readings), MAX_TRANSFERS, "readings")
        return tuple(cls._checked(f"readings[{index}]", each) for index, each in enumerate(message.readings))

    @classmethod
    def _checked(cls, field: str, message: transfers_pb2.Reading) -> Reading:
        if not message.attempt:
            raise MissingField(f"{field}.attempt")
        return cls(
            attempt=message.attempt,
            source=_checked(field, message),
            nbytes=message.bytes,
            total=message.total_bytes,
            seconds=message.seconds,
            engine=message.engine,
            target_worker_id=message.target.worker_id,
            target_rank=message.target.worker_rank,
            target_host=message.target.host,
            abandoned=message.abandoned,
        )


def _checked(field: str, message: transfers_pb2.Transfer | transfers_pb2.Reading) -> SourceKey:
    """Whom it was read from, once all that the two messages have in common was found good."""
    source, target = message.source, message.target
    if not source.source_id:
        raise MissingField(f"{field}.source.source_id")
    if not is_source_id(source.source_id):
        raise InvalidArgument(f"{field}.source.source_id", "is not a source id")
    if not source.worker_id:
        raise MissingField(f"{field}.source.worker_id")
    check_text(f"{field}.source.worker_id", source.worker_id, MAX_WORKER_ID_BYTES)
    check_text(f"{field}.target.worker_id", target.worker_id, MAX_WORKER_ID_BYTES)
    check_text(f"{field}.target.host", target.host, MAX_TEXT_BYTES)
    check_text(f"{field}.engine", message.engine, MAX_TEXT_BYTES)
    check_text(f"{field}.attempt", message.attempt, _MAX_ATTEMPT_BYTES)
    if not (math.isfinite(message.seconds) and message.seconds >= 0):
        raise InvalidArgument(f"{field}.seconds", "must be a number of seconds")
    return SourceKey(source.source_id, source.worker_rank, source.worker_id)
