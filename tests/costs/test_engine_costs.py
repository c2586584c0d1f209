"""What a read by tcp does for each of many small tensors, counted: it must be next to nothing in the interpreter."""

from __future__ import annotations

from peerload.engines.base import JobState, Range, Region
from peerload.engines.pieces import Pieces
from peerload.engines.tcp import TcpEngine
from peerload.testing.engine_suite.base import end
from tests.costs.counting import counted

TENSORS = 10_000
SIZE = 64


def test_a_small_tensor_is_no_call_at_either_end() -> None:
    content = memoryview(bytes(range(256)) * (TENSORS * SIZE // 256))
    regions = [Region(content[at : at + SIZE]) for at in range(0, len(content), SIZE)]
    ranges = [Range(number, 0, SIZE) for number in range(TENSORS)]
    engine = TcpEngine()
    with counted() as spent:
        # Source and target are threads of this process, and begin in here to be counted.
        exporter, importer = engine.exporter("127.0.0.1"), engine.importer()
        publication = exporter.publish(regions)
        into = importer.allocate(len(content))
        published = spent.calls
        places = [(0, at) for at in range(0, len(content), SIZE)]
        job = importer.open(publication.descriptor).read(ranges, Pieces([into], places, [SIZE] * TENSORS), deadline=60)
        assert end(job).state is JobState.DONE
        calls = spent.calls - published
    assert into == content
    assert len(job.completed()) == TENSORS
    importer.close()
    exporter.close()
    # Windows, batches, and a look at the clock now and then.
    assert calls <= TENSORS / 10, calls
