"""All entries under a prefix at one moment, with their heartbeats."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import structlog

from peerload.errors import Damaged, Unavailable
from peerload.kubernetes.trouble import Gone
from peerload.store.base import Beat, Entry
from peerload.store.kubernetes.index import read_beat, read_beats
from peerload.store.kubernetes.names import LABELS, Type, prefix_selector
from peerload.store.kubernetes.objects import later, read_entry, read_record, type_in
from peerload.store.kubernetes.resources import Resources

__all__ = ["listed"]

_log = structlog.stdlib.get_logger(__name__)

_ATTEMPTS: Final = 3


async def listed(resources: Resources, base: int, prefix: str) -> tuple[tuple[Entry, ...], int]:
    """The entries in order of their keys, and the resourceVersion that all of them are at least as new as."""
    for _ in range(_ATTEMPTS):
        try:
            return await _listed(resources, base, prefix)
        except Gone as error:
            _log.info("a list took too long, and is begun again", error=str(error))
    raise Unavailable("the API server forgets lists before they are read to their end")


async def _listed(resources: Resources, base: int, prefix: str) -> tuple[tuple[Entry, ...], int]:
    labels = prefix_selector(prefix)
    beats: dict[int, Beat] = {}
    first: int | None = None
    if labels:
        # Another list than that of the records, and so an earlier one: what is later than it, the feed tells.
        async with contextlib.aclosing(resources.pages({LABELS.TYPE: Type.HEARTBEATS})) as pages:
            async for version, page in pages:
                first = version
                for body in page:
                    _merge(body, beats)
    found: list[dict[str, Any]] = []
    last = 0
    async with contextlib.aclosing(resources.pages(labels)) as pages:
        async for version, page in pages:
            last = version
            for body in page:
                match type_in(body):
                    case Type.LAYOUT:
                        pass
                    case Type.HEARTBEATS:
                        _merge(body, beats)
                    case _ if str(body.get("key", "")).startswith(prefix):
                        found.append(body)
    entries: list[Entry] = []
    for body in found:
        try:
            record = read_record(resources.instance, body)
            entries.append(read_entry(record, body, base, later(record.beat, beats.get(record.generation))))
        except Damaged as error:
            _log.warning("an object is left out", error=str(error))
    entries.sort(key=lambda entry: entry.key)
    return tuple(entries), last if first is None else first


def _merge(body: Mapping[str, Any], beats: dict[int, Beat]) -> None:
    """Raise heartbeats by those in an object."""
    try:
        for generation, text in read_beats(body.get("beats", "")):
            given = read_beat(text)
            held = beats.get(generation)
            if held is None or given.stamp > held.stamp:
                beats[generation] = given
    except (ValueError, AttributeError) as error:
        _log.warning("an object is left out", name=body["metadata"]["name"], error=repr(error))
