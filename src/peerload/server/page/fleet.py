"""What one browser was told of the workers, and what there is to tell it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from peerload.metadata.directory.directory import Directory
from peerload.metadata.records import SourceKey, SourceRecord
from peerload.metadata.watch_event import WatchEvent

__all__ = ["Fleet"]

_MOST: Final = 20_000
"""Workers that one browser is told of."""
_AT_ONCE: Final = 500
"""Workers in one message: making one must not hold other calls up."""
_QUIET: Final = -1
_HOST: Final = "host"


class _Told:
    """A worker that the browser knows, by a number that stands for it."""

    __slots__ = ("beat", "number")

    def __init__(self, number: int, beat: tuple[int, int, bool]) -> None:
        self.number = number
        self.beat = beat


class Fleet:
    """The workers of one browser, from a watch's events. Each message is a dictionary fit for JSON; in the page,
    `files/fleet.js` reads it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._told: dict[str, _Told] = {}
        self._left_out: set[SourceKey] = set()

    def changes(self, event: WatchEvent) -> Iterator[dict[str, Any]]:
        """What a watch's event changes for the browser, in messages of some hundred workers each."""
        reset = event.complete
        if reset:
            self._told.clear()
            self._left_out.clear()
        gone = [told.number for key in event.gone if (told := self._told.pop(key.encode(), None)) is not None]
        self._left_out.difference_update(event.gone)
        present = iter(event.present)
        while some := list(itertools.islice(present, _AT_ONCE)):
            yield self._message(reset, some, gone)
            reset, gone = False, []
        if reset or gone:
            yield self._message(reset, (), gone)

    def beats(self) -> dict[str, Any]:
        """The heartbeats since the browser was last told, one after the other: a worker's number, stamp, load in percent (-1:
        not said) and 1 if it is suspect."""
        flat: list[int] = []
        for key, told in self._told.items():
            held = self._directory.get(key)
            if held is None:
                continue
            beat = (held.heard, _percent(held.load), held.suspect)
            if beat != told.beat:
                told.beat = beat
                flat += (told.number, *beat)
        return {"beats": [int(each) for each in flat]}

    def _message(self, reset: bool, records: Iterable[SourceRecord], gone: list[int]) -> dict[str, Any]:
        put = [self._worker(record) for record in records if self._takes(record.key)]
        return {"reset": reset, "put": put, "gone": gone, "more": len(self._left_out)}

    def _takes(self, key: SourceKey) -> bool:
        if key.encode() not in self._told and len(self._told) >= _MOST:
            self._left_out.add(key)
            return False
        self._left_out.discard(key)
        return True

    def _worker(self, record: SourceRecord) -> dict[str, Any]:
        key = record.key.encode()
        beat = (record.updated_at, _percent(record.load), record.suspect)
        told = self._told.get(key)
        if told is None:
            told = self._told[key] = _Told(next(self._numbers), beat)
        told.beat = beat
        place = dict(record.topology)
        said = {
            "n": told.number,
            "source": record.source_id,
            "worker": record.worker_id,
            "rank": record.worker_rank,
            "model": record.model_name,
            "revision": record.revision,
            "status": int(record.status),
            "beat": record.updated_at,
            "load": beat[1],
            "suspect": int(record.suspect),
            "form": int(record.form),
            "content": record.content,
            "items": record.item_count,
            "bytes": record.total_size,
            "engines": record.engines,
            "host": place.pop(_HOST, "") or record.pod.name,
            "topology": place,
            "accelerator": record.accelerator,
            "pod": "/".join(filter(None, (record.pod.namespace, record.pod.name))),
            "replica": record.replica,
            "world": record.world_size,
            "since": record.published_at,
            "step": record.training_step,
            "owner": record.owner,
            "refs": record.refs,
        }
        return {name: value for name, value in said.items() if value or name in ("rank", "load", "status")}


def _percent(load: float | None) -> int:
    return _QUIET if load is None else round(100 * load)
