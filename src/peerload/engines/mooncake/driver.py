"""What children do with Mooncake's TransferEngine: one engine each, for one publication. See `peerload.engines.child.driver`.

After an error the child is gone: a batch that failed breaks the next one too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from peerload.engines.child.driver import ChildError, Span
from peerload.engines.mooncake.library import library

__all__ = ["preload", "source", "target"]

_BATCH: Final = 1024
"""Requests that Mooncake takes at a time."""
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

    def progress(self) -> bool:
        return False  # Its own threads see to it.


class _Target(_Engine):
    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self._peer = ""

    def connect(self, reach: bytes) -> None:
        self._peer = reach.decode()

    def hold(self, span: Span) -> None:
        self._register(span)

    def drop(self, span: Span) -> None:
        if status := self._engine.unregister_memory(span.address):
            raise ChildError(f"Mooncake did not unregister {span.nbytes:,} bytes: {status}")

    def read(self, rows: memoryview) -> None:
        table = rows.tolist()
        theirs: list[int] = []
        ours: list[int] = []
        lengths: list[int] = []
        for source, place, nbytes in zip(table[0::5], table[2::5], table[4::5], strict=True):
            for at in range(0, nbytes, _PIECE):
                theirs.append(source + at)
                ours.append(place + at)
                lengths.append(min(_PIECE, nbytes - at))
        for at in range(0, len(lengths), _BATCH):
            some = slice(at, at + _BATCH)
            status = self._engine.batch_transfer_sync_read(self._peer, ours[some], theirs[some], lengths[some])
            if status:
                raise ChildError(f"Mooncake's read failed, it says no more than {status}")
