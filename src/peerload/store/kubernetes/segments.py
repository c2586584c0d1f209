"""The objects of shared heartbeats that one server writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from peerload.kubernetes.trouble import Exists, Moved, NotThere, Outage
from peerload.store.base import Beat
from peerload.store.kubernetes.index import Index, write_beats
from peerload.store.kubernetes.names import Type, heartbeats_name
from peerload.store.kubernetes.objects import body_of, version_of
from peerload.store.kubernetes.resources import Resources

__all__ = ["SEGMENT_BEATS", "Segments"]

SEGMENT_BEATS: Final = 2_000
"""An object that holds so many is full."""
_ATTEMPTS: Final = 3


@dataclass(slots=True)
class _Segment:
    name: str
    version: int | None = None
    """The object's resourceVersion; None: there is none, or it must be asked for."""
    beats: dict[int, Beat] = field(default_factory=dict)


class Segments:
    """A few objects, of which one takes the newest heartbeats. Used by one task at a time."""

    def __init__(self, resources: Resources, index: Index, token: str) -> None:
        self._resources = resources
        self._index = index
        self._token = token
        self._segments = [_Segment(heartbeats_name(token, 1))]
        self._current = self._segments[0]

    async def write(self, beats: Mapping[int, Beat], write: str) -> int:
        """Keep these heartbeats, all or none; the resourceVersion of the write. After an `Outage` that is ambiguous they are
        kept at the latest with those that come next."""
        segment = self._room(len(beats))
        together = {**segment.beats, **beats}
        try:
            version = await self._put(segment, write_beats(together), write)
        except Outage as error:
            segment.version = None
            if error.ambiguous:
                self._moved(segment, beats)
            raise
        self._moved(segment, beats)
        return version

    def _moved(self, segment: _Segment, beats: Mapping[int, Beat]) -> None:
        for other in self._segments:
            if other is not segment:
                for generation in beats.keys() & other.beats.keys():
                    del other.beats[generation]
        segment.beats.update(beats)

    def _room(self, count: int) -> _Segment:
        """The segment to write to: the present one, one that has been followed by others, or a new one."""
        self._tidy(self._current)
        if self._current.beats and len(self._current.beats) + count > SEGMENT_BEATS:
            for segment in self._segments:
                self._tidy(segment)
            emptiest = min(self._segments, key=lambda segment: len(segment.beats))
            if emptiest.beats and len(emptiest.beats) + count > SEGMENT_BEATS:
                emptiest = _Segment(heartbeats_name(self._token, len(self._segments) + 1))
                self._segments.append(emptiest)
            self._current = emptiest
        return self._current

    def _tidy(self, segment: _Segment) -> None:
        """Drop what no longer counts."""
        segment.beats = {
            generation: beat for generation, beat in segment.beats.items() if self._index.counts(generation, beat)
        }

    async def _put(self, segment: _Segment, text: str, write: str) -> int:
        fields = {"beats": text, "write": write}
        for _ in range(_ATTEMPTS):
            try:
                if segment.version is not None:
                    # Only over what this server wrote last: an earlier write may still be on its way.
                    patch = [{"op": "add", "path": "/metadata/resourceVersion", "value": str(segment.version)}]
                    patch += [{"op": "add", "path": f"/{name}", "value": member} for name, member in fields.items()]
                    body = await self._resources.patch(segment.name, patch)
                else:
                    body = await self._resources.create(
                        body_of(self._resources.instance, segment.name, Type.HEARTBEATS, fields)
                    )
            except (Moved, NotThere, Exists):
                held = await self._resources.get(segment.name)
                segment.version = None if held is None else version_of(held)
            else:
                segment.version = version_of(body)
                return segment.version
        raise Outage(f"the object {segment.name!r} is written by somebody else")
