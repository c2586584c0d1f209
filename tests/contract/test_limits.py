"""What passes the limits of a publication fits into a store's value, whatever it is written with."""

from __future__ import annotations

import pytest

from peerload.errors import LimitExceeded
from peerload.metadata import limits
from peerload.metadata.publications.publication import Publication
from peerload.metadata.records import Mark, Pod, Status
from peerload.store.base import MAX_KEY_BYTES
from peerload.store.values import encode_value
from peerload.wire import p2p_pb2, sources_pb2


def largest(letter: str) -> Publication:
    """Everything as long as it may be, written with one letter."""
    size = len(letter.encode())
    text = letter * (limits.MAX_TEXT_BYTES // size)
    name = letter * (limits.MAX_NAME_BYTES // size)
    place = letter * (limits.MAX_TOPOLOGY_BYTES // limits.MAX_TOPOLOGY // size - 2)
    engines = [str(index) + letter * (limits.MAX_NAME_BYTES // 8 // size - 3) for index in range(8)]
    return Publication.of(
        p2p_pb2.SourceIdentity(model_name=name, revision=text, extra_parameters={"layout_signature": name}),
        p2p_pb2.WorkerMetadata(
            worker_rank=2**32 - 1,
            accelerator=text,
            topology={f"{index:02}": place for index in range(limits.MAX_TOPOLOGY)},
        ),
        letter * (limits.MAX_WORKER_ID_BYTES // size),
        pod=Pod(text, text, text),
        manifest=sources_pb2.Manifest(
            content=text, endpoints=[sources_pb2.Endpoint(engine=engine) for engine in engines]
        ),
    )


@pytest.mark.parametrize("letter", ["a", '"', "\\", "\x00", "\x7f", "é", "\U0001f600"])
def test_the_largest_record_fits(letter: str) -> None:
    text = letter * (limits.MAX_TEXT_BYTES // len(letter.encode()))
    record = largest(letter).record._replace(
        mark=Mark(2**62, 2**62, Status.INITIALIZING), replica=text, endpoints=",".join(["h" * 253 + ":65535"] * 4)
    )
    encode_value(record.to_value())
    assert len(record.key.encode().encode()) <= MAX_KEY_BYTES


def test_a_topology_beyond_that_is_named() -> None:
    worker = p2p_pb2.WorkerMetadata(topology={str(index): "p" * limits.MAX_TEXT_BYTES for index in range(17)})
    with pytest.raises(LimitExceeded, match=r"worker\.topology: has \d+ bytes, more than 16384"):
        Publication.of(p2p_pb2.SourceIdentity(model_name="m"), worker, "w")
