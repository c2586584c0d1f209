"""What a source offers, read from the wire with suspicion: a peer wrote it.

`read_manifest` checks everything that the rest relies on, so that nothing after it asks whether a size is believable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from peerload.checkpoint import Checkpoint, CheckpointFile, Part
from peerload.client.identity import Identity, read_identity
from peerload.client.items import Item, read_items
from peerload.client.sources import SourceInfo
from peerload.engines.base import Descriptor
from peerload.errors import InvalidArgument, InvalidCheckpoint, LimitExceeded
from peerload.metadata.limits import MAX_ENDPOINTS, MAX_TENSORS
from peerload.metadata.records import Form
from peerload.wire import outline_pb2, p2p_pb2, sources_pb2

__all__ = ["Item", "Manifest", "SourceManifest", "checkpoint_manifest", "read_manifest", "write_manifest"]

MAX_DESCRIPTOR_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one source offers, and the ways to read it. `checkpoint` is None in runtime form."""

    form: Form
    items: Sequence[Item]
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


def read_manifest(message: outline_pb2.Manifest) -> Manifest:
    """The manifest in a message whose items are left as they were encoded, checked. Raises `InvalidArgument` naming the field for
    whatever is wrong with it."""
    form = Form(int(message.form)) if int(message.form) in (Form.RUNTIME, Form.CHECKPOINT) else None
    if form is None:
        raise InvalidArgument("manifest.form", f"{message.form} is not a form that this release knows")
    endpoints = _endpoints(message.endpoints)
    if len(message.items) > MAX_TENSORS:
        raise LimitExceeded(
            "manifest.items", f"{len(message.items)} items; the limit is {MAX_TENSORS}", limit=MAX_TENSORS
        )
    items = read_items(message.items, form)
    if form is Form.CHECKPOINT:
        return Manifest(form, items, endpoints, _checkpoint(message, items), tuple(message.refs), message.part)
    if message.files:
        raise InvalidArgument("manifest.files", "only a checkpoint has files")
    if len(set(items.names)) != len(items):
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


def _checkpoint(message: outline_pb2.Manifest, items: Sequence[Item]) -> Checkpoint:
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
