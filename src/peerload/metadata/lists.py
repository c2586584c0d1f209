"""Lists: the sources that a query lets through, once that is certain."""

from __future__ import annotations

from collections.abc import Sequence

from peerload.metadata.directory.answers import Answers
from peerload.metadata.directory.directory import Directory
from peerload.metadata.directory.held import Held, is_suspect, oldest
from peerload.metadata.holding import Holding
from peerload.metadata.query import Query
from peerload.metadata.records import SourceRecord
from peerload.metadata.upkeep.suspicion import Suspicions

__all__ = ["Lists"]


class Lists:
    """Asks the directory. An answer without sources that may be an outage's doing is held until there are some, or it is
    certain, or `MetadataSettings.hold` has passed: then it is `Unavailable`."""

    def __init__(self, directory: Directory, holding: Holding, suspicions: Suspicions, cache_bytes: int) -> None:
        self._directory = directory
        self._holding = holding
        self._suspicions = suspicions
        self.answers = Answers(cache_bytes)
        """What was given last."""

    async def known(self, query: Query, deadline: float | None) -> None:
        """Return once it is certain what a query lets through. Raises `Unavailable`."""
        await self._holding.found(self._found, query, deadline)

    async def records(self, query: Query, deadline: float | None) -> Sequence[SourceRecord]:
        """See `MetadataBackend.select`."""
        records = []
        for ranks in await self._holding.found(self._found, query, deadline):
            record = ranks[0].view()
            records.append(record if len(ranks) == 1 else record._replace(updated_at=oldest(ranks)))
        if query.limit is None:
            records.sort(key=lambda record: -record.updated_at)
            records.sort(key=lambda record: record.suspect)
            records.sort(key=lambda record: (record.model_name, record.key.source_id, record.key.worker_rank))
        return records

    async def refs(self, query: Query, deadline: float | None) -> bytes:
        """See `MetadataBackend.list_refs`."""
        return await self._holding.found(self.encoded, query, deadline)

    def encoded(self, query: Query) -> bytes:
        """The list as the directory has it now."""
        # Heartbeats come in many at a time, and most who ask in between ask the same.
        version = self._directory.version(query)
        answer = self.answers.get(query, version)
        if answer is None:
            answer = b"".join(
                [
                    ranks[0].frame or ranks[0].framed() if len(ranks) == 1 else ranks[0].framed_at(oldest(ranks))
                    for ranks in self._found(query)
                ]
            )
            # That nothing was found is not kept: what strangers ask for has any size, and only what is there is bounded.
            if answer:
                self.answers.keep(query, version, answer)
        return answer

    def _found(self, query: Query) -> list[tuple[Held, ...]]:
        found = self._directory.find(query)
        if query.limit is None and self._suspicions:
            found.sort(key=is_suspect)
        return found
