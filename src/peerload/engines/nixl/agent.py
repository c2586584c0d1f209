"""One NIXL agent with what is asked of it: for both sides, in a child and (for device memory) in the process itself."""

from __future__ import annotations

import importlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from peerload.engines.child.driver import ChildError, Span
from peerload.engines.nixl import cuda
from peerload.engines.nixl.library import library

__all__ = ["NixlSource", "NixlTarget", "joined"]

_INFINIBAND: Final = Path("/sys/class/infiniband")
_HOT: Final = 100
"""Looks at a transfer before there are pauses between them."""
_PAUSE_S: Final = 0.0002


class _Agent:
    """An agent of its own name: a name is refused where it was seen before, and peers remember. It has no progress thread."""

    def __init__(self) -> None:
        api = library()
        self._np: Any = importlib.import_module("numpy")
        bindings = vars(api.nixlBind).values()
        self._errors = tuple(each for each in bindings if isinstance(each, type) and issubclass(each, Exception))
        config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self.name = f"peerload-{secrets.token_hex(12)}"
        try:
            self._agent: Any = api.nixl_agent(self.name, config)
        except self._errors as error:
            raise ChildError(f"no NIXL agent: {_words(error)}") from None

    def _register(self, spans: Sequence[Span]) -> list[Any]:
        made = []
        for on_device in (False, True):
            # Empty memory on a device has no address that UCX would know for one on a device.
            some = [each for each in spans if each.nbytes and (each.device is not None) is on_device]
            rows = joined(some, cuda.allocation_end if on_device else _anywhere)
            if rows:
                table = self._np.array(
                    [(each.address, each.nbytes, each.device or 0) for each in rows], self._np.uint64
                )
                try:
                    made.append(self._agent.register_memory(table, _KINDS[on_device]))
                except self._errors as error:
                    total = sum(each.nbytes for each in rows)
                    raise ChildError(f"NIXL did not register {total:,} bytes: {_words(error)}") from None
        return made


class NixlSource(_Agent):
    """Implements `SourceSide`."""

    @property
    def writes(self) -> bool:
        # RDMA devices register memory for reading and writing alike.
        return _INFINIBAND.is_dir() and any(_INFINIBAND.iterdir())

    def offer(self, places: Sequence[Span]) -> bytes:
        self._register(places)
        said: bytes = self._agent.get_agent_metadata()
        return said

    def progress(self) -> bool:
        try:
            return bool(self._agent.get_new_notifs())
        except self._errors:
            return False  # Of a reader that is gone; the others go on.


class NixlTarget(_Agent):
    """Implements `TargetSide`."""

    def __init__(self) -> None:
        super().__init__()
        self._peer = ""
        self._registered: dict[Span, list[Any]] = {}

    def connect(self, reach: bytes) -> None:
        try:
            self._peer = self._agent.add_remote_agent(reach)
        except self._errors as error:
            raise ChildError(f"NIXL cannot reach the source: {_words(error)}") from None

    def hold(self, span: Span) -> None:
        self._registered[span] = self._register([span])

    def drop(self, span: Span) -> None:
        try:
            for each in self._registered.pop(span):
                self._agent.deregister_memory(each)
        except self._errors as error:
            raise ChildError(f"NIXL did not deregister {span.nbytes:,} bytes: {_words(error)}") from None

    def begin(self, rows: memoryview) -> Callable[[], None] | None:
        np = self._np
        table = np.frombuffer(rows, dtype=np.uint64).reshape(-1, 5)
        theirs = self._descriptors(table[:, 0], table[:, 4], table[:, 1])
        ours = self._descriptors(table[:, 2], table[:, 4], table[:, 3])
        try:
            handle = self._agent.initialize_xfer("READ", ours, theirs, self._peer)
            state = self._agent.transfer(handle)
        except self._errors as error:
            raise ChildError(_words(error)) from None
        if state == "PROC":
            return lambda: self._end(handle)
        self._over(handle, state)
        return None

    def _end(self, handle: Any) -> None:
        """Wait for a read."""
        looks = 0
        try:
            while (state := self._agent.check_xfer_state(handle)) == "PROC":
                looks += 1
                if looks > _HOT:
                    time.sleep(_PAUSE_S)
        except self._errors as error:
            raise ChildError(_words(error)) from None
        self._over(handle, state)

    def _over(self, handle: Any, state: str) -> None:
        if state != "DONE":
            raise ChildError(f"NIXL says that the read is in state {state}")
        try:
            handle.release()
        except self._errors as error:
            raise ChildError(_words(error)) from None

    def _descriptors(self, addresses: Any, lengths: Any, devices: Any) -> Any:
        on_device = bool(devices[0])
        rows = self._np.column_stack((addresses, lengths, devices - self._np.uint64(on_device)))
        return self._agent.get_xfer_descs(rows, _KINDS[on_device])


def joined(spans: Iterable[Span], allocation_end: Callable[[int], int]) -> list[Span]:
    """The same memory in fewer pieces: each is a quarter of a kilobyte of metadata, and some time of the network's device.

    `allocation_end` says of an address where the allocation ends in which it lies. No piece goes beyond: UCX gives a device's memory to
    other processes by allocation, so that a read across two would leave the first.
    """
    pieces: list[Span] = []
    last, limit = Span(0, -1), 0
    for each in sorted(spans, key=lambda span: (span.device or 0, span.address)):
        end = each.address + each.nbytes
        if last.device == each.device and each.address <= last.address + last.nbytes and end <= limit:
            last = pieces[-1] = last._replace(nbytes=max(last.nbytes, end - last.address))
        else:
            limit = allocation_end(each.address)
            last = each
            pieces.append(each)
    return pieces


def _anywhere(address: int) -> int:
    return 1 << 64


_KINDS: Final = {False: "DRAM", True: "VRAM"}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
