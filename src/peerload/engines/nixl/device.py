"""NIXL on device memory: in the process that owns it, since no other can be given it.

One agent for each publication with device memory, and for each read into some. Its environment is put together as a child's is, and
holds for this process only while the agent is made.
"""

from __future__ import annotations

import os
import socket
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from peerload.engines.base import DeviceMemory
from peerload.engines.child.driver import Span
from peerload.engines.child.inside import ThreadChild
from peerload.engines.child.memory import Reach
from peerload.engines.child.message import Message
from peerload.engines.child.process import Child
from peerload.engines.child.run import SourceLoop, TargetLoop
from peerload.engines.nixl import cuda
from peerload.engines.shared import address_of

__all__ = ["DeviceServed", "device_reader", "device_source"]

Environment = tuple[tuple[str, str], ...]

_lock: Final = threading.Lock()


@contextmanager
def _environment(environment: Environment) -> Iterator[None]:
    with _lock:
        before = {name: os.environ.get(name) for name, _ in environment}
        os.environ.update(environment)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class DeviceServed:
    """Implements `peerload.engines.child.service.Served` for regions of which some are on a device; the others are served from
    where they are as well."""

    def __init__(self, regions: Sequence[memoryview | DeviceMemory]) -> None:
        self._regions = list(regions)
        self.spans: Sequence[Span] = [
            Span(each.address, each.nbytes, each.device)
            if isinstance(each, DeviceMemory)
            else Span(address_of(each) if each.nbytes else 0, each.nbytes)
            for each in regions
        ]

    def introduce(self, child: Child, patience: float) -> Reach:
        """See `Served`."""
        said = child.ask("offer", patience=patience).payload
        devices = array("H", (0 if each.device is None else each.device + 1 for each in self.spans))
        addresses = array("Q", (each.address for each in self.spans))
        return Reach(said, addresses.tobytes(), devices.tobytes())

    def close(self) -> None:
        """Let go of the memory."""
        for each in self._regions:
            if isinstance(each, memoryview):
                each.release()
        self._regions = []


def _use(spans: Iterable[Span | DeviceMemory]) -> None:
    device = next((each.device for each in spans if each.device is not None), None)
    if device is not None:
        cuda.use(device)


class _SourceLoop(SourceLoop):
    """Serves memory of this process."""

    def __init__(self, spans: Sequence[Span], environment: Environment, sock: socket.socket) -> None:
        from peerload.engines.nixl.agent import NixlSource

        _use(spans)
        with _environment(environment):
            super().__init__(NixlSource(), sock)
        self._spans = [each for each in spans if each.nbytes]

    def spans(self, order: Message) -> tuple[list[Span], list[int]]:
        return self._spans, []


def device_source(spans: Sequence[Span], environment: Environment) -> Callable[[], Child]:
    """Makes who serves these."""
    return lambda: ThreadChild(
        "the thread that serves device memory", lambda sock: _SourceLoop(spans, environment, sock).run()
    )


def device_reader(environment: Environment) -> Callable[[Sequence[DeviceMemory]], Child]:
    """Makes who reads into these."""

    def make(memory: Sequence[DeviceMemory]) -> Child:
        def run(sock: socket.socket) -> None:
            from peerload.engines.nixl.agent import NixlTarget

            _use(memory)
            with _environment(environment):
                side = NixlTarget()
            TargetLoop(side, sock, at_a_time=1).run()

        return ThreadChild("the thread that reads into device memory", run, memory)

    return make
