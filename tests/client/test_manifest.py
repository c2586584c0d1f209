"""Manifests: ours go round, and nothing that a peer writes gets past the checks or past `InvalidArgument`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.checkpoint import Checkpoint, scan
from peerload.client.manifest import Item, Manifest, checkpoint_manifest, read_manifest, write_manifest
from peerload.engines.base import Descriptor
from peerload.errors import InvalidArgument, LimitExceeded
from peerload.metadata.records import Form
from peerload.wire import outline_pb2, sources_pb2

ENDPOINT = Descriptor("tcp", "127.0.0.1:1", b"secret")


def runtime() -> Manifest:
    items = (
        Item("w", 8, "torch.float32", (2,), bytes(16), 0, 0),
        Item("tied", 8, "torch.float32", (2,), bytes(16), 0, 0),
        Item("empty", 0, "torch.bfloat16", (0, 3), b"", 1, 0),
        Item("scalar", 2, "torch.bfloat16", (), b"", 2, 4),
        Item("ours", 5, "engine.own", (3,), b"", 3, 0),
        Item("transposed", 24, "torch.float32", (3, 2), bytes(16), 4, 0, stride=(1, 3)),
        Item("on a device", 4, "torch.float32", (1,), b"", 5, 0, device=1),
    )
    return Manifest(Form.RUNTIME, items, (ENDPOINT,))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "empty").touch()
    header = (
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"e":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}'
    )
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(8)))
    return scan(tmp_path).checkpoint


def test_round_trips(checkpoint: Checkpoint) -> None:
    for manifest in (runtime(), checkpoint_manifest(checkpoint, [ENDPOINT], refs=["main"], part="--include x")):
        assert read_manifest(outlined(write_manifest(manifest))) == manifest
    # What the cache calls a file is told, and is no part of what the file is.
    named = Checkpoint(tuple(dataclasses.replace(file, blob="a" * 40) for file in checkpoint.files))
    read = read_manifest(outlined(write_manifest(checkpoint_manifest(named, [ENDPOINT])))).checkpoint
    assert read == named == checkpoint
    assert {file.blob for file in read.files} == {"a" * 40}
    assert runtime().total_size == 8 + 0 + 2 + 5 + 24 + 4
    assert "secret" not in repr(runtime())


def outlined(message: sources_pb2.Manifest) -> outline_pb2.Manifest:
    """As a client has it from the wire."""
    return outline_pb2.Manifest.FromString(message.SerializeToString())


def changed(change: Callable[[sources_pb2.Manifest], object], manifest: Manifest) -> outline_pb2.Manifest:
    message = write_manifest(manifest)
    change(message)
    return outlined(message)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("form", lambda m: setattr(m, "form", 0)),
        ("form", lambda m: setattr(m, "form", 9)),
        ("endpoints", lambda m: m.ClearField("endpoints")),
        ("endpoints", lambda m: m.endpoints.extend([m.endpoints[0]] * 64)),
        (r"endpoints\[0\].engine", lambda m: setattr(m.endpoints[0], "engine", "t\x1bcp")),
        (r"endpoints\[0\].address", lambda m: setattr(m.endpoints[0], "address", "x" * 513)),
        (r"endpoints\[0\].descriptor", lambda m: setattr(m.endpoints[0], "descriptor", bytes((1 << 20) + 1))),
        (r"items\[0\].name", lambda m: setattr(m.items[0], "name", "")),
        (r"items\[0\].name", lambda m: setattr(m.items[0], "name", "é" * 2049)),
        ("items", lambda m: setattr(m.items[0], "name", "tied")),
        (r"items\[0\].size", lambda m: setattr(m.items[0], "size", 9)),
        (r"items\[0\].size", lambda m: setattr(m.items[0], "size", 2**64 - 1)),
        (r"items\[0\].size", lambda m: setattr(m.items[0], "offset", 2**63)),
        (r"items\[0\].size", lambda m: m.items[0].shape.append(2**64 - 1)),
        (r"items\[0\].shape", lambda m: m.items[0].shape.extend([1] * 64)),
        (r"items\[4\].shape", lambda m: m.items[4].shape.append(1000)),
        (r"items\[0\].digest", lambda m: setattr(m.items[0], "digest", b"short")),
        (r"items\[0\].stride", lambda m: m.items[0].stride.append(2)),
        (r"items\[0\].stride", lambda m: m.items[0].stride.extend([1, 1])),
        (r"items\[0\].stride", lambda m: m.items[0].stride.append(-1)),
        (r"items\[5\].stride", lambda m: m.items[5].stride.__setitem__(0, 3)),
        ("files", lambda m: m.files.add(path="a")),
    ],
)
def test_what_is_wrong_is_named(field: str, change: Callable[[sources_pb2.Manifest], object]) -> None:
    with pytest.raises(InvalidArgument, match=f"^manifest.{field}: ") as error:
        read_manifest(changed(change, runtime()))
    assert len(str(error.value)) < 2000


def test_sizes_that_overflow_together() -> None:
    def grow(message: sources_pb2.Manifest) -> None:
        for item in message.items:
            item.dtype, item.size = "engine.own", 2**63 - 1
            item.ClearField("shape")
            item.ClearField("stride")
            item.offset = 0

    with pytest.raises(InvalidArgument, match="63 bits"):
        read_manifest(changed(grow, runtime()))


def test_limits_are_told() -> None:
    with pytest.raises(LimitExceeded) as error:
        read_manifest(changed(lambda m: m.endpoints.extend([m.endpoints[0]] * 64), runtime()))
    assert error.value.limit == 64


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("content", lambda m: setattr(m, "content", "0" * 32)),
        ("content", lambda m: setattr(m.items[0], "digest", bytes(16))),
        ("files", lambda m: setattr(m.items[0], "digest", b"")),
        ("files", lambda m: setattr(m.files[0], "path", "../etc/passwd")),
        ("files", lambda m: setattr(m.files[0], "path", "/etc/passwd")),
        ("files", lambda m: setattr(m.files[0], "path", "EMPTY")),
        ("files", lambda m: setattr(m.files[0], "size", 2**63)),
        ("files", lambda m: setattr(m.files[2], "header", b"")),
        ("files", lambda m: setattr(m.items[1], "offset", 3)),
        ("files", lambda m: m.items.append(m.items[0])),
        (r"items\[0\].file", lambda m: setattr(m.items[0], "file", 3)),
        (r"items\[0\].stride", lambda m: m.items[0].stride.append(1)),
        ("files", lambda m: m.items.pop()),
    ],
)
def test_a_checkpoint_is_checked_against_itself(
    field: str, change: Callable[[sources_pb2.Manifest], object], checkpoint: Checkpoint
) -> None:
    with pytest.raises(InvalidArgument, match=f"^manifest.{field}: "):
        read_manifest(changed(change, checkpoint_manifest(checkpoint, [ENDPOINT])))


ITEMS = st.builds(
    sources_pb2.Item,
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    size=st.integers(0, 2**64 - 1) | st.integers(0, 64),
    dtype=st.sampled_from(["", "torch.float32", "F32", "torch.float4_e2m1fn_x2", "x"]),
    shape=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 4), max_size=4),
    stride=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 4), max_size=4),
    digest=st.sampled_from([b"", bytes(16), b"x"]),
    region=st.integers(0, 2**32 - 1),
    offset=st.integers(0, 2**64 - 1) | st.just(0),
    file=st.integers(0, 3),
)
MANIFESTS = st.builds(
    sources_pb2.Manifest,
    form=st.integers(0, 4),
    items=st.lists(ITEMS, max_size=4),
    files=st.lists(
        st.builds(
            sources_pb2.File,
            path=st.sampled_from(["a", "b.safetensors", "../a", "", "A", "a\0"]),
            size=st.integers(0, 2**64 - 1) | st.integers(0, 64),
            header=st.binary(max_size=40),
        ),
        max_size=3,
    ),
    endpoints=st.lists(
        st.builds(sources_pb2.Endpoint, engine=st.sampled_from(["tcp", "", "\n"]), address=st.text(max_size=3)),
        max_size=2,
    ),
    content=st.sampled_from(["", "0" * 32]),
)


@settings(max_examples=300, deadline=None)
@given(MANIFESTS)
def test_garbage_is_refused_or_consistent(message: sources_pb2.Manifest) -> None:
    try:
        manifest = read_manifest(outlined(message))
    except InvalidArgument:
        return
    assert manifest.endpoints
    assert 0 <= manifest.total_size < 2**63
    assert len({(item.file, item.name) for item in manifest.items}) == len(manifest.items)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_are_refused_or_consistent(data: st.DataObject) -> None:
    encoded = bytearray(write_manifest(runtime()).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidArgument, DecodeError):
        read_manifest(outline_pb2.Manifest.FromString(bytes(encoded)))
