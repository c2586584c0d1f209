"""What reaches a server: calls of every method, one after the other; and what a store may hold when it starts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final

from peerload.errors import PeerloadError
from peerload.metadata.principals import ANYONE, Principal, Role
from peerload.metadata.publications.blobs import pack
from peerload.metadata.publications.publication import Publication
from peerload.store.base import Beat
from peerload.store.memory import MemoryStore
from peerload.testing.clock import ManualClock
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id
from tests.fuzz.house import CONTROL, House, methods, opened, run
from tests.fuzz.messages import filled, request_type
from tests.fuzz.mutation import record, records
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

_MOST_CALLS: Final = 8
_TIME: Final = b"time"
"""In place of a method: so many seconds pass. Sources go stale after four of them."""
_RESTART: Final = b"restart"
_AS: Final = b"as"
"""The calls that follow are somebody's."""
_PRINCIPALS: Final = {
    b"admin": ANYONE,
    b"reader": Principal("reader", Role.READ),
    b"one": Principal("one", Role.PUBLISH, ("org/*",)),
    b"other": Principal("other", Role.PUBLISH),
}
_IDENTITY: Final = p2p_pb2.SourceIdentity(model_name="org/model", mx_version="0.7.0", dtype="bfloat16")
_KNOWN: Final = {
    "identity": _IDENTITY,
    "mx_source_id": source_id(_IDENTITY),
    "source_id": source_id(_IDENTITY),
    "worker_id": "w0",
    "worker_rank": 0,
    "model_name": "org/model",
    "name": "a/b",
    "holder": "h",
    "lease_ms": 30_000,
    "size": 4096,
    "service": "peerload.v1.SourceService",
}
_PUBLISH: Final = b"/model_express.p2p.P2pService/PublishMetadata"


def run_calls(data: bytes) -> None:
    """Records of a method's path and a message."""
    calls = records(data)
    if calls is not None and CONTROL.encode() not in data:
        run(_calls(calls[:_MOST_CALLS]))


async def _calls(calls: list[tuple[bytes, ...]]) -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    principal = ANYONE
    rest = calls
    while rest:
        async with opened(store), House.open(store, clock) as house:
            if rest is calls:
                await house.publish_control()
            # A server that was started anew has nothing to say before it has heard from those who were there.
            await house.check()
            while rest:
                (path, *body), rest = rest[0], rest[1:]
                if path == _RESTART:
                    break
                if path == _TIME:
                    await house.pass_time(1.0 + len(b"".join(body)) % 15)
                elif path == _AS:
                    principal = _PRINCIPALS.get(b"".join(body), ANYONE)
                elif (name := path.decode(errors="replace")) in house.table:
                    await house.call(name, b"".join(body), principal)
            await house.check()


def seed_calls() -> Iterator[bytes]:
    """Each method with several messages for it, before and after there is a source; then time, and a restart."""
    rng = random.Random(1)
    worker = {"status": p2p_pb2.SOURCE_STATUS_READY, "nixl_metadata": b"agent", "topology": {"rack": "r"}}
    published = p2p_pb2.PublishMetadataRequest(identity=_IDENTITY, worker=worker, worker_id="w0").SerializeToString()
    for path in methods():
        for _ in range(2):
            asked = filled(request_type(path), rng, _KNOWN).SerializeToString()
            call = record(path.encode(), asked)
            yield call
            yield record(_PUBLISH, published) + call + record(_TIME, b"1") + call
        yield record(_PUBLISH, published) + record(path.encode(), b"") + record(_RESTART)
        one, other = record(_AS, b"one"), record(_AS, rng.choice((b"other", b"reader")))
        yield one + record(_PUBLISH, published) + call + other + call
    ranked = p2p_pb2.PublishMetadataRequest.FromString(published)
    ranked.worker.worker_rank = 3
    v1 = sources_pb2.PublishRequest(record=ranked, manifest=_manifest(), replica="r", world_size=8).SerializeToString()
    for then in (record(_TIME, b"four"), record(_TIME, bytes(14)), record(_RESTART)):
        yield record(b"/peerload.v1.SourceService/Publish", v1) + then


def _manifest() -> sources_pb2.Manifest:
    return sources_pb2.Manifest(
        form=sources_pb2.FORM_RUNTIME,
        items=[sources_pb2.Item(name="a", size=8, dtype="torch.bfloat16", shape=[4], digest=bytes(16))],
        endpoints=[sources_pb2.Endpoint(engine="tcp", address="127.0.0.1:9", descriptor=b"\0\xff")],
    )


def run_stored(data: bytes) -> None:
    """Records of a key, a value as JSON, a blob, and a heartbeat's stamp: a server that finds them serves on."""
    entries = records(data)
    if entries is not None and CONTROL.encode() not in data:
        questions = [
            (path, filled(request_type(path), random.Random(1), _KNOWN).SerializeToString()) for path in methods()
        ]
        run(_stored(entries[:_MOST_CALLS], questions))


async def _stored(entries: list[tuple[bytes, ...]], questions: list[tuple[str, bytes]]) -> None:
    clock = ManualClock()
    store = _Careless(clock)
    async with opened(store), House.open(store, clock) as house:
        await house.publish_control()
        for entry in entries:
            await store.keep(*entry)
        await house.pass_time(1.0)
        for path, body in questions:
            await house.call(path, body)
        async with House.open(store, clock) as another:
            await another.pass_time(12.0)


class _Careless(MemoryStore):
    """Holds what others wrote: other releases, people, and who has the rights to."""

    async def keep(self, key: bytes, value: bytes = b"{}", blob: bytes = b"", stamp: bytes = b"", *more: bytes) -> None:
        """Put an entry, as far as any store would hold it."""
        try:
            members = json.loads(value)
            beat = Beat(int(stamp[:19])) if stamp.isdigit() else None
            if isinstance(members, dict):
                await self.put(key.decode(), members, blob=blob, beat=beat)
        except (PeerloadError, ValueError, RecursionError):
            pass


def seed_stored() -> Iterator[bytes]:
    """A source as a server writes it, its claim, and parts of them."""
    request = p2p_pb2.PublishMetadataRequest(
        identity=_IDENTITY,
        worker={"status": p2p_pb2.SOURCE_STATUS_READY, "topology": {"rack": "r"}, "accelerator": "cuda"},
        worker_id="w0",
    )
    blob = pack(Publication.from_p2p(request.SerializeToString()))
    now = str(ManualClock().wall_ms()).encode()
    key = f"source/{source_id(_IDENTITY)}/0/w0".encode()
    value = json.dumps(
        {
            "model": "org/model",
            "status": "READY",
            "training_step": "12",
            "layout_signature": "l",
            "form": "CHECKPOINT",
            "content": "c",
            "item_count": 3,
            "total_size": 4096,
            "engines": "tcp,memfd",
            "endpoints": "127.0.0.1:9",
            "replica": "r",
            "world_size": 8,
            "pod.name": "p",
            "published_at": 1_750_000_000_000,
            "refs": "main\nv1",
            "topology.rack": "r",
        }
    ).encode()
    stale = b'{"status":"STALE","stale.since":1750000000000,"stale.judged":1749999000000,"stale.was":"READY"}'
    yield record(key, value, blob, now)
    yield record(key, stale, blob, now)
    yield record(key, b"{}", b"")
    yield record(key, value, blob, b"1")
    claim = b'{"holder":"h","note":"n","lease_ms":30000,"since":1750000000000}'
    yield record(b"claim/a/b", claim, b"", now) + record(key, value, blob, now)
    yield record(b"other/thing", b'{"a":1.5}', b"x")


TARGETS = (
    Target("calls", run_calls, seed_calls, mutations=60),
    Target("stored", run_stored, seed_stored, mutations=15),
)
