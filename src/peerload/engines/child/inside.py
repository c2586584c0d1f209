"""A child that is none: a thread of this process, for device memory, which no other process can be given.

It does on its thread what a child does (`peerload.engines.child.run`), and is told so in the same words. But nothing ends it in
the middle of a library's read. Destinations that it may still be writing to when it has to be given up are poisoned: kept alive and
refused, until the read is known to be over.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from peerload.engines.base import DeviceMemory, Range
from peerload.engines.child import message
from peerload.engines.child.driver import ChildError
from peerload.engines.child.process import Child
from peerload.engines.child.run import complain
from peerload.errors import InvalidArgument

__all__ = ["DeviceView", "ThreadChild", "check_device_destinations", "poisoned"]

_END_S: Final = 1.0
"""How long a read that nobody wants any more is waited for."""

_lock = threading.Lock()
_poisoned: dict[ThreadChild, tuple[DeviceMemory, ...]] = {}


@dataclass(frozen=True, slots=True)
class DeviceView:
    """Device memory as a job holds it, beside the views of host memory."""

    memory: DeviceMemory

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.memory.nbytes

    def release(self) -> None:
        """Its owner stays the caller's."""


def poisoned() -> list[DeviceMemory]:
    """Memory that a library of this process may still be writing to, though nobody wants it any more."""
    with _lock:
        return [each for memory in _poisoned.values() for each in memory]


def check_device_destinations(ranges: Sequence[Range], destinations: Sequence[object]) -> list[DeviceMemory]:
    """The destinations, one a range, each on a device, of the range's size, and not poisoned; else `InvalidArgument`."""
    if len(ranges) != len(destinations):
        raise InvalidArgument("destinations", f"{len(destinations)} destinations for {len(ranges)} ranges")
    bad = sorted((each.device, each.address, each.address + each.nbytes) for each in poisoned())
    memory: list[DeviceMemory] = []
    for index, (wanted, each) in enumerate(zip(ranges, destinations, strict=True)):
        field = f"destinations[{index}]"
        if not isinstance(each, DeviceMemory):
            raise InvalidArgument(field, "is in host memory; a read goes to one kind of memory")
        if each.nbytes != wanted.length:
            raise InvalidArgument(field, f"holds {each.nbytes} bytes, its range has {wanted.length}")
        for device, begin, end in bad:
            if device == each.device and begin < each.address + each.nbytes and each.address < end:
                raise InvalidArgument(field, "an earlier read that was given up may still be writing to this memory")
        memory.append(each)
    return memory


class ThreadChild(Child):
    """`run` gets the other end of the socket; `writes_to` is what it may write to."""

    def __init__(self, what: str, run: Callable[[socket.socket], None], writes_to: Sequence[DeviceMemory] = ()) -> None:
        ours, self._theirs = message.pair()
        super().__init__(what, ours)
        self._run = run
        self._writes_to = tuple(writes_to)
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="peerload-device", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # Over already.
            self.sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """See `Child.end`; but what cannot be ended is poisoned."""
        self.kill()
        self._thread.join(_END_S)
        with _lock:
            # Under the lock, so that a thread that ends at this moment finds what it has to take back.
            if not self._ended and self._writes_to:
                _poisoned[self] = self._writes_to
        self.sock.close()

    def _work(self) -> None:
        try:
            self._run(self._theirs)
        except ChildError as error:
            complain(self._theirs, error)
        except ConnectionError:
            pass  # The owner hung up.
        finally:
            with _lock:
                self._ended = True
                _poisoned.pop(self, None)
            self._theirs.close()
