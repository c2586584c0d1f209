"""Records by their keys: as they are now, and as they are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerload.errors import Conflict
from peerload.store.base import Expect
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.names import entry_name
from peerload.store.kubernetes.objects import Record, read_record
from peerload.store.kubernetes.resources import Resources

__all__ = ["Records"]


class Records:
    """What writers go by: the index, and the API server where that is not enough."""

    def __init__(self, resources: Resources, index: Index) -> None:
        self._resources = resources
        self._index = index

    def name(self, key: str) -> str:
        """The name of an entry's object."""
        held = self._index.by_key.get(key)
        return entry_name(self._resources.instance, key) if held is None else held.name

    def find(self, key: str) -> Record | None:
        """The latest that is known."""
        return self._index.find(self.name(key))

    async def ask(self, key: str) -> Record | None:
        """What holds now."""
        name = self.name(key)
        body = await self._resources.get(name)
        if body is None:
            self._index.forget(name)
            return None
        return self.read(body)

    async def patch(self, record: Record, patch: list[dict[str, Any]]) -> Record:
        """Change a record. Raises `Moved` and `NotThere`."""
        return self.read(await self._resources.patch(record.name, patch))

    async def create(self, body: Mapping[str, Any]) -> Record:
        """Create a record. Raises `Exists`."""
        return self.read(await self._resources.create(body))

    def read(self, body: Mapping[str, Any]) -> Record:
        """A record that was just read or written."""
        record = read_record(self._resources.instance, body)
        self._index.note(record)
        return record

    def differs(self, record: Record, expect: Expect) -> bool:
        """Whether it is not at the revision that a writer expects."""
        return isinstance(expect, int) and self._index.base + record.revision != expect

    def over(self, record: Record | None, expect: Expect) -> bool:
        """Whether the revision that a writer expects is a thing of the past, whatever has happened since."""
        return record is not None and isinstance(expect, int) and self._index.base + record.revision > expect

    def conflict(self, key: str, record: Record | None) -> Conflict:
        """The error for a record that is not as expected."""
        return Conflict(key, None if record is None else self._index.base + record.revision)
