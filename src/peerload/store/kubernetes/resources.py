"""The objects in the API server that one store consists of, and the requests for them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from peerload.kubernetes.api import JSON_PATCH, KubeApi
from peerload.kubernetes.trouble import NotThere
from peerload.store.kubernetes.chunks import CHUNK_TYPE, read_chunk
from peerload.store.kubernetes.names import API_VERSION, LABELS, PLURAL, selector
from peerload.store.kubernetes.objects import version_of

__all__ = ["CALL_SECONDS", "Resources"]

CALL_SECONDS: Final = 2.0
"""How long a call may take that is about one record."""
_PAGE_OBJECTS: Final = 500
_PAGE_SECONDS: Final = 10.0
_CHUNK_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = (300, 600)
_SILENCE_SECONDS: Final = 90.0
"""A quiet watch brings a bookmark a minute."""
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Resources:
    """Records (the custom resource), ConfigMaps and Pods of the namespace; of the first two those with the label of the
    instance."""

    def __init__(self, api: KubeApi, instance: str, *, call_seconds: float = CALL_SECONDS) -> None:
        self._api = api
        self._call_seconds = call_seconds
        self.instance = instance
        self.latest = 0
        """The latest resourceVersion that the API server has told of."""
        self._asking: dict[str, asyncio.Task[dict[str, Any] | None]] = {}
        self._asked_next: dict[str, asyncio.Task[dict[str, Any] | None]] = {}

    @property
    def namespace(self) -> str:
        return self._api.namespace

    async def close(self) -> None:
        """Wait for the end of all that was asked; the API is closed already."""
        while tasks := [*self._asking.values(), *self._asked_next.values()]:
            await asyncio.wait(tasks)

    async def get(self, name: str) -> dict[str, Any] | None:
        """A record as it is now; not to be changed. Who asks while an answer is on its way shares the next one with all who
        do, because that answer may be older than the question."""
        task = self._asked_next.get(name)
        if task is None:
            task = self._asked_next[name] = asyncio.create_task(self._ask(name, self._asking.get(name)))
            task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def _ask(self, name: str, before: asyncio.Task[dict[str, Any] | None] | None) -> dict[str, Any] | None:
        if before is not None:
            await asyncio.wait([before])
        task = self._asking[name] = self._asked_next.pop(name)
        try:
            return await self._api.call("GET", self._records(name), seconds=self._call_seconds)
        except NotThere:
            return None
        finally:
            if self._asking.get(name) is task:
                del self._asking[name]

    async def create(self, body: Mapping[str, Any], *, seconds: float | None = None) -> dict[str, Any]:
        """Create a record. Raises `Exists`."""
        return self._told(
            await self._api.call("POST", self._records(), body=body, seconds=seconds or self._call_seconds)
        )

    async def patch(self, name: str, patch: list[dict[str, Any]]) -> dict[str, Any]:
        """Change a record. Raises `Moved` and `NotThere`."""
        path = self._records(name)
        return self._told(
            await self._api.call("PATCH", path, body=patch, content_type=JSON_PATCH, seconds=self._call_seconds)
        )

    async def delete(self, name: str, *, uid: str | None = None, version: int | None = None) -> None:
        """Delete a record, if it is that one. Raises `Moved` and `NotThere`."""
        conditions = {"uid": uid, "resourceVersion": None if version is None else str(version)}
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {name: text for name, text in conditions.items() if text is not None},
        }
        await self._api.call("DELETE", self._records(name), body=body, seconds=self._call_seconds)

    async def version(self) -> int:
        """How far the API server has come."""
        return version_of(await self._page(self._records(), {"limit": "1"}, {}, metadata_only=True))

    async def pages(
        self, labels: Mapping[str, str], *, metadata_only: bool = False
    ) -> AsyncGenerator[tuple[int, list[dict[str, Any]]], None]:
        """All records with these labels at one moment, some at a time, and the resourceVersion of that moment. Raises
        `Gone` if that took too long."""
        async for page in self._pages(self._records(), labels, metadata_only=metadata_only):
            yield page

    def watch(self, version: int) -> AsyncGenerator[dict[str, Any], None]:
        """What happens to records after a resourceVersion, for a while. Raises `Gone`."""
        query = {
            "labelSelector": selector({LABELS.INSTANCE: self.instance}),
            "resourceVersion": str(version),
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),
        }
        return self._api.watch(self._records(), query, silence=_SILENCE_SECONDS)

    async def chunk(self, name: str) -> bytes | None:
        """The part of a blob in a ConfigMap. Raises `Damaged` if it holds none."""
        try:
            answer = await self._api.fetch("GET", self._chunks(name), accept=CHUNK_TYPE, seconds=_CHUNK_SECONDS)
        except NotThere:
            return None
        return read_chunk(answer.body)

    async def chunk_uid(self, name: str) -> str | None:
        """The uid of a ConfigMap."""
        try:
            found = await self._api.call("GET", self._chunks(name), accept=_METADATA, seconds=_CHUNK_SECONDS)
        except NotThere:
            return None
        return str(found["metadata"]["uid"])

    async def create_chunk(self, body: bytes) -> str:
        """Create a ConfigMap; its uid. Raises `Exists`."""
        created = await self._api.call(
            "POST",
            self._chunks(),
            body=body,
            content_type=CHUNK_TYPE,
            accept=_METADATA,
            seconds=_CHUNK_SECONDS,
        )
        return str(created["metadata"]["uid"])

    async def own_chunk(self, name: str, owner: Mapping[str, Any]) -> None:
        """Let a ConfigMap go when its owner goes. Raises `NotThere`."""
        patch = [{"op": "add", "path": "/metadata/ownerReferences", "value": [owner]}]
        path = self._chunks(name)
        await self._api.call(
            "PATCH", path, body=patch, content_type=JSON_PATCH, accept=_METADATA, seconds=_CHUNK_SECONDS
        )

    async def delete_chunk(self, name: str) -> None:
        """Delete a ConfigMap, if it is there."""
        try:
            await self._api.call("DELETE", self._chunks(name), seconds=self._call_seconds)
        except NotThere:
            pass

    async def chunk_pages(self, labels: Mapping[str, str]) -> AsyncGenerator[tuple[int, list[dict[str, Any]]], None]:
        """The metadata of all ConfigMaps with these labels. Raises `Gone`."""
        async for page in self._pages(self._chunks(), labels, metadata_only=True):
            yield page

    async def pod(self, name: str) -> dict[str, Any] | None:
        """A Pod."""
        try:
            return await self._api.call("GET", f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        except NotThere:
            return None

    async def _pages(
        self, path: str, labels: Mapping[str, str], *, metadata_only: bool
    ) -> AsyncGenerator[tuple[int, list[dict[str, Any]]], None]:
        query = {"limit": str(_PAGE_OBJECTS)}
        while True:
            page = await self._page(path, query, labels, metadata_only=metadata_only)
            yield version_of(page), page["items"] or []
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def _page(
        self, path: str, query: Mapping[str, str], labels: Mapping[str, str], *, metadata_only: bool
    ) -> dict[str, Any]:
        selected = selector({LABELS.INSTANCE: self.instance, **labels})
        accept = _METADATA_LIST if metadata_only else "application/json"
        query = {**query, "labelSelector": selected}
        return self._told(await self._api.call("GET", path, query=query, accept=accept, seconds=_PAGE_SECONDS))

    def _told(self, body: dict[str, Any]) -> dict[str, Any]:
        self.latest = max(self.latest, version_of(body))
        return body

    def _records(self, name: str = "") -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}" + (f"/{name}" if name else "")

    def _chunks(self, name: str = "") -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps" + (f"/{name}" if name else "")


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever asked may be gone; then nobody looks at how it ended."""
    if not task.cancelled():
        task.exception()
