"""A process that serves and reads with NIXL on threads of its own, as is done for device memory, here with host memory.

Leaves by `os._exit`, as a process that made an agent must. Prints what came of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from peerload.clock import SystemClock
from peerload.engines.base import DeviceMemory, Range, Region
from peerload.engines.child.driver import Span
from peerload.engines.child.importer import ChildImporter
from peerload.engines.child.inside import ThreadChild, poisoned
from peerload.engines.child.process import Child
from peerload.engines.child.run import TargetLoop
from peerload.engines.child.service import Service
from peerload.engines.nixl import NixlEngine, NixlExporter
from peerload.engines.nixl.agent import NixlTarget
from peerload.engines.nixl.device import DeviceServed, device_source
from peerload.engines.shared import address_of
from peerload.testing.engine_suite.base import end
from peerload.testing.engine_worker import content


class InsideExporter(NixlExporter):
    def prepare(self, regions: Sequence[Region]) -> Service:
        served = DeviceServed([region.buffer for region in regions])
        make = device_source(served.spans, self._recipe[1])
        return Service(make, served, self._settings)


class HostTarget(NixlTarget):
    """Takes what is said to be on a device for what it is here."""

    def hold(self, span: Span) -> None:
        super().hold(span._replace(device=None))

    def begin(self, rows: memoryview) -> Callable[[], None] | None:
        for at in range(3, len(rows), 5):
            rows[at] = 0
        return super().begin(rows)


def inside(host: str) -> Callable[[Sequence[DeviceMemory]], Child]:
    return lambda memory: ThreadChild(
        "a thread", lambda sock: TargetLoop(HostTarget(), sock, at_a_time=1).run(), memory
    )


engine = NixlEngine()
recipe = engine._recipe("127.0.0.1")
exporter = InsideExporter("nixl", "127.0.0.1", recipe, {}, engine.settings, SystemClock())
sizes = [5_000_000, 0, 7, 20_000_000]
published = exporter.publish([Region(memoryview(each)) for each in content(1, sizes)])
importer = engine.importer()
into = [importer.allocate(size) for size in sizes]
job = importer.open(published.descriptor).read([Range(i, 0, n) for i, n in enumerate(sizes)], into, deadline=60)
print(
    end(job).state.value,
    [bytes(each) for each in into] == content(1, sizes),
    exporter.serving(published) == os.getpid(),
)
target = ChildImporter("nixl", engine._recipe, {}, engine.settings, SystemClock(), inside)
memory = [bytearray(size) for size in sizes]
places = [DeviceMemory(address_of(memoryview(each)) if each else 0, len(each), 0, each) for each in memory]
job = target.open(published.descriptor).read([Range(i, 0, n) for i, n in enumerate(sizes)], places, deadline=60)
print(end(job).state.value, memory == content(1, sizes), sorted(job.completed()), poisoned())
exporter.retire(published)
print(end(importer.open(published.descriptor).read([Range(0, 0, 1)], [into[2][:1]], deadline=60)).reason)
sys.stdout.flush()
os._exit(0)
