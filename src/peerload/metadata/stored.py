"""One source together with what it published, ready to be answered."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.metadata.records import SourceRecord
from peerload.wire import splice

__all__ = ["StoredSource"]


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
        return b"".join(
            (
                splice.varint_field(1, 1),
                splice.bytes_field(2, self.worker, self._present()),
                splice.bytes_field(3, key.source_id.encode()),
                splice.bytes_field(4, key.worker_id.encode()),
                splice.bytes_field(5, self.identity),
            )
        )

    def manifest_response(self) -> bytes:
        """An encoded `peerload.v1.GetManifestResponse`."""
        parts = [
            splice.bytes_field(1, self.record.to_source().SerializeToString()),
            splice.bytes_field(2, self.identity),
            splice.bytes_field(3, self.worker, self._present()),
        ]
        if self.manifest is not None:
            parts.append(splice.bytes_field(4, self.manifest))
        return b"".join(parts)

    def _present(self) -> bytes:
        return splice.varint_field(4, self.record.status) + splice.varint_field(5, self.record.updated_at)
