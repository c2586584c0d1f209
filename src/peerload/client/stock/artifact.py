"""What an artifact is made of: its manifest, written and read as the stock package does.

An artifact is a few files, cut into chunks. Each chunk and each file has a CRC32C; the SHA-256 of the manifest's canonical
JSON is the artifact's id. Whoever knows the id from elsewhere can trust the manifest, and with it every byte as far as a
CRC32C goes: it finds corruption, and does not protect from a peer that lies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

from peerload.checkpoint.names import check_paths
from peerload.errors import InvalidArgument, InvalidCheckpoint, LimitExceeded
from peerload.wire import p2p_pb2

__all__ = [
    "MAX_CHUNKS",
    "MAX_CHUNK_BYTES",
    "MAX_FILES",
    "PAGE",
    "ArtifactChunk",
    "ArtifactFile",
    "ArtifactManifest",
    "header_of",
    "read_chunks",
    "read_header",
    "source_metadata",
]

MANIFEST_VERSION: Final = 1
MAX_CHUNK_BYTES: Final = 4 << 30
"""What the stock package allows."""
MAX_FILES: Final = 4096
"""Stock artifacts have one or two; a header with more might not fit into one of its readers' answers."""
MAX_CHUNKS: Final = 1 << 20
PAGE: Final = 1024
"""Chunks that one answer lists at most."""

_MAX_BYTES: Final = 2**63 - 1
_ID_DIGITS: Final = 64
_CRC_DIGITS: Final = 8
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file: its absolute path where it was made, its bytes, and their CRC32C as eight hex digits."""

    path: str
    size: int
    checksum: str


@dataclass(frozen=True, slots=True)
class ArtifactChunk:
    """`length` bytes of the file with that index, from `offset`."""

    file: int
    offset: int
    length: int
    checksum: str


@dataclass(frozen=True)
class ArtifactManifest:
    """Files and chunks; the index of either is its place in the tuple."""

    source_type: int
    chunk_size: int
    files: tuple[ArtifactFile, ...]
    chunks: tuple[ArtifactChunk, ...]

    @cached_property
    def artifact_id(self) -> str:
        """SHA-256 over the canonical JSON, in hex."""
        text = json.dumps(
            {
                "manifest_version": MANIFEST_VERSION,
                "mx_source_type": self.source_type,
                "chunk_size": self.chunk_size,
                "files": [
                    {"file_index": index, "path": file.path, "size": file.size, "checksum": file.checksum}
                    for index, file in enumerate(self.files)
                ],
                "chunks": [
                    {
                        "chunk_index": index,
                        "file_index": chunk.file,
                        "file_offset": chunk.offset,
                        "length": chunk.length,
                        "checksum": chunk.checksum,
                    }
                    for index, chunk in enumerate(self.chunks)
                ],
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def total_size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files' paths below the folder that all of them lie in."""
        folders = [file.path.split("/")[:-1] for file in self.files]
        common = 0
        for parts in zip(*folders, strict=False):
            if len(set(parts)) > 1:
                break
            common += 1
        return tuple("/".join(file.path.split("/")[common:]) for file in self.files)

    def check(self) -> None:
        """Raise `InvalidArgument` unless the chunks cover each file exactly, in order, and `InvalidCheckpoint` for paths that
        are not safe."""
        covered = [0] * len(self.files)
        for index, chunk in enumerate(self.chunks):
            field = f"manifest.chunks[{index}]"
            if chunk.file >= len(self.files):
                raise InvalidArgument(f"{field}.file_index", f"{chunk.file} is not one of {len(self.files)} files")
            if not 0 < chunk.length <= self.chunk_size:
                raise InvalidArgument(f"{field}.length", f"{chunk.length} is not 1 to {self.chunk_size} bytes")
            if chunk.offset != covered[chunk.file]:
                raise InvalidArgument(f"{field}.file_offset", f"{chunk.offset}: a gap, or an overlap")
            covered[chunk.file] += chunk.length
            if covered[chunk.file] > self.files[chunk.file].size:
                raise InvalidArgument(f"{field}.length", f"{chunk.length} goes beyond the file's end")
        for index, file in enumerate(self.files):
            if covered[index] != file.size:
                raise InvalidArgument(f"manifest.files[{index}]", f"{covered[index]} of {file.size} bytes have chunks")
        _check_paths(self.files)
        check_paths(self.names)

    def page(self, start: int, most: int) -> list[p2p_pb2.ArtifactManifestChunk]:
        """Chunks from an index on, as messages."""
        return [self.chunk(index) for index in range(start, min(start + most, len(self.chunks)))]

    def chunk(self, index: int) -> p2p_pb2.ArtifactManifestChunk:
        """One chunk as a message."""
        chunk = self.chunks[index]
        return p2p_pb2.ArtifactManifestChunk(
            chunk_index=index,
            file_index=chunk.file,
            file_offset=chunk.offset,
            length=chunk.length,
            checksum=chunk.checksum,
        )

    def file_messages(self) -> list[p2p_pb2.ArtifactManifestFile]:
        """The files as messages."""
        return [
            p2p_pb2.ArtifactManifestFile(file_index=index, path=file.path, size=file.size, checksum=file.checksum)
            for index, file in enumerate(self.files)
        ]


def read_header(message: p2p_pb2.GetArtifactManifestHeaderResponse) -> ArtifactManifest:
    """The manifest that a header begins, still without chunks; a peer wrote it. Raises `InvalidArgument` naming the field."""
    if message.manifest_version != MANIFEST_VERSION:
        raise InvalidArgument("header.manifest_version", f"{message.manifest_version} is not {MANIFEST_VERSION}")
    _check_hex("header.artifact_id", message.artifact_id, _ID_DIGITS)
    if not 0 < message.chunk_size <= MAX_CHUNK_BYTES:
        raise InvalidArgument("header.chunk_size", f"{message.chunk_size} is not 1 to {MAX_CHUNK_BYTES} bytes")
    if len(message.files) > MAX_FILES:
        raise LimitExceeded("header.files", f"{len(message.files)} files, more than {MAX_FILES}", limit=MAX_FILES)
    if message.chunk_count > MAX_CHUNKS:
        raise LimitExceeded(
            "header.chunk_count", f"{message.chunk_count} chunks, more than {MAX_CHUNKS}", limit=MAX_CHUNKS
        )
    if message.file_count != len(message.files):
        raise InvalidArgument("header.file_count", f"{message.file_count}, and {len(message.files)} files are listed")
    files = []
    for index, file in enumerate(message.files):
        if file.file_index != index:
            raise InvalidArgument(f"header.files[{index}].file_index", f"is {file.file_index}")
        _check_hex(f"header.files[{index}].checksum", file.checksum, _CRC_DIGITS)
        files.append(ArtifactFile(file.path, file.size, file.checksum))
    _check_paths(files)
    total = sum(file.size for file in files)
    if total > _MAX_BYTES or total != message.total_size:
        raise InvalidArgument("header.total_size", f"{message.total_size}, and the files add up to {total} bytes")
    if message.chunk_count > total or message.chunk_count * message.chunk_size < total:
        raise InvalidArgument("header.chunk_count", f"{message.chunk_count} chunks cannot make up {total} bytes")
    return ArtifactManifest(int(message.mx_source_type), message.chunk_size, tuple(files), ())


def read_chunks(messages: Sequence[p2p_pb2.ArtifactManifestChunk], start: int) -> Iterable[ArtifactChunk]:
    """Chunks of one page, which must follow each other from `start`. Raises `InvalidArgument`."""
    for index, chunk in enumerate(messages, start):
        if chunk.chunk_index != index:
            raise InvalidArgument(f"manifest.chunks[{index}].chunk_index", f"is {chunk.chunk_index}")
        _check_hex(f"manifest.chunks[{index}].checksum", chunk.checksum, _CRC_DIGITS)
        yield ArtifactChunk(chunk.file_index, chunk.file_offset, chunk.length, chunk.checksum)


def source_metadata(manifest: ArtifactManifest, node_rank: int) -> p2p_pb2.ArtifactSourceMetadata:
    """What a record says of an artifact."""
    return p2p_pb2.ArtifactSourceMetadata(
        artifact_id=manifest.artifact_id,
        total_size=manifest.total_size,
        file_count=len(manifest.files),
        chunk_count=len(manifest.chunks),
        node_rank=node_rank,
    )


def header_of(manifest: ArtifactManifest) -> p2p_pb2.GetArtifactManifestHeaderResponse:
    """The header, without the parts that say where it is served."""
    return p2p_pb2.GetArtifactManifestHeaderResponse(
        artifact_id=manifest.artifact_id,
        manifest_version=MANIFEST_VERSION,
        mx_source_type=cast(p2p_pb2.MxSourceType, manifest.source_type),
        total_size=manifest.total_size,
        file_count=len(manifest.files),
        chunk_count=len(manifest.chunks),
        chunk_size=manifest.chunk_size,
        files=manifest.file_messages(),
    )


def _check_paths(files: Iterable[ArtifactFile]) -> None:
    """Raise `InvalidCheckpoint` unless each path is absolute and plain. Only what is below their common folder is ever used."""
    for file in files:
        if not file.path.startswith("/"):
            raise InvalidCheckpoint(ascii(file.path)[:200], "the path of an artifact's file is not absolute")
        if any(part in ("", ".", "..") for part in file.path[1:].split("/")):
            raise InvalidCheckpoint(ascii(file.path)[:200], "the path has an empty component, '.' or '..'")


def _check_hex(field: str, text: str, digits: int) -> None:
    if len(text) != digits or not _HEX.issuperset(text):
        raise InvalidArgument(field, f"{ascii(text)[:100]} is not {digits} hex digits")
