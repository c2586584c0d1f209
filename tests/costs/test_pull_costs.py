"""What a pull may hold beside the weights, counted: it must not matter how small the tensors are."""

from __future__ import annotations

import tracemalloc

from peerload.client.manifest import read_manifest
from peerload.client.targets import RuntimeMemory
from peerload.wire import sources_pb2

TENSORS = 5_000
SIZE = 64


def test_a_tensor_that_is_planned_holds_two_thirds_of_a_kilobyte() -> None:
    message = sources_pb2.Manifest(
        form=sources_pb2.FORM_RUNTIME,
        items=[
            sources_pb2.Item(
                name=f"model.layers.{number}.weight",
                size=SIZE,
                dtype="torch.uint8",
                shape=[SIZE],
                digest=number.to_bytes(16, "big"),
                region=number,
            )
            for number in range(TENSORS)
        ],
        endpoints=[sources_pb2.Endpoint(engine="tcp", address="h:1", descriptor=b"d")],
    )
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        manifest, target = read_manifest(message), RuntimeMemory(need_digests=True)
        target.plan(manifest, lambda size: memoryview(bytearray(size)), lambda done, total: None)
        # Without the weights themselves. What a read adds is a view of each destination, the engine's.
        held = tracemalloc.get_traced_memory()[0] - before - TENSORS * SIZE
    finally:
        tracemalloc.stop()
    assert held <= TENSORS * 680
    assert {slot.destination.nbytes for slot in target.slots} == {SIZE}
