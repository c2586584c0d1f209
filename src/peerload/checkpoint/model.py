"""What a checkpoint is: files, each cut into parts that are verified one by one.

A part is a tensor of a safetensors file, or a piece of any other file. Every part has a digest, every file a digest over
those, the checkpoint one over all files: so one pass over the bytes verifies parts, files and the whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import xxhash

from peerload.checkpoint.names import check_path, check_paths, is_blob_name, is_safetensors
from peerload.checkpoint.safetensors import parse_header
from peerload.errors import InvalidCheckpoint

__all__ = [
    "DIGEST_BYTES",
    "MAX_FILES",
    "PIECE_BYTES",
    "Checkpoint",
    "CheckpointFile",
    "Part",
    "digest",
    "pieces",
]

DIGEST_BYTES: Final = 16
"""Bytes of an xxh3-128 digest (xxHash's canonical, big-endian form)."""

PIECE_BYTES: Final = 64 << 20
"""The size of a piece of a file that is not safetensors. Part of the form: digests of files depend on it."""

MAX_FILES: Final = 10_000
"""Files in one checkpoint. Larger folders are not model repositories: somebody shares his home by mistake."""

_MAX_SIZE: Final = 2**63 - 1
_TAG: Final = b"peerload checkpoint 1\0"


def digest(data: bytes | memoryview) -> bytes:
    """The xxh3-128 digest of some bytes, 16 bytes. It catches corruption, not a lying peer."""
    return xxhash.xxh3_128(data).digest()


@dataclass(frozen=True, slots=True)
class Part:
    """A unit that is verified by itself: a tensor, or a piece of a file that is not safetensors.

    `name` is the tensor's, or the file's path, with `#3` for the fourth of several pieces. `offset` and `size` are
    bytes in the file, `digest` is the xxh3-128 of its bytes; `dtype` is the safetensors name, "" for pieces.
    """

    name: str
    offset: int
    size: int
    digest: bytes
    dtype: str = ""
    shape: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """The byte behind the part."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file: `header` is the raw safetensors header with its length prefix, b"" for other files.

    The parts are in file order and tile the bytes from the end of the header to the end of the file exactly.
    `blob` is the name that the Hugging Face cache has for these bytes, where a source knows it: no part of what the file is.
    """

    path: str
    size: int
    header: bytes
    parts: tuple[Part, ...]
    blob: str = field(default="", compare=False)

    def digest(self) -> bytes:
        """The file's digest: xxh3-128 over the digest of the header and the digests of the parts in order.

        Not the digest of the file's bytes: made from the parts' digests, so that verifying the parts verifies it.
        """
        total = xxhash.xxh3_128(digest(self.header))
        for part in self.parts:
            total.update(part.digest)
        return total.digest()

    def validate(self) -> None:
        """Check the file by itself. Raises `InvalidCheckpoint` naming the path and what is wrong."""
        check_path(self.path)
        if not 0 <= self.size <= _MAX_SIZE:
            raise InvalidCheckpoint(self.path, f"size: {self.size} bytes")
        if self.blob and not is_blob_name(self.blob):
            raise InvalidCheckpoint(self.path, f"blob: {self.blob[:200]!r} is neither 40 nor 64 hexadecimal digits")
        if is_safetensors(self.path):
            header = parse_header(self.header, self.size, self.path)
            if header.size != len(self.header):
                raise InvalidCheckpoint(self.path, "header: something follows the safetensors header")
            expected: Iterator[tuple[str, int, int, str, tuple[int, ...]]] = (
                (tensor.name, tensor.offset, tensor.size, tensor.dtype, tensor.shape) for tensor in header.tensors
            )
            count = len(header.tensors)
        else:
            if self.header:
                raise InvalidCheckpoint(self.path, "header: only a safetensors file has one")
            expected = ((name, offset, size, "", ()) for name, offset, size in pieces(self.path, self.size))
            count = -(-self.size // PIECE_BYTES)
        if len(self.parts) != count:
            raise InvalidCheckpoint(self.path, f"parts: {len(self.parts)} given where the file has {count}")
        for part, wanted in zip(self.parts, expected, strict=True):
            if (part.name, part.offset, part.size, part.dtype, part.shape) != wanted:
                raise InvalidCheckpoint(
                    self.path, f"parts: {part.name[:200]!r} at {part.offset} is not {wanted[0][:200]!r} at {wanted[1]}"
                )
            if len(part.digest) != DIGEST_BYTES:
                raise InvalidCheckpoint(self.path, f"parts: the digest of {part.name[:200]!r} is not 16 bytes")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of a model repository, sorted by path."""

    files: tuple[CheckpointFile, ...]

    @property
    def content(self) -> str:
        """The digest of everything, as 32 hex digits: over every file's path, size and digest, in order."""
        total = xxhash.xxh3_128(_TAG)
        for file in self.files:
            path = file.path.encode("utf-8", "surrogatepass")
            total.update(struct.pack("<I", len(path)) + path + struct.pack("<Q", file.size) + file.digest())
        return total.hexdigest()

    @property
    def total_size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def validate(self) -> None:
        """Check everything that a hostile or mistaken manifest could get wrong.

        Names and their collisions, order, sizes, headers against the format, parts against headers, digests' lengths.
        Raises `InvalidCheckpoint` naming the path and the field. Nothing is said about the bytes themselves.
        """
        if len(self.files) > MAX_FILES:
            raise InvalidCheckpoint("files", f"{len(self.files)} files; the limit is {MAX_FILES}")
        check_paths(file.path for file in self.files)
        for before, after in zip(self.files, self.files[1:], strict=False):
            if before.path >= after.path:
                raise InvalidCheckpoint(after.path, "files: not sorted by path")
        for file in self.files:
            file.validate()
        if self.total_size > _MAX_SIZE:
            raise InvalidCheckpoint("files", f"size: {self.total_size} bytes in all")


def pieces(path: str, size: int) -> Iterator[tuple[str, int, int]]:
    """How a file that is not safetensors is cut: (name, offset, size) of each piece; none for an empty file."""
    single = size <= PIECE_BYTES
    for index, offset in enumerate(range(0, size, PIECE_BYTES)):
        yield path if single else f"{path}#{index}", offset, min(PIECE_BYTES, size - offset)
