"""Records by key, by source and by model."""

from __future__ import annotations

from collections.abc import Sequence

from peerload.metadata.directory.group import Group
from peerload.metadata.directory.held import Held
from peerload.metadata.query import Query
from peerload.metadata.records import SourceRecord

__all__ = ["Index"]


class Index:
    """Where a record is found. What a question about one source or one model costs does not depend on the others."""

    def __init__(self) -> None:
        self.entries: dict[str, Held] = {}
        """By key of the store."""
        self._sources: dict[str, Group] = {}
        self._models: dict[str, dict[str, int]] = {}
        self._owners: dict[str, int] = {}
        self._changes = 0

    def add(self, key: str, held: Held) -> None:
        """Take in a record that was not there."""
        self.entries[key] = held
        source_id = held.record.key.source_id
        group = self._sources.get(source_id)
        if group is None:
            group = self._sources[source_id] = Group()
        group.add(held)
        self._note(group)
        self._count(held.record, +1)

    def remove(self, key: str) -> Held:
        """Let a record go that was there."""
        held = self.entries.pop(key)
        held.removed = True
        source_id = held.record.key.source_id
        group = self._sources[source_id]
        group.remove(held)
        self._note(group)
        if not group.members:
            del self._sources[source_id]
        self._count(held.record, -1)
        return held

    def renamed(self, before: SourceRecord, after: SourceRecord) -> None:
        """A record changed. A source id ignores case, so its model's name may be spelled differently now; and it may
        belong to another."""
        if before.model_name != after.model_name or before.owner != after.owner:
            self._count(before, -1)
            self._count(after, +1)

    def changed(self, held: Held) -> None:
        """Something of a record that is there has changed, be it a heartbeat."""
        group = self._sources[held.record.key.source_id]
        group.changed(held)
        self._note(group)

    def version(self, query: Query) -> int:
        """A number that stays the same as long as all answers to a query do, and never comes back."""
        if query.source_id is None:
            return self._changes
        group = self._sources.get(query.source_id)
        return 0 if group is None else group.version

    def groups(self, query: Query) -> Sequence[Group]:
        """The sources among whose records the answers to a query are, by source id."""
        if query.source_id is not None:
            group = self._sources.get(query.source_id)
            return () if group is None else (group,)
        if query.model_name is not None:
            return [self._sources[source_id] for source_id in sorted(self._models.get(query.model_name, ()))]
        return [self._sources[source_id] for source_id in sorted(self._sources)]

    def ranks(self, source_id: str, worker_id: str) -> tuple[Held, ...]:
        """The records under one worker id, lowest rank first."""
        group = self._sources.get(source_id)
        return () if group is None else group.members.get(worker_id, ())

    def sources(self) -> list[tuple[str, str]]:
        """Every source id and its model's name, sorted by name."""
        pairs = ((name, source_id) for name, ids in self._models.items() for source_id in ids)
        return [(source_id, name) for name, source_id in sorted(pairs)]

    def models(self) -> list[str]:
        """Every model's name, in no order."""
        return list(self._models)

    def models_of(self, source_id: str) -> set[str]:
        """How the name of a source's model is spelled by those who published it."""
        group = self._sources.get(source_id)
        return set() if group is None else {ranks[0].record.model_name for ranks in group.members.values()}

    def owned(self, owner: str) -> int:
        """How many records belong to a principal."""
        return self._owners.get(owner, 0)

    def _note(self, group: Group) -> None:
        self._changes += 1
        group.version = self._changes

    def _count(self, record: SourceRecord, change: int) -> None:
        sources = self._models.setdefault(record.model_name, {})
        if record.owner:
            owned = self._owners.get(record.owner, 0) + change
            if owned:
                self._owners[record.owner] = owned
            else:
                del self._owners[record.owner]
        source_id = record.key.source_id
        count = sources.get(source_id, 0) + change
        if count:
            sources[source_id] = count
            return
        del sources[source_id]
        if not sources:
            del self._models[record.model_name]
