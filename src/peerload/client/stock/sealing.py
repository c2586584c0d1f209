"""An artifact as its source keeps it: folders packed into files that nobody can change, and their manifest."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from peerload.checkpoint import Progress, Skipped
from peerload.checkpoint.names import check_path
from peerload.client.stock.archive import pack
from peerload.client.stock.artifact import ArtifactChunk, ArtifactFile, ArtifactManifest
from peerload.client.stock.crc import new_crc
from peerload.client.threads import Stopped
from peerload.errors import InvalidArgument, TransferFailed

__all__ = ["PRIMARY", "Sealed", "seal"]

PRIMARY: Final = "artifact.tar"
"""The archive of the folder itself; that of another root is its name and `.tar`."""

_PLACE: Final = "/artifact/"
"""Where the archives say that they lie. The stock package writes the path on its own disk, which is nobody's business; readers
take the last component."""
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sealed:
    """Archives on this machine's disk without a name there, and what is in them."""

    manifest: ArtifactManifest
    files: tuple[BinaryIO, ...]
    skipped: tuple[Skipped, ...]

    def read(self, index: int, into: memoryview) -> None:
        """A chunk's bytes. Blocks; from any thread. Raises `TransferFailed` where the file ends before it, `OSError`."""
        chunk = self.manifest.chunks[index]
        done = 0
        while done < chunk.length:
            count = os.preadv(self.files[chunk.file].fileno(), [into[done : chunk.length]], chunk.offset + done)
            if not count:
                raise TransferFailed(f"chunk {index} of the artifact is cut short", retryable=False)
            done += count

    def close(self) -> None:
        """Give the room on the disk back. Closing twice is allowed."""
        for file in self.files:
            file.close()


def seal(
    folder: Path,
    roots: Mapping[str, Path],
    *,
    source_type: int,
    chunk_size: int,
    spool: Path | None,
    stop: threading.Event,
    progress: Progress | None,
) -> Sealed:
    """Pack a folder, and each of `roots` by name, into unnamed files below `spool` (else where temporary files go).

    Blocks; ends early once `stop` is set. `progress` is told of the bytes that are packed and given checksums. Raises
    `InvalidCheckpoint` naming what cannot be shared, `InvalidArgument` for a root's name, `MissingExtra`, `OSError`.
    """
    new_crc()  # before anything is packed for it
    named = {PRIMARY: folder, **{_archive(name): root for name, root in roots.items()}}
    files: list[BinaryIO] = []
    skipped: list[Skipped] = []
    with ExitStack() as stack:
        for name in sorted(named):
            file = stack.enter_context(tempfile.TemporaryFile(prefix="peerload-artifact-", dir=spool))
            files.append(cast(BinaryIO, file))
            left_out = pack(named[name], files[-1], stop)
            file.flush()
            below = "" if name == PRIMARY else f"{name.removesuffix('.tar')}: "
            skipped += [Skipped(below + each.path, each.reason) for each in left_out]
        manifest = _manifest(sorted(named), files, source_type, chunk_size, stop, progress)
        stack.pop_all()
    return Sealed(manifest, tuple(files), tuple(skipped))


def _archive(name: str) -> str:
    archive = f"{name}.tar"
    check_path(archive)
    if not name or "/" in name or archive == PRIMARY:
        raise InvalidArgument("roots", f"{name[:100]!r} cannot be the name of a root")
    return archive


def _manifest(
    names: list[str],
    files: list[BinaryIO],
    source_type: int,
    chunk_size: int,
    stop: threading.Event,
    progress: Progress | None,
) -> ArtifactManifest:
    described: list[ArtifactFile] = []
    chunks: list[ArtifactChunk] = []
    sizes = [os.fstat(file.fileno()).st_size for file in files]
    done = 0
    for index, (name, file, size) in enumerate(zip(names, files, sizes, strict=True)):
        whole = new_crc()
        for offset in range(0, size, chunk_size):
            length, at = min(chunk_size, size - offset), offset
            each = new_crc()
            while at < offset + length:
                block = os.pread(file.fileno(), min(_BLOCK, offset + length - at), at)
                if stop.is_set():
                    raise Stopped
                if not block:
                    raise OSError(f"the archive in the spool folder ended at byte {at} of {size}")
                each.update(block)
                whole.update(block)
                at += len(block)
                done += len(block)
            chunks.append(ArtifactChunk(index, offset, length, each.hexdigest().decode()))
            if progress is not None:
                progress(done, sum(sizes))
        described.append(ArtifactFile(_PLACE + name, size, whole.hexdigest().decode()))
    return ArtifactManifest(source_type, chunk_size, tuple(described), tuple(chunks))
