"""What a pull may hold beside the weights, counted: it must not matter how small the tensors are."""

from __future__ import annotations

import gc
import tracemalloc

from peerload.client.giving import As
from peerload.client.manifest import Manifest, read_manifest
from peerload.client.targets import RuntimeMemory
from peerload.wire import outline_pb2, sources_pb2

TENSORS = 5_000
SIZE = 64


def manifest_message() -> outline_pb2.Manifest:
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
    return outline_pb2.Manifest.FromString(message.SerializeToString())


def planned(manifest: Manifest) -> RuntimeMemory:
    target = RuntimeMemory(need_digests=True)
    target.plan(manifest, lambda size: memoryview(bytearray(size)), lambda done, total: None)
    return target


def test_a_tensor_that_is_planned_holds_less_than_half_a_kilobyte() -> None:
    message = manifest_message()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        manifest = read_manifest(message)
        target = planned(manifest)
        # Without the weights themselves. What a read adds is two numbers for each destination.
        held = tracemalloc.get_traced_memory()[0] - before - TENSORS * SIZE
    finally:
        tracemalloc.stop()
    assert held <= TENSORS * 400
    assert {slot.destination.nbytes for slot in target.slots} == {SIZE}


def test_a_tensor_that_is_pulled_is_one_object_to_the_garbage_collector() -> None:
    message = manifest_message()
    As("np")  # imports what it needs
    gc.collect()
    before = len(gc.get_objects())
    manifest = read_manifest(message)
    target = planned(manifest)
    arrays = As("np").over(target.tensors())
    gc.collect()  # It finds that tuples of numbers and strings are none of its business.
    # Its passes over everything that it tracks would else take longer than the pull. Arrays it does not track, views it does.
    assert len(gc.get_objects()) - before <= TENSORS + 200
    assert len(arrays) == TENSORS
