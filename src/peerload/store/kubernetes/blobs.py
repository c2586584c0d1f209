"""Large blobs, in as many immutable ConfigMaps as they need.

The parts are written before the record that names them, under a token that no other write has, and never changed. So a
reader who has the record finds the parts of that blob or none, and what a crash between two writes leaves is named by no
record: the sweep removes it.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Mapping
from typing import Final

import structlog
import xxhash

from peerload.errors import Damaged, PeerloadError
from peerload.kubernetes.trouble import Exists, NotThere, Outage
from peerload.store.kubernetes.chunks import write_chunk
from peerload.store.kubernetes.names import LABELS, Type, chunk_name
from peerload.store.kubernetes.objects import BlobRef
from peerload.store.kubernetes.resources import Resources
from peerload.store.kubernetes.several import each

__all__ = ["CHUNK_BYTES", "INLINE_BYTES", "Blobs", "inlined"]

_log = structlog.stdlib.get_logger(__name__)

INLINE_BYTES: Final = 1024
"""What is no larger is kept in the record."""
CHUNK_BYTES: Final = 1_000_000
"""What one ConfigMap holds; Kubernetes allows a little more than this."""
_AT_ONCE: Final = 4


def inlined(blob: bytes) -> BlobRef | None:
    """A small blob as it is kept in the record; None for one that is too large."""
    return BlobRef(len(blob), base64.b64encode(blob).decode()) if len(blob) <= INLINE_BYTES else None


class Blobs:
    """Writes, reads and removes the parts of blobs."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._removing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what is still going on; the sweep does the rest."""
        for task in self._removing:
            task.cancel()
        if self._removing:
            await asyncio.wait(self._removing)

    async def write(self, blob: bytes, owner: Mapping[str, str] | None) -> BlobRef:
        """Write the parts of a blob. `owner`: a reference to the record that they go with, if it is there already.

        It is the first part that goes with the record; the others go with that.
        """
        token = secrets.token_hex(10)
        view = memoryview(blob)
        parts = [view[start : start + CHUNK_BYTES] for start in range(0, len(blob), CHUNK_BYTES)]
        await self._create_all(token, parts, owner)
        return BlobRef(len(blob), None, token, len(parts), xxhash.xxh3_128_hexdigest(blob))

    async def adopt(self, ref: BlobRef, owner: Mapping[str, str]) -> bool:
        """Let the parts of a blob go with a record. False if they are gone already."""
        try:
            await self._resources.own_chunk(chunk_name(ref.token, 0), owner)
        except NotThere:
            return False
        return True

    async def _create_all(self, token: str, parts: list[memoryview], owner: Mapping[str, str] | None) -> None:
        first = chunk_name(token, 0)
        uid = await self._create(first, parts[0], owner)
        head = {"apiVersion": "v1", "kind": "ConfigMap", "name": first, "uid": uid}
        others = enumerate(parts[1:], start=1)
        await each((self._create(chunk_name(token, number), part, head) for number, part in others), _AT_ONCE)

    async def read(self, ref: BlobRef) -> bytes | None:
        """A blob from its parts; None if one is missing. Raises `Damaged` if they are not what was written."""
        names = [chunk_name(ref.token, number) for number in range(ref.chunks)]
        parts = await each((self._resources.chunk(name) for name in names), _AT_ONCE)
        decoded: list[bytes] = []
        for part in parts:
            if part is None:
                return None
            decoded.append(part)
        blob = b"".join(decoded)
        if len(blob) != ref.size or xxhash.xxh3_128_hexdigest(blob) != ref.digest:
            raise Damaged(f"the ConfigMaps peerload-{ref.token}-* do not hold the blob that was written")
        return blob

    def remove_later(self, ref: BlobRef | None) -> None:
        """Remove the parts of a blob that no record names any more, in the background; what fails is left to the sweep."""
        if ref is None or not ref.token:
            return
        task = asyncio.create_task(self._remove(ref), name="removal of a blob")
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _remove(self, ref: BlobRef) -> None:
        try:
            names = [chunk_name(ref.token, number) for number in range(ref.chunks)]
            await each((self._resources.delete_chunk(name) for name in names), _AT_ONCE)
        except PeerloadError as error:
            _log.info("parts of a blob are left to the sweep", token=ref.token, error=str(error))

    async def _create(self, name: str, part: memoryview, owner: Mapping[str, str] | None) -> str:
        """Write one part; its uid."""
        labels = {LABELS.INSTANCE: self._resources.instance, LABELS.TYPE: Type.BLOB}
        try:
            return await self._resources.create_chunk(write_chunk(name, labels, owner, part))
        except Exists:  # by an earlier try, whose answer was lost: nobody else has the token
            uid = await self._resources.chunk_uid(name)
            if uid is None:
                raise Outage(f"the ConfigMap {name!r} was removed while a blob was written") from None
            return uid
