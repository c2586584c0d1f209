"""What a person or a deployment gives: addresses, URLs of stores; and what makes a source id."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from unittest import mock
from urllib.parse import quote

from google.protobuf.message import DecodeError

from peerload.client.identity import read_identity
from peerload.errors import InvalidArgument, PeerloadError
from peerload.kubernetes.place import KubernetesPlace
from peerload.metadata.publications.addresses import Address, allowed, split
from peerload.server.addresses import join_address, split_address
from peerload.server.resolving import resolve
from peerload.store.redis.place import RedisPlace
from peerload.wire import p2p_pb2
from peerload.wire.identity import canonical_json, is_source_id, source_id
from tests.fuzz.mutation import record, records
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

_PASSWORD = "pass-word-31"


def run_addresses(data: bytes) -> None:
    """HOST:PORT, wherever it is read."""
    text = data.decode(errors="replace")
    with suppress(ValueError):
        host, port = split_address(text)
        assert split_address(join_address(host, port)) == (host, port)
    address = Address.of(text)
    if address is not None:
        assert 0 < address.port <= 65_535
    for each in split(text):
        assert Address.of(join_address(each.host, each.port)) == each
        allowed(each.host, here=False)


def seed_addresses() -> Iterator[bytes]:
    yield from (
        b"127.0.0.1:8001",
        b"[::1]:1",
        b"localhost:65535",
        b":1",
        b"a:0",
        b"a:1,b:2",
        b"[fe80::1%eth0]:1",
        b"::1:1",
    )


def run_urls(data: bytes) -> None:
    """The URL of a store. No error tells its password."""
    text = data.decode(errors="replace")
    for parse in (RedisPlace.parse, KubernetesPlace.parse):
        try:
            place = parse(text)
        except InvalidArgument as error:
            shown = str(error)
        else:
            shown = f"{place.shown} {place!r}"
        # (Where it stands for something else than a password, it is told.)
        if f":{_PASSWORD}@" in text and text.count(_PASSWORD) == 1:
            assert _PASSWORD not in shown


def seed_urls() -> Iterator[bytes]:
    for text in (
        f"redis://user:{_PASSWORD}@host:6379/3?namespace=n&min_replicas=1",
        f"rediss://:{_PASSWORD}@[::1]/0?verify=no",
        f"redis+sentinel://u:{_PASSWORD}@a,b:26379,c/mymaster/2?sentinel_password=x",
        "redis+cluster://a:1,b:2?namespace=x",
        f"unix:///run/redis.sock?namespace={quote('é')}",
        "kubernetes:namespace?instance=main&context=c&kubeconfig=/a:/b",
        "kubernetes:",
    ):
        yield text.encode()


def run_settings(data: bytes) -> None:
    """Records of a variable and its text."""
    # (What no environment can have is not tried.)
    environment = {
        name: b"".join(text) for name, *text in records(data) or () if name and b"=" not in name and b"\0" not in data
    }
    with mock.patch.dict(os.environb, environment, clear=True), suppress(PeerloadError):
        resolve({})


def seed_settings() -> Iterator[bytes]:
    yield record(b"PEERLOAD_LISTEN", b"127.0.0.1:8001") + record(b"PEERLOAD_METRICS", b"9401")
    yield record(b"MODEL_EXPRESS_SERVER_HOST", b"::") + record(b"MODEL_EXPRESS_SERVER_PORT", b"8001")
    yield record(b"MX_METADATA_BACKEND", b"redis") + record(b"MX_REDIS_HOST", b"h") + record(b"MX_REDIS_PORT", b"1")
    yield record(b"MX_HEARTBEAT_TIMEOUT_SECS", b"90") + record(b"MODEL_EXPRESS_LOG_LEVEL", b"warn")
    yield record(b"MODEL_EXPRESS_SECURITY_MODE", b"enforce") + record(b"PEERLOAD_GRACE", b"1e3")


def run_identities(data: bytes) -> None:
    """A SourceIdentity."""
    try:
        identity = p2p_pb2.SourceIdentity.FromString(data)
    except DecodeError:
        return
    assert is_source_id(source_id(identity))
    # Whatever the order in which it was sent, and however it is written.
    again = p2p_pb2.SourceIdentity.FromString(identity.SerializeToString(deterministic=True))
    assert source_id(again) == source_id(identity)
    tree = json.loads(canonical_json(identity))
    assert tree["model_name"] == identity.model_name.lower()
    louder = p2p_pb2.SourceIdentity()
    louder.CopyFrom(identity)
    louder.dtype = identity.dtype.lower()
    # (A few letters have a lower case that is lowered further, as in İ.)
    if identity.dtype.lower() == identity.dtype.lower().lower():
        assert source_id(louder) == source_id(identity)
    with suppress(InvalidArgument):
        read_identity(identity)


def seed_identities() -> Iterator[bytes]:
    full = p2p_pb2.SourceIdentity(
        mx_version="0.5.0",
        model_name="deepseek-ai/DeepSeek-V3",
        tensor_parallel_size=8,
        dtype="bfloat16",
        revision="abc123",
        torch_version="2.9",
        extra_parameters={"Foo": "a", "foo": "b", "peerload.form": "checkpoint"},
    )
    yield full.SerializeToString()
    yield p2p_pb2.SourceIdentity(model_name="org/Modèle", extra_parameters={"training_step": "12"}).SerializeToString()
    yield b""


TARGETS = (
    Target("addresses", run_addresses, seed_addresses),
    Target("urls", run_urls, seed_urls),
    Target("settings", run_settings, seed_settings, mutations=60),
    Target("identities", run_identities, seed_identities),
)
