"""Moving bytes into slots: straight to where they belong wherever the engine can write there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import xxhash

from peerload.client.transfer import Slot, transfer
from peerload.engines.base import Importer, Publication, Range, Region
from peerload.plugins import open_engine

SIZES = [70_000, 5, 0, 300_000]
CONTENT = [random.Random(size).randbytes(size) for size in SIZES]


class Choosy:
    """An importer that can write into its own memory alone."""

    def __init__(self, importer: Importer) -> None:
        self._importer = importer
        self._own: list[memoryview] = []
        self.allocated = 0

    def takes(self, memory: memoryview) -> bool:
        return any(memory.obj is own.obj for own in self._own)

    def allocate(self, nbytes: int) -> memoryview:
        self.allocated += nbytes
        self._own.append(self._importer.allocate(nbytes))
        return self._own[-1]


@pytest.fixture
def importer() -> Iterator[Importer]:
    made = open_engine("memory").importer()
    yield made
    made.close()


@pytest.fixture
def published() -> Iterator[Publication]:
    exporter = open_engine("memory").exporter("127.0.0.1")
    yield exporter.publish([Region(memoryview(each)) for each in CONTENT])
    exporter.close()


async def fill(importer: Importer, choosy: Choosy, published: Publication, memory: memoryview) -> list[Slot]:
    slots, at = [], 0
    for index, data in enumerate(CONTENT):
        slots.append(Slot((f"t{index}",), Range(index, 0, len(data)), xxhash.xxh3_128_digest(data), memory, at))
        at += len(data)
    reader = importer.open(published.descriptor)
    with ThreadPoolExecutor(1) as executor:
        await transfer(
            choosy,  # type: ignore[arg-type]
            reader,
            lambda stop: [slots],
            origin=mock.sentinel.origin,
            left=lambda: 60.0,
            executor=executor,
            report=lambda done: None,
        )
    return slots


async def test_memory_of_the_engines_own_is_read_into(importer: Importer, published: Publication) -> None:
    choosy = Choosy(importer)
    slots = await fill(importer, choosy, published, choosy.allocate(sum(SIZES)))
    assert choosy.allocated == sum(SIZES)
    assert [bytes(slot.destination) for slot in slots] == CONTENT
    assert all(slot.verified for slot in slots)


async def test_other_memory_is_copied_into(importer: Importer, published: Publication) -> None:
    choosy = Choosy(importer)
    memory = bytearray(sum(SIZES))
    slots = await fill(importer, choosy, published, memoryview(memory))
    assert choosy.allocated == sum(SIZES)
    assert memory == b"".join(CONTENT)
    assert all(slot.verified for slot in slots)
