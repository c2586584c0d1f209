"""What children do with Mooncake's TransferEngine: one engine each, for one publication. See `peerload.engines.child.driver`.

After an error the child is gone: a batch that failed breaks the next one too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peerload.engines.child.driver import ChildError, Span
from peerload.engines.mooncake.library import library

__all__ = ["preload", "source", "target"]

_BATCH: Final = 1024
"""Requests that Mooncake takes at a time, in all that is under way: with more it fails, and stands still now and then."""
_NO_BATCH: Final = 1 << 63
"""The number of a batch is an address; those from here on are errors, which are negative to Mooncake."""
_ASLEEP: Final = 0.6
"""Of the time that the last read was waited for, the part in which nobody looks after this one."""
_LONGEST_S: Final = 0.05
_PIECE: Final = 2 * 1024 * 1024
"""Bytes of a request at most: those of a batch run side by side, so one that is alone is cut."""


def preload() -> None:
    """Nothing: the library starts threads when it is imported."""


def source(settings: Mapping[str, Any]) -> _Source:
    """The side that serves."""
    return _Source(settings)


def target(settings: Mapping[str, Any]) -> _Target:
    """The side that reads."""
    return _Target(settings)


class _Engine:
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._host: str = settings["host"]
        try:
            self._engine: Any = library().TransferEngine()
        except ImportError as error:
            raise ChildError(f"Mooncake cannot be loaded: {error}") from None
        # Its peers ask itself how it is reached: nobody keeps a register.
        status = self._engine.initialize(self._host, "P2PHANDSHAKE", settings["protocol"], settings["device"])
        if status:
            raise ChildError(f"Mooncake's engine does not start at {self._host}: {status}")

    def _register(self, span: Span) -> None:
        if status := self._engine.register_memory(span.address, span.nbytes):
            raise ChildError(f"Mooncake did not register {span.nbytes:,} bytes: {status}")


class _Source(_Engine):
    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.writes = settings["protocol"] == "rdma"

    def offer(self, places: Sequence[Span]) -> bytes:
        for span in places:
            self._register(span)
        return f"{self._host}:{self._engine.get_rpc_port()}".encode()

    def progress(self) -> None:
        """Its own threads see to it."""


@dataclass(eq=False, slots=True)
class _Batch:
    """Requests under way. Its number is an address, and another's later on."""

    number: int
    requests: int


class _Target(_Engine):
    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self._peer = ""
        self._begun: list[_Batch] = []
        self._took = 0.0
        """Seconds that the last read was waited for."""

    def connect(self, reach: bytes) -> None:
        self._peer = reach.decode()

    def hold(self, span: Span) -> None:
        self._register(span)

    def drop(self, span: Span) -> None:
        if status := self._engine.unregister_memory(span.address):
            raise ChildError(f"Mooncake did not unregister {span.nbytes:,} bytes: {status}")

    def begin(self, rows: memoryview) -> Callable[[], None]:
        table = rows.tolist()
        theirs: list[int] = []
        ours: list[int] = []
        lengths: list[int] = []
        for source, place, nbytes in zip(table[0::5], table[2::5], table[4::5], strict=True):
            for at in range(0, nbytes, _PIECE):
                theirs.append(source + at)
                ours.append(place + at)
                lengths.append(min(_PIECE, nbytes - at))
        batches: list[_Batch] = []
        for at in range(0, len(lengths), _BATCH):
            some = slice(at, at + _BATCH)
            batches.append(self._submit(ours[some], theirs[some], lengths[some]))
        return lambda: self._end(batches)

    def _submit(self, ours: list[int], theirs: list[int], lengths: list[int]) -> _Batch:
        while self._begun and len(lengths) + sum(each.requests for each in self._begun) > _BATCH:
            self._end([self._begun[0]])
        number = self._engine.batch_transfer_async_read(self._peer, ours, theirs, lengths)
        if not 0 < number < _NO_BATCH:
            raise ChildError(f"Mooncake did not begin to read, it says no more than {number}")
        batch = _Batch(number, len(lengths))
        self._begun.append(batch)
        return batch

    def _end(self, batches: Sequence[_Batch]) -> None:
        """Wait for those that were not waited for yet."""
        for batch in batches:
            if batch not in self._begun:
                continue
            self._begun.remove(batch)
            # Mooncake looks without a pause, on a core that its own threads may need. What comes next is begun already, so that to
            # look a little late costs nothing.
            begin = time.monotonic()
            time.sleep(_ASLEEP * self._took)
            status = self._engine.get_batch_transfer_status([batch.number])
            self._took = min(time.monotonic() - begin, _LONGEST_S)
            if status:
                raise ChildError(f"Mooncake's read failed, it says no more than {status}")
