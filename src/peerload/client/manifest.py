"""What a source offers, read from the wire with suspicion: a peer wrote it.

`read_manifest` checks everything that the rest relies on, so that nothing after it asks whether a size is believable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, cast

from peerload.checkpoint import Checkpoint, CheckpointFile, Part
from peerload.checkpoint.dtypes import from_torch, itemsize_bits
from peerload.client.identity import Identity, read_identity
from peerload.client.sources import SourceInfo
from peerload.client.strides import dense_order, normal
from peerload.engines.base import DIGEST_BYTES, Descriptor, Range
from peerload.errors import InvalidArgument, InvalidCheckpoint, LimitExceeded
from peerload.metadata.limits import MAX_ENDPOINTS, MAX_NAME_BYTES, MAX_TENSORS
from peerload.metadata.records import Form
from peerload.wire import p2p_pb2, sources_pb2

__all__ = ["Item", "Manifest", "SourceManifest", "checkpoint_manifest", "read_manifest", "write_manifest"]

MAX_DIMENSIONS: Final = 64
MAX_DESCRIPTOR_BYTES: Final = 1 << 20
_MAX_BYTES: Final = 2**63 - 1

_Kind: TypeAlias = tuple[int, str, tuple[int, ...], tuple[int, ...]]
"""Size, dtype, shape and stride: tens of thousands of tensors have the same few, and are checked and kept once for each."""


class Item(NamedTuple):
    """The unit that is moved and verified: a tensor, or a piece of a plain file of a checkpoint.

    `dtype` is torch's name with prefix in runtime form, the safetensors name in checkpoint form, "" for pieces. `size` is in
    bytes; they begin at `offset` of the source's region number `region`. `digest` is xxh3-128, b"" where the publisher gave
    none. `file` is the index of the checkpoint's file. `stride` is in elements, () for C order; whatever it is, the elements
    fill their bytes without a hole. `device` is the index of the accelerator that they are on, None for host memory.
    """

    name: str
    size: int
    dtype: str
    shape: tuple[int, ...]
    digest: bytes
    region: int
    offset: int
    file: int = 0
    stride: tuple[int, ...] = ()
    device: int | None = None

    @property
    def range(self) -> Range:
        """Where the source has it."""
        return Range(self.region, self.offset, self.size)

    def agrees(self, other: Item) -> bool:
        """Whether both are known to be the same tensor: all but where it is, and a digest that says so."""
        mine, theirs = (
            (each.name, each.dtype, each.shape, each.stride, each.size, each.digest if each.size else b"")
            for each in (self, other)
        )
        return mine == theirs and (bool(self.digest) or not self.size)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one source offers, and the ways to read it. `checkpoint` is None in runtime form."""

    form: Form
    items: tuple[Item, ...]
    endpoints: tuple[Descriptor, ...]
    checkpoint: Checkpoint | None = None
    refs: tuple[str, ...] = ()
    """Branches and tags that the publisher knows the revision by."""
    part: str = ""
    """Which of the revision's files the publisher has, as it asked for them with patterns; "" for all."""
    bare: bool = False
    """Of a stock worker: there are no digests, and every shape is only the number of elements, in C order."""

    @property
    def total_size(self) -> int:
        """Bytes of all items, those that share memory counted once."""
        return sum(each.length for each in {item.range for item in self.items})


@dataclass(frozen=True, slots=True)
class SourceManifest:
    """A source with its identity, as it stands on the wire, and its manifest."""

    source: SourceInfo
    wire_identity: p2p_pb2.SourceIdentity
    manifest: Manifest

    @property
    def identity(self) -> Identity:
        """The identity that the weights were published under."""
        return read_identity(self.wire_identity)


def read_manifest(message: sources_pb2.Manifest) -> Manifest:
    """The manifest in a message, checked. Raises `InvalidArgument` naming the field for whatever is wrong with it."""
    form = Form(int(message.form)) if int(message.form) in (Form.RUNTIME, Form.CHECKPOINT) else None
    if form is None:
        raise InvalidArgument("manifest.form", f"{message.form} is not a form that this release knows")
    endpoints = _endpoints(message.endpoints)
    if len(message.items) > MAX_TENSORS:
        raise LimitExceeded(
            "manifest.items", f"{len(message.items)} items; the limit is {MAX_TENSORS}", limit=MAX_TENSORS
        )
    kinds: dict[_Kind, _Kind] = {}
    items = tuple([_item(index, item, form, kinds) for index, item in enumerate(message.items)])
    if sum(item.size for item in items) > _MAX_BYTES:
        raise InvalidArgument("manifest.items", "their sizes do not add up to a number of 63 bits")
    if form is Form.CHECKPOINT:
        return Manifest(form, items, endpoints, _checkpoint(message, items), tuple(message.refs), message.part)
    if message.files:
        raise InvalidArgument("manifest.files", "only a checkpoint has files")
    names = {item.name for item in items}
    if len(names) != len(items):
        raise InvalidArgument("manifest.items", "a name is there twice")
    return Manifest(form, items, endpoints)


def write_manifest(manifest: Manifest) -> sources_pb2.Manifest:
    """The message for a manifest of ours."""
    message = sources_pb2.Manifest(form=cast(sources_pb2.Form, int(manifest.form)))
    message.items.extend(
        sources_pb2.Item(
            name=item.name,
            size=item.size,
            dtype=item.dtype,
            shape=item.shape,
            digest=item.digest,
            region=item.region,
            offset=item.offset,
            file=item.file,
            stride=item.stride,
            device=item.device,
        )
        for item in manifest.items
    )
    if manifest.checkpoint is not None:
        message.content = manifest.checkpoint.content
        message.refs.extend(manifest.refs)
        message.part = manifest.part
        message.files.extend(
            sources_pb2.File(path=file.path, size=file.size, header=file.header, digest=file.digest(), blob=file.blob)
            for file in manifest.checkpoint.files
        )
    message.endpoints.extend(
        sources_pb2.Endpoint(engine=endpoint.engine, address=endpoint.address, descriptor=endpoint.data)
        for endpoint in manifest.endpoints
    )
    return message


def checkpoint_manifest(
    checkpoint: Checkpoint, endpoints: Iterable[Descriptor] = (), *, refs: Iterable[str] = (), part: str = ""
) -> Manifest:
    """The manifest of a checkpoint whose file number i is served as region number i."""
    items = tuple(
        Item(part.name, part.size, part.dtype, part.shape, part.digest, index, part.offset, index)
        for index, file in enumerate(checkpoint.files)
        for part in file.parts
    )
    return Manifest(Form.CHECKPOINT, items, tuple(endpoints), checkpoint, tuple(refs), part)


def _endpoints(messages: Sequence[sources_pb2.Endpoint]) -> tuple[Descriptor, ...]:
    if not messages:
        raise InvalidArgument("manifest.endpoints", "there is none: nobody could read from this source")
    if len(messages) > MAX_ENDPOINTS:
        raise LimitExceeded("manifest.endpoints", f"{len(messages)}; the limit is {MAX_ENDPOINTS}", limit=MAX_ENDPOINTS)
    for index, message in enumerate(messages):
        if not message.engine or len(message.engine) > 64 or not message.engine.isprintable():
            raise InvalidArgument(f"manifest.endpoints[{index}].engine", "is not the name of an engine")
        if len(message.address) > 512 or not message.address.isprintable():
            raise InvalidArgument(f"manifest.endpoints[{index}].address", "is not an address")
        if len(message.descriptor) > MAX_DESCRIPTOR_BYTES:
            raise LimitExceeded(
                f"manifest.endpoints[{index}].descriptor",
                f"{len(message.descriptor)} bytes; the limit is {MAX_DESCRIPTOR_BYTES}",
                limit=MAX_DESCRIPTOR_BYTES,
            )
    return tuple(Descriptor(message.engine, message.address, message.descriptor) for message in messages)


def _item(index: int, message: sources_pb2.Item, form: Form, kinds: dict[_Kind, _Kind]) -> Item:
    # Every look at a message costs as much as the checks of it: one for each member.
    name, size, offset, digest, strides = message.name, message.size, message.offset, message.digest, message.stride
    if not name:
        raise InvalidArgument(f"manifest.items[{index}].name", "is empty")
    # A character has at most four bytes.
    if len(name) * 4 > MAX_NAME_BYTES and len(name.encode()) > MAX_NAME_BYTES:
        field = f"manifest.items[{index}].name"
        raise LimitExceeded(field, f"longer than {MAX_NAME_BYTES} bytes", limit=MAX_NAME_BYTES)
    if size + offset > _MAX_BYTES:
        text = f"{size} bytes from {offset} is beyond any memory"
        raise InvalidArgument(f"manifest.items[{index}].size", text)
    if len(digest) not in (0, DIGEST_BYTES):
        field = f"manifest.items[{index}].digest"
        raise InvalidArgument(field, f"{len(digest)} bytes; a digest has {DIGEST_BYTES}")
    told: _Kind = (size, message.dtype, tuple(message.shape), tuple(strides) if strides else ())
    kind = kinds.get(told)
    if kind is None:
        kind = kinds[told] = _kind(f"manifest.items[{index}]", told, form)
    size, dtype, shape, stride = kind
    device = message.device if message.HasField("device") else None
    return Item(name, size, dtype, shape, digest, message.region, offset, message.file, stride, device)


def _kind(field: str, told: _Kind, form: Form) -> _Kind:
    """What was told of an item, with the strides that manifests have, once it is known to be sound."""
    size, dtype, shape, stride = told
    if form is Form.RUNTIME:
        _check_shape(field, dtype, shape, size)
    elif stride:
        raise InvalidArgument(f"{field}.stride", "tensors of files are contiguous")
    if not stride:
        return told
    if len(stride) != len(shape) or dense_order(shape, stride) is None:
        raise InvalidArgument(f"{field}.stride", f"{stride} is not how the elements of {shape} lie without holes")
    return size, dtype, shape, normal(shape, stride)


def _check_shape(field: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
    """Whether a tensor of that dtype and shape has that many bytes; of an unknown dtype, whether it could."""
    if len(shape) > MAX_DIMENSIONS:
        raise LimitExceeded(f"{field}.shape", f"more than {MAX_DIMENSIONS} dimensions", limit=MAX_DIMENSIONS)
    elements = math.prod(shape)
    try:
        bits = itemsize_bits(from_torch(dtype))
    except InvalidArgument:
        # Engines have dtypes that the format lacks; without their width only a bound can be checked.
        if elements > size * 8:
            raise InvalidArgument(f"{field}.shape", f"{elements} elements in {size} bytes") from None
        return
    if dtype == "torch.float4_e2m1fn_x2":
        bits = 8  # torch counts pairs
    if elements * bits != size * 8:
        raise InvalidArgument(f"{field}.size", f"{size} bytes is not what shape {shape} of {dtype} takes")


def _checkpoint(message: sources_pb2.Manifest, items: Sequence[Item]) -> Checkpoint:
    """The checkpoint that a manifest describes, checked against the format, its own digests and its content."""
    parts: list[list[Part]] = [[] for _ in message.files]
    for index, item in enumerate(items):
        if item.file >= len(parts):
            raise InvalidArgument(f"manifest.items[{index}].file", f"{item.file} is not one of {len(parts)} files")
        parts[item.file].append(Part(item.name, item.offset, item.size, item.digest, item.dtype, item.shape))
    checkpoint = Checkpoint(
        tuple(
            CheckpointFile(file.path, file.size, file.header, tuple(found), file.blob)
            for file, found in zip(message.files, parts, strict=True)
        )
    )
    try:
        checkpoint.validate()
    except InvalidCheckpoint as error:
        raise InvalidArgument("manifest.files", str(error)) from error
    if checkpoint.content != message.content:
        raise InvalidArgument("manifest.content", "is not the digest of the files and items that the manifest lists")
    return checkpoint
