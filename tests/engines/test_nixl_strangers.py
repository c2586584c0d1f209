"""NIXL's agents beyond our own: what is known of them, and for how long they are kept served."""

from __future__ import annotations

import struct
import threading

import pytest

from peerload.engines.agents import ADDRESS_SPACE, AgentEngine, PeerMemory
from peerload.engines.base import JobState, Range, Region
from peerload.errors import InvalidArgument, TransferFailed
from peerload.plugins import open_engine

pytest.importorskip("nixl_cu12")

from peerload.engines.nixl import NixlEngine
from peerload.engines.nixl.strangers import agent_name


@pytest.fixture(scope="module")
def engine() -> NixlEngine:
    made = open_engine("nixl")
    assert isinstance(made, NixlEngine)
    assert isinstance(made, AgentEngine)
    assert not isinstance(open_engine("tcp"), AgentEngine)
    return made


def test_an_agents_metadata_says_its_name() -> None:
    head = b"nixlSerDes|Agent"
    assert agent_name(head + struct.pack("<Q", 3) + b"abc|Conns") == "abc"
    for damaged in (
        b"",
        head,
        head + bytes(8),
        b"another" + head + struct.pack("<Q", 3) + b"abc",
        head + struct.pack("<Q", 2**63) + b"abc",
        head + struct.pack("<Q", 9) + b"abc",
        head + struct.pack("<Q", 2) + b"\xff\xff",
    ):
        with pytest.raises(TransferFailed, match="is none"):
            agent_name(damaged)


def test_what_is_exposed_can_be_read_by_who_knows_only_that(engine: NixlEngine) -> None:
    exporter, importer = engine.exporter("127.0.0.1"), engine.importer()
    data = [bytes(range(256)) * 64, b"second"]
    publication = exporter.publish([Region(memoryview(each)) for each in data])
    try:
        exposed = exporter.exposed(publication, hold=60.0)
        assert exposed.metadata not in repr(exposed).encode()
        memory = [PeerMemory(at, len(each)) for at, each in zip(exposed.addresses, data, strict=True)]
        with pytest.raises(TransferFailed, match=r"is 'peerload-.*', and not 'another'"):
            importer.describe("another", exposed.metadata, memory, host="127.0.0.1")
        described = importer.describe(exposed.agent, exposed.metadata, memory, host="127.0.0.1")
        assert exposed.agent in described.address
        target = importer.allocate(7000)
        reader = importer.open(described)
        job = reader.read([Range(0, 100, 6994), Range(1, 0, 6)], [target[:6994], target[6994:]], deadline=60.0)
        while (progress := job.wait(1.0)).state is JobState.RUNNING:
            pass
        assert progress.state is JobState.DONE, progress.reason
        assert bytes(target) == data[0][100:7094] + data[1]
        reader.close()
        # The whole of an agent's memory: offsets are addresses.
        reader = importer.open(importer.describe("", exposed.metadata, [ADDRESS_SPACE], host=""))
        job = reader.read([Range(0, exposed.addresses[1], 6)], [target[:6]], deadline=60.0)
        while (progress := job.wait(1.0)).state is JobState.RUNNING:
            pass
        assert bytes(target[:6]) == b"second"
        job = reader.read([Range(0, 4096, 6)], [target[:6]], deadline=60.0)
        while (progress := job.wait(1.0)).state is JobState.RUNNING:
            pass
        assert progress.state is JobState.FAILED
        assert "NIXL" in progress.reason
        reader.close()
    finally:
        exporter.retire(publication)
        with pytest.raises(InvalidArgument, match="not any more"):
            exporter.exposed(publication, hold=1.0)
        importer.close()
        exporter.close()


def test_it_is_held_for_as_long_as_was_asked_and_no_longer(engine: NixlEngine) -> None:
    exporter = engine.exporter("127.0.0.1")
    publication = exporter.publish([Region(memoryview(b"held"))])
    (service,) = exporter._services.values()
    over = threading.Event()
    leave = service.leave

    def left() -> None:
        leave()
        if not service._readers:
            over.set()

    service.leave = left  # type: ignore[method-assign]
    try:
        exporter.exposed(publication, hold=0.0)
        assert not service._readers
        exporter.exposed(publication, hold=0.2)
        exporter.exposed(publication, hold=0.4)
        assert service._readers == 1, "of many who ask one visit is made"
        over.clear()
        assert over.wait(30.0)
        exporter.exposed(publication, hold=3600.0)
        assert exporter._holds._timers
        exporter.retire(publication)
        assert not exporter._holds._timers
    finally:
        exporter.close()
