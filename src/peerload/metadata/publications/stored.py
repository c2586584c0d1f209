"""One source together with what it published, ready to be answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peerload.metadata.records import SourceRecord
from peerload.wire import splice

__all__ = ["StoredSource"]


_FOUND: Final = splice.varint_field(1, 1)


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A record with its present status and heartbeat, and the parts of its publication as they were encoded."""

    record: SourceRecord
    identity: bytes
    worker: bytes
    """As published: its status and updated_at are out of date; `current_worker` has today's."""
    manifest: bytes | None

    def current_worker(self) -> bytes:
        """The encoded WorkerMetadata with the present status and heartbeat (of two scalars the later one counts)."""
        return self.worker + self._present()

    def metadata_response(self) -> bytes:
        """An encoded `GetMetadataResponse`, put together with one copy of what was published."""
        key = self.record.key
        source_id, worker_id = key.source_id.encode(), key.worker_id.encode()
        return b"".join(
            (
                _FOUND,
                *self._worker_field(2),
                splice.head_of_bytes(3, len(source_id)),
                source_id,
                splice.head_of_bytes(4, len(worker_id)),
                worker_id,
                splice.head_of_bytes(5, len(self.identity)),
                self.identity,
            )
        )

    def manifest_response(self) -> bytes:
        """An encoded `peerload.v1.GetManifestResponse`, put together likewise."""
        source = self.record.to_source().SerializeToString()
        parts = [
            splice.head_of_bytes(1, len(source)),
            source,
            splice.head_of_bytes(2, len(self.identity)),
            self.identity,
            *self._worker_field(3),
        ]
        if self.manifest is not None:
            parts += splice.head_of_bytes(4, len(self.manifest)), self.manifest
        return b"".join(parts)

    def _worker_field(self, field: int) -> tuple[bytes, bytes, bytes]:
        present = self._present()
        return splice.head_of_bytes(field, len(self.worker) + len(present)), self.worker, present

    def _present(self) -> bytes:
        return splice.varint_field(4, self.record.status) + splice.varint_field(5, self.record.updated_at)
