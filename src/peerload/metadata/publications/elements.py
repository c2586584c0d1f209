"""The long lists of a publication: tens of thousands of tensors or items, checked without an object for each.

What is asked of every element is asked first of the columns that a slice of the list has (wire/protos/outline.proto): whether
all is well is known after a few steps of C for each. Only where it is not, or where that is not certain, elements are looked
at one by one, to find and name the one that is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from peerload.errors import InvalidArgument, LimitExceeded
from peerload.metadata import limits
from peerload.metadata.limits import check_count, check_text
from peerload.metadata.publications.decoding import decoded
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.outline_pb2 import Elements, ItemList, Items, Tensors

__all__ = ["check_items", "check_names", "check_tensors", "check_total", "same"]

_SLICE: Final = 2048
"""Elements whose columns are made at once, within half a millisecond: other threads can go on after each step."""
_DIGEST_SIZES: Final = frozenset((0, 16))
_MAX_DIMENSIONS: Final = 64
_SETTING: Final = "--limit-tensors"


def check_tensors(field: str, tensors: Sequence[bytes], most: int) -> int:
    """The bytes in a list of encoded TensorDescriptors.

    Raises `LimitExceeded` and `InvalidArgument` naming the list or a member of its elements.
    """
    check_count(field, len(tensors), most, "tensors", _SETTING)
    total = _sound_tensors(tensors)
    if total is None or total > limits.MAX_TOTAL_SIZE:
        total = _each_tensor(field, tensors)
    return total


def check_items(field: str, items: Sequence[bytes], files: int, most: int) -> int:
    """The bytes in a list of encoded `peerload.v1.Item`s, of a manifest with so many files; raises as `check_tensors`."""
    check_count(field, len(items), most, "items", _SETTING)
    total = _sound_items(items, files)
    if total is None or total > limits.MAX_TOTAL_SIZE:
        total = _each_item(field, items, files)
    return total


def same(left: Sequence[bytes], right: Sequence[bytes]) -> bool:
    """Whether two lists have the same elements in the same order."""
    return len(left) == len(right) and all(
        left[start : start + _SLICE] == right[start : start + _SLICE] for start in range(0, len(left), _SLICE)
    )


def check_names(field: str, member: str, names: list[str]) -> None:
    """Raises for a name that is too long, or there twice."""
    distinct = set(names)
    _check_longest(f"{field}.{member}", distinct, limits.MAX_NAME_BYTES)
    if len(distinct) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidArgument(field, f"names {twice!r} twice")


def check_total(field: str, total: int) -> None:
    """Raises `LimitExceeded` for more bytes than any memory has."""
    if total > limits.MAX_TOTAL_SIZE:
        limit = limits.MAX_TOTAL_SIZE
        raise LimitExceeded(field, f"adds up to {total} bytes, more than {limit}", limit=limit)


def _sound_tensors(tensors: Sequence[bytes]) -> int | None:
    """The bytes in all, if there is nothing wrong with any; None: not certain."""
    names: set[str] = set()
    total = 0
    for start in range(0, len(tensors), _SLICE):
        elements = tensors[start : start + _SLICE]
        # No member is longer than what it is in.
        if max(map(len, elements)) > limits.MAX_TEXT_BYTES:
            return None
        try:
            columns = Tensors.FromString(Elements(elements=elements).SerializeToString()).elements
        except DecodeError:
            return None
        # A copy of a column is a list, which is gone through at half the cost.
        names.update(columns.name[:])
        total += sum(columns.size[:])
    return total if len(names) == len(tensors) else None


def _sound_items(items: Sequence[bytes], files: int) -> int | None:
    names: set[str] = set()
    total = 0
    for start in range(0, len(items), _SLICE):
        elements = items[start : start + _SLICE]
        if max(map(len, elements)) > limits.MAX_TEXT_BYTES:
            return None
        try:
            # Encoded anew, every shape is one packed member, whatever it was before.
            sound = ItemList.FromString(Elements(elements=elements).SerializeToString())
            columns = Items.FromString(sound.SerializeToString()).elements
        except DecodeError:
            return None
        # A dimension has a byte or more.
        if max(map(len, columns.shape), default=0) > _MAX_DIMENSIONS:
            return None
        if max(map(len, columns.stride), default=0) > _MAX_DIMENSIONS:
            return None
        if not _DIGEST_SIZES.issuperset(map(len, columns.digest[:])):
            return None
        if files and max(columns.file, default=0) >= files:
            return None
        # A copy of a column is a list, which is gone through at half the cost.
        names.update(columns.name[:])
        total += sum(columns.size[:])
    return total if len(names) == len(items) else None


def _each_tensor(field: str, tensors: Sequence[bytes]) -> int:
    # Elements stand where the message has its tensors.
    found = decoded(p2p_pb2.TensorSourceMetadata, Elements(elements=tensors).SerializeToString()).tensors
    names: list[str] = []
    dtypes: set[str] = set()
    total = 0
    # One pass: every look at a tensor costs more than what is done with it.
    for tensor in found:
        names.append(tensor.name)
        dtypes.add(tensor.dtype)
        total += tensor.size
    check_names(field, "name", names)
    _check_longest(f"{field}.dtype", dtypes, limits.MAX_TEXT_BYTES)
    check_total(field, total)
    return total


def _each_item(field: str, items: Sequence[bytes], files: int) -> int:
    # Two files of one checkpoint may have tensors of one name.
    names: dict[int, list[str]] = {}
    dtypes: set[str] = set()
    total = 0
    for encoded in items:
        item = decoded(sources_pb2.Item, encoded)
        if len(item.shape) > _MAX_DIMENSIONS or len(item.stride) > _MAX_DIMENSIONS:
            raise LimitExceeded(f"{field}.shape", f"of {item.name!r} has too many dimensions", limit=_MAX_DIMENSIONS)
        if len(item.digest) not in _DIGEST_SIZES:
            raise InvalidArgument(f"{field}.digest", f"of {item.name!r} has {len(item.digest)} bytes, not 16")
        if files and item.file >= files:
            raise InvalidArgument(f"{field}.file", f"of {item.name!r} is {item.file}; there are {files} files")
        names.setdefault(item.file, []).append(item.name)
        dtypes.add(item.dtype)
        total += item.size
    for of_file in names.values():
        check_names(field, "name", of_file)
    _check_longest(f"{field}.dtype", dtypes, limits.MAX_TEXT_BYTES)
    check_total(field, total)
    return total


def _check_longest(field: str, texts: Collection[str], limit: int) -> None:
    # A character has at most four bytes: where the longest text is short, none need be looked at.
    if max(map(len, texts), default=0) * 4 > limit:
        for text in texts:
            check_text(field, text, limit)
