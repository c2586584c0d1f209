"""What is published of tensors: regions without overlaps, strides, devices."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import xxhash

from peerload import AsyncClient, ClientSettings, Identity
from peerload.client.buffers import Memory
from peerload.client.engines import Engines
from peerload.client.manifest import read_manifest, write_manifest
from peerload.client.offering import offer_tensors
from peerload.client.source import Offer
from peerload.engines.base import DeviceMemory, Exporter, Publication, Region
from peerload.engines.memory import MemoryEngine
from peerload.errors import InvalidArgument
from peerload.wire import outline_pb2
from tests.client.test_buffers import told
from tests.support.server import serving


def offer(tensors: Mapping[str, Any], digests: bool | None = None) -> Offer:
    def check(found: Mapping[str, Memory]) -> None:
        assert found.keys() == tensors.keys()

    return offer_tensors(
        tensors, Identity(model="m"), 0, copy=False, digests=digests, check=check, progress=lambda done, total: None
    )


def served(made: Offer) -> dict[str, bytes]:
    """What each item is, read from its region."""
    found = {}
    for item in made.manifest.items:
        region = made.regions[item.region]
        assert isinstance(region, memoryview)
        found[item.name] = bytes(region[item.offset : item.offset + item.size])
        assert item.digest == xxhash.xxh3_128_digest(found[item.name])
    return found


def test_overlapping_views_are_one_region() -> None:
    base = np.arange(100, dtype="u1")
    tensors = {
        "b": base[30:60],
        "other": np.ones(3),
        "a": base[:40],
        "c": base[50:70],
        "apart": base[80:90],
        "b2": base[30:60],
    }
    made = offer(tensors)
    assert [item.region for item in made.manifest.items] == [0, 1, 0, 0, 2, 0]
    assert [item.offset for item in made.manifest.items] == [30, 0, 0, 50, 0, 30]
    assert [region.nbytes for region in made.regions] == [70, 24, 10]
    assert served(made) == {name: array.tobytes() for name, array in tensors.items()}


def test_neighbours_are_not_merged() -> None:
    base = np.arange(100, dtype="u1")
    assert len(offer({"a": base[:50], "b": base[50:]}).regions) == 2


def test_a_transposed_tensor_is_its_own_memory_with_strides() -> None:
    base = np.arange(24, dtype="f4").reshape(2, 3, 4)
    made = offer({"w": base, "t": base.transpose(2, 0, 1), "none": np.zeros((0, 2))})
    (whole, turned, none) = made.manifest.items
    assert (whole.stride, turned.stride, none.stride) == ((), (1, 12, 4), ())
    assert (turned.shape, turned.region, turned.digest) == ((4, 2, 3), whole.region, whole.digest)
    message = write_manifest(made.manifest)
    message.endpoints.add(engine="tcp", address="x")
    assert read_manifest(outline_pb2.Manifest.FromString(message.SerializeToString())).items == made.manifest.items


# Accelerators. The pointers are made up, and nothing here may follow them.


def test_device_memory_is_described_and_not_read() -> None:
    made = offer({"w": told(), "tied": told(), "host": np.zeros(2)})
    device, host = made.regions
    assert isinstance(device, DeviceMemory)
    assert (device.address, device.nbytes, device.device) == (0x7F00DEAD0000, 12, 3)
    assert isinstance(host, memoryview)
    assert [(item.device, bool(item.digest), item.region) for item in made.manifest.items] == [
        (3, False, 0),
        (3, False, 0),
        (None, True, 1),
    ]
    assert made.on_device


def test_an_engine_that_reads_no_device_memory_refuses_it_by_name() -> None:
    for name in ("tcp", "memory"):
        engines = Engines([name], {}, lambda: "127.0.0.1")
        with pytest.raises(
            InvalidArgument, match=rf"^tensors\['w'\]: is in the memory of CUDA device 3, which {name} cannot"
        ):
            engines.check({"host": memory(np.zeros(2)), "w": memory(told())})
        engines.check({"host": memory(np.zeros(2))})
        exporter = engines.exporters()[name]
        with pytest.raises(InvalidArgument, match=r"^regions\[0\].device"):
            exporter.publish([Region(DeviceMemory(4096, 12, 3, None))])
        assert engines.exporters(device=True) == {}
        engines.close()


def memory(tensor: Any) -> Memory:
    from peerload.client.buffers import memory_of

    return memory_of("w", tensor)


class DeviceEngine(MemoryEngine):
    """Reads "devices", whose addresses are in truth this process's own."""

    seen: ClassVar[list[int | None]] = []

    @property
    def reads_device_memory(self) -> bool:
        return True

    def exporter(self, host: str) -> Exporter:  # type: ignore[override]
        return _Through(super().exporter(host))  # type: ignore[return-value]


class _Through:
    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)

    def publish(self, regions: list[Region]) -> Publication:
        DeviceEngine.seen = [region.device for region in regions]
        return self._exporter.publish([Region(_mapped(region.buffer)) for region in regions])


def _mapped(buffer: memoryview | DeviceMemory) -> memoryview:
    if isinstance(buffer, memoryview):
        return buffer
    return memoryview((ctypes.c_char * buffer.nbytes).from_address(buffer.address)).cast("B")


async def test_device_memory_through_an_engine_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.client.engines.open_engine", lambda name, **settings: DeviceEngine())
    data = np.arange(6, dtype="f2")
    there = told(data=(data.ctypes.data, False))
    settings = ClientSettings(engines=("memory",), retire_grace=0.1)
    async with serving() as server, AsyncClient(server.address, settings=settings) as source:
        async with AsyncClient(server.address, settings=settings) as target:
            async with source.publish({"w": there, "v": np.ones(3)}, model="org/model") as published:
                assert DeviceEngine.seen == [3, None]
                (info,) = await target.find("org/model")
                assert (info.accelerator, published.manifest.items[0].device) == ("cuda", 3)
                pulled = await target.pull("org/model", framework="np")
                assert pulled["w"].tobytes() == data.tobytes()
                assert (pulled.report.verified.items, pulled.report.verified.unchecked_items) == (1, 1)
