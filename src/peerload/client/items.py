"""The items of a manifest: tens of thousands of tensors as a few columns, and an object only for whoever asks for one.

`read_items` takes them from the wire with suspicion, since a peer wrote them. What is asked of every item is asked of the columns
that a slice of the list has (wire/protos/outline.proto), a few steps of C for each. Only where something is wrong, or where the
columns do not tell which value is whose, items are looked at one by one, to take them as they are or to name the one that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Sized
from typing import Final, NamedTuple, TypeAlias, overload

from google.protobuf.message import DecodeError

from peerload.checkpoint.dtypes import from_torch, itemsize_bits
from peerload.client.strides import dense_order, normal
from peerload.engines.base import DIGEST_BYTES, Range
from peerload.errors import InvalidArgument, LimitExceeded
from peerload.metadata.limits import MAX_NAME_BYTES
from peerload.metadata.records import Form
from peerload.wire import outline_pb2, sources_pb2

__all__ = ["Item", "Items", "Kind", "read_items"]

MAX_DIMENSIONS: Final = 64
MAX_BYTES: Final = 2**63 - 1
_SLICE: Final = 512
"""Items whose columns are made at once: what is made on the way stays small."""
_LONGEST: Final = 8192
"""Bytes of an item that is one of many; what is longer is looked at by itself, for columns are some copies of it."""
_DIGEST_SIZES: Final = frozenset((0, DIGEST_BYTES))
_DEFAULTS: Final = outline_pb2.ExplicitItem(
    name="", size=0, dtype="", digest=b"", region=0, offset=0, file=0
).SerializeToString()

Kind: TypeAlias = tuple[int, str, tuple[int, ...], tuple[int, ...]]
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


class Items(Sequence[Item]):
    """Items by columns; equal to any sequence of the same items. Nobody changes one that he did not make."""

    __slots__ = ("devices", "digests", "files", "kinds", "names", "offsets", "regions")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.kinds: list[Kind] = []
        self.digests: list[bytes] = []
        self.regions: list[int] = []
        self.offsets: list[int] = []
        self.files: list[int] = []
        self.devices: list[int | None] = []

    @classmethod
    def of(cls, items: Sequence[Item]) -> Items:
        """These items, by columns."""
        if isinstance(items, Items):
            return items
        made = cls()
        kinds: dict[Kind, Kind] = {}
        for name, size, dtype, shape, digest, region, offset, file, stride, device in items:
            kind = size, dtype, shape, stride
            made._append(name, kinds.setdefault(kind, kind), digest, region, offset, file, device)
        return made

    @property
    def sizes(self) -> list[int]:
        """Bytes of each."""
        return [kind[0] for kind in self.kinds]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        size, dtype, shape, stride = self.kinds[index]
        digest, region, offset = self.digests[index], self.regions[index], self.offsets[index]
        return Item(
            self.names[index],
            size,
            dtype,
            shape,
            digest,
            region,
            offset,
            self.files[index],
            stride,
            self.devices[index],
        )

    def __iter__(self) -> Iterator[Item]:
        columns = (self.names, self.kinds, self.digests, self.regions, self.offsets, self.files, self.devices)
        for name, (size, dtype, shape, stride), digest, region, offset, file, device in zip(*columns, strict=True):
            yield Item(name, size, dtype, shape, digest, region, offset, file, stride, device)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} items>"

    def _append(
        self, name: str, kind: Kind, digest: bytes, region: int, offset: int, file: int, device: int | None
    ) -> None:
        self.names.append(name)
        self.kinds.append(kind)
        self.digests.append(digest)
        self.regions.append(region)
        self.offsets.append(offset)
        self.files.append(file)
        self.devices.append(device)


def read_items(elements: Sequence[bytes], form: Form) -> Items:
    """The items in a list of encoded `peerload.v1.Item`s, checked. Raises `InvalidArgument` naming the field for whatever is
    wrong with one of them, and for sizes that do not add up to a number of 63 bits."""
    reading = _Reading(form)
    for start in range(0, len(elements), _SLICE):
        some = elements[start : start + _SLICE]
        if not reading.columns(some):
            reading.one_by_one(some, start)
    if sum(reading.items.sizes) > MAX_BYTES:
        raise InvalidArgument("manifest.items", "their sizes do not add up to a number of 63 bits")
    return reading.items


class _Reading:
    """Items of one form as they are read."""

    def __init__(self, form: Form) -> None:
        self.items = Items()
        self._form = form
        self._kinds: dict[Kind, Kind] = {}
        """What was told of kinds, and what they are."""
        self._encoded: dict[tuple[int, str, bytes], Kind] = {}
        """The same by a shape as it is encoded."""

    def columns(self, elements: Sequence[bytes]) -> bool:
        """Take the items by their columns; False, and none is taken, where one is wrong or that is not certain."""
        count = len(elements)
        if max(map(len, elements)) > _LONGEST:
            return False
        whole = [_DEFAULTS + each for each in elements]
        try:
            explicit = outline_pb2.ExplicitItems.FromString(outline_pb2.Elements(elements=whole).SerializeToString())
            # What one message does not know another might take for a value.
            explicit.DiscardUnknownFields()
            found = outline_pb2.WholeItems.FromString(explicit.SerializeToString()).elements
        except DecodeError:
            return False
        # A copy of a column is a list, which is gone through at half the cost.
        names, digests = found.name[:], found.digest[:]
        sizes, offsets, regions, files = found.size[:], found.offset[:], found.region[:], found.file[:]
        told = list(zip(sizes, found.dtype, found.shape, strict=False))
        columns: tuple[Sized, ...] = (names, digests, sizes, offsets, regions, files, found.dtype, found.shape)
        devices: Sequence[int | None] = found.device[:] or [None] * count
        if {*map(len, columns)} != {count} or len(devices) != count or found.stride:
            return False
        # A character has at most four bytes.
        if not all(names) or max(map(len, names)) * 4 > MAX_NAME_BYTES:
            return False
        if max(sizes) + max(offsets) > MAX_BYTES or not _DIGEST_SIZES.issuperset(map(len, digests)):
            return False
        for kind, index in dict(zip(told, range(count), strict=True)).items():
            if kind not in self._encoded:
                try:
                    self._encoded[kind] = self._kind("", sources_pb2.Item.FromString(elements[index]))
                except InvalidArgument:
                    return False
        items = self.items
        items.names += names
        items.kinds += map(self._encoded.__getitem__, told)
        items.digests += digests
        items.regions += regions
        items.offsets += offsets
        items.files += files
        items.devices += devices
        return True

    def one_by_one(self, elements: Sequence[bytes], start: int) -> None:
        """Take items that begin with number `start`. Raises `InvalidArgument`."""
        for index, element in enumerate(elements, start):
            try:
                message = sources_pb2.Item.FromString(element)
            except DecodeError as error:
                raise InvalidArgument(f"manifest.items[{index}]", f"cannot be read: {error}") from error
            self._item(f"manifest.items[{index}]", message)

    def _item(self, field: str, message: sources_pb2.Item) -> None:
        name, size, offset, digest = message.name, message.size, message.offset, message.digest
        if not name:
            raise InvalidArgument(f"{field}.name", "is empty")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise LimitExceeded(f"{field}.name", f"longer than {MAX_NAME_BYTES} bytes", limit=MAX_NAME_BYTES)
        if size + offset > MAX_BYTES:
            raise InvalidArgument(f"{field}.size", f"{size} bytes from {offset} is beyond any memory")
        if len(digest) not in _DIGEST_SIZES:
            raise InvalidArgument(f"{field}.digest", f"{len(digest)} bytes; a digest has {DIGEST_BYTES}")
        kind = self._kind(field, message)
        device = message.device if message.HasField("device") else None
        self.items._append(name, kind, digest, message.region, offset, message.file, device)

    def _kind(self, field: str, message: sources_pb2.Item) -> Kind:
        """Of an item, with the strides that manifests have, once it is known to be sound."""
        told: Kind = (message.size, message.dtype, tuple(message.shape), tuple(message.stride))
        kind = self._kinds.get(told)
        if kind is None:
            kind = self._kinds[told] = _checked(field, told, self._form)
        return kind


def _checked(field: str, told: Kind, form: Form) -> Kind:
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
