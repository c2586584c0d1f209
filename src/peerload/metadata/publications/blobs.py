"""The blob in which the store keeps what was published."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from peerload.errors import Damaged
from peerload.metadata.limits import MAX_MESSAGE_BYTES
from peerload.metadata.publications.publication import Publication
from peerload.wire import splice, stored_pb2

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Parts", "pack", "unpack"]

_LEVEL: Final = 1
_MAX_UNPACKED: Final = MAX_MESSAGE_BYTES + 1024 * 1024
_MAX_WINDOW_LOG: Final = 27


class Parts(NamedTuple):
    """A publication's parts as they were encoded."""

    worker: bytes
    identity: bytes
    manifest: bytes | None

    @property
    def size(self) -> int:
        return len(self.worker) + len(self.identity) + len(self.manifest or b"")


def pack(publication: Publication) -> bytes:
    """The blob of a publication. What is large is compressed from where it lies."""
    parts: list[bytes] = []
    for field, part in ((1, publication.worker), (2, publication.identity), (3, publication.manifest)):
        if part is not None:
            parts += splice.head_of_bytes(field, len(part)), part
    compressor = zstd.ZstdCompressor(level=_LEVEL)
    compressor.set_pledged_input_size(sum(map(len, parts)))
    packed = [compressor.compress(part) for part in parts]
    return b"".join((*packed, compressor.flush()))


def unpack(blob: bytes) -> Parts:
    """The parts in a blob. Raises `Damaged` for what is none, and for one that unpacks to more than can be published."""
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    decompressor = zstd.ZstdDecompressor(options=options)
    try:
        data = decompressor.decompress(blob, max_length=_MAX_UNPACKED)
        if not decompressor.eof or decompressor.unused_data:
            raise Damaged("a stored publication is cut off, followed by something else, or too large")
        message = stored_pb2.Publication.FromString(data)
    except zstd.ZstdError as error:
        raise Damaged(f"a stored publication does not decompress: {error}") from error
    except DecodeError as error:
        raise Damaged("a stored publication does not decode") from error
    if not message.identity:
        raise Damaged("a stored publication has no identity")
    return Parts(message.worker, message.identity, message.manifest if message.HasField("manifest") else None)
