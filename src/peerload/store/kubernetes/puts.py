"""Puts: a conditional write of one object, after the parts of a large blob and before their owner references."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Any, Final

import structlog

from peerload.errors import Unavailable
from peerload.kubernetes.trouble import Exists, Forbidden, Moved, NotThere, Outage
from peerload.locks import KeyLocks
from peerload.store.base import ABSENT, Beat, Expect, Keep, Value, Written
from peerload.store.kubernetes.blobs import Blobs, inlined
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.names import Type, type_of
from peerload.store.kubernetes.objects import BlobRef, Content, Record, create_body, later, update_patch
from peerload.store.kubernetes.records import Records
from peerload.store.kubernetes.resources import Resources

__all__ = ["Puts"]

_log = structlog.stdlib.get_logger(__name__)

_ATTEMPTS: Final = 20
_PUT_SECONDS: Final = 120.0
"""A put that takes longer gives up: the sweep relies on it."""
_POD_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


class Puts:
    """The puts of one server."""

    def __init__(self, resources: Resources, index: Index, records: Records, blobs: Blobs) -> None:
        self._resources = resources
        self._index = index
        self._records = records
        self._blobs = blobs
        self._locks = KeyLocks()
        self._pods_forbidden = False

    async def put(
        self, key: str, value: Value, text: str, blob: bytes | Keep, expect: Expect, beat: Beat | None
    ) -> Written:
        """As `Store.put`; everything is well-formed, and `text` is the value as JSON."""
        put = _Put(self._index, self._records, self._blobs, self._resources.instance)
        try:
            async with asyncio.timeout(_PUT_SECONDS):
                owner = None if isinstance(blob, Keep) else await self._pod(key, value)
                content = Content(key, value, text, secrets.token_hex(8), beat, None, isinstance(blob, Keep), owner)
                # Of those who would write it at once, all but the first know that they are late without asking.
                async with self._locks.hold(key):
                    record = await put.run(content, blob, expect)
        except TimeoutError:
            raise Unavailable(f"the entry could not be written within {_PUT_SECONDS:g} s") from None
        return Written(self._index.base + record.revision, self._index.base + record.generation)

    async def _pod(self, key: str, value: Value) -> dict[str, Any] | None:
        """The Pod that a publisher says it runs in, as an owner: if it is here, and the very one."""
        name, uid, namespace = (value.get(f"pod.{part}") for part in ("name", "uid", "namespace"))
        if type_of(key) != Type.SOURCE or namespace != self._resources.namespace:
            return None
        if not (isinstance(name, str) and isinstance(uid, str) and _POD_NAME.fullmatch(name)):
            return None
        try:
            pod = await self._resources.pod(name)
        except Forbidden as error:
            if not self._pods_forbidden:
                self._pods_forbidden = True
                _log.warning("sources are not removed with their Pods", error=str(error))
            return None
        self._pods_forbidden = False
        if pod is None or pod["metadata"]["uid"] != uid:
            return None
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


class _Put:
    """One put on its way."""

    def __init__(self, index: Index, records: Records, blobs: Blobs, instance: str) -> None:
        self._index = index
        self._records = records
        self._blobs = blobs
        self._instance = instance
        self._ref: BlobRef | None = None
        self._ref_owner: str | None = None
        """The uid of the record for which the parts of the blob were written, if it was known."""

    async def run(self, content: Content, blob: bytes | Keep, expect: Expect) -> Record:
        """Write it. Raises `Conflict`, and then nothing is left of it."""
        record, asked = self._records.find(content.key), False
        for _ in range(_ATTEMPTS):
            begun = record is not None and record.write == content.write
            if record is not None and begun and self._names_blob(record) and await self._adopted(record):
                return record
            if not begun and self._unexpected(record, expect):
                if asked or self._records.over(record, expect):
                    self._blobs.remove_later(self._ref)
                    raise self._records.conflict(content.key, record)
                record, asked = await self._records.ask(content.key), True
                continue
            try:
                written = await self._send(record, await self._with_blob(content, blob, record))
            except (Moved, NotThere, Exists):
                record, asked = await self._records.ask(content.key), True
            except Outage as error:
                # Whether it was done, the record tells; if somebody has written it since, nobody knows any more.
                found = await self._records.ask(content.key) if error.ambiguous else None
                if found is None or found.write != content.write:
                    raise
                record = found
            else:
                if record is not None and not begun and not isinstance(blob, Keep):
                    self._blobs.remove_later(record.blob)
                record = written
        raise Unavailable(f"{content.key!r} is written by others over and over; try again")

    def _unexpected(self, record: Record | None, expect: Expect) -> bool:
        if record is None:
            return isinstance(expect, int)
        return expect is ABSENT or self._records.differs(record, expect)

    async def _with_blob(self, content: Content, blob: bytes | Keep, record: Record | None) -> Content:
        """The content with what becomes of beat and blob, given what is there."""
        if isinstance(blob, Keep):
            held = None if record is None else self._index.beat_of(record)
            return content.over(beat=later(held, content.beat), blob=None)
        ref = inlined(blob)
        if ref is not None:
            return content.over(beat=content.beat, blob=ref)
        uid = None if record is None else record.uid
        if self._ref is None or (self._ref_owner is not None and self._ref_owner != uid):
            # What was written for a record that is gone by now, goes after it.
            self._ref = await self._blobs.write(blob, None if record is None else record.reference)
            self._ref_owner = uid
        return content.over(beat=content.beat, blob=self._ref)

    async def _send(self, record: Record | None, content: Content) -> Record:
        if record is None:
            return await self._records.create(create_body(self._instance, content))
        return await self._records.patch(record, update_patch(record, content))

    def _names_blob(self, record: Record) -> bool:
        """Whether a record that this put has written has the parts of the blob that it wrote last."""
        return self._ref is None or (record.blob is not None and record.blob.token == self._ref.token)

    async def _adopted(self, record: Record) -> bool:
        """Let the parts of the blob go with the record, before anybody relies on it. False if they must be written again."""
        if self._ref is None or self._ref_owner == record.uid or await self._blobs.adopt(self._ref, record.reference):
            return True
        self._ref = None
        return False
