"""What a source published, in pages: a manifest may have a million items, and a browser asks for those that are in sight."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peerload.clock import Clock
from peerload.errors import InvalidArgument, MissingField, NotFound
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.principals import Principal
from peerload.metadata.publications.stored import StoredSource
from peerload.metadata.scopes import check_model
from peerload.wire import p2p_pb2, sources_pb2

__all__ = ["Asked", "Manifests"]

_MOST_ROWS: Final = 500
_MOST_NAME: Final = 400
"""Characters of a name that are shown; searching looks at all of them."""
_MOST_WORDS: Final = 200
_SECONDS: Final = 10.0
_AT_ONCE: Final = 2
_KEPT: Final = 4
_KEPT_ITEMS: Final = 200_000
"""Of manifests that are kept decoded, all together."""
_ORDERS: Final = 2
_MOST_AXES: Final = 16
_MOST_ENDS: Final = 16
_MOST_EXTRA: Final = 64
_SORTS: Final = ("", "name", "size", "-size")


@dataclass(frozen=True, slots=True)
class Asked:
    """One page: `offset` and `limit` count the rows that `find` leaves, in the order of `sort`."""

    source_id: str
    worker_id: str
    rank: int
    offset: int
    limit: int
    find: str
    sort: str

    @classmethod
    def of(cls, values: Callable[[str], str]) -> Asked:
        """What the parameters of a request ask for. Raises `InvalidArgument`, naming the parameter."""
        for name in ("source", "worker"):
            if not values(name):
                raise MissingField(name)
        sort, find = values("sort"), values("find")
        if sort not in _SORTS:
            raise InvalidArgument("sort", "must be name, size or -size")
        if len(find) > _MOST_WORDS:
            raise InvalidArgument("find", f"must be {_MOST_WORDS} characters at most")
        return cls(
            source_id=values("source"),
            worker_id=values("worker"),
            rank=_number("rank", values("rank"), 2**32 - 1),
            offset=_number("offset", values("offset"), 2**32),
            limit=_number("limit", values("limit") or "200", _MOST_ROWS),
            find=find.casefold(),
            sort=sort,
        )


class _Contents:
    """A decoded publication: its items, whichever package's they are, and the orders in which they were asked for last."""

    def __init__(self, stored: StoredSource) -> None:
        self._identity = p2p_pb2.SourceIdentity.FromString(stored.identity)
        self._manifest: sources_pb2.Manifest | None = None
        worker = p2p_pb2.WorkerMetadata.FromString(stored.worker)
        self._address = worker.worker_grpc_endpoint or worker.metadata_endpoint or worker.transfer_engine_session_id
        self.items: Sequence[sources_pb2.Item] | Sequence[p2p_pb2.TensorDescriptor]
        if stored.manifest is not None:
            self._manifest = sources_pb2.Manifest.FromString(stored.manifest)
            self.items = self._manifest.items
        else:
            self.items = worker.tensor_source.tensors or worker.tensors
        self._orders: OrderedDict[tuple[str, str], Sequence[int]] = OrderedDict()

    def page(self, asked: Asked) -> dict[str, Any]:
        """The rows that were asked for, and what is said of all."""
        order = self._order(asked.find, asked.sort)
        rows = [self._row(index) for index in order[asked.offset : asked.offset + asked.limit]]
        manifest = self._manifest
        endpoints = (
            [] if manifest is None else [[each.engine, each.address] for each in manifest.endpoints[:_MOST_ENDS]]
        )
        if not endpoints and self._address:
            endpoints = [["", self._address]]
        return {
            "total": len(self.items),
            "matched": len(order),
            "offset": asked.offset,
            "rows": rows,
            "files": 0 if manifest is None else len(manifest.files),
            # Without their descriptors: whoever holds one may read.
            "endpoints": endpoints,
            "identity": _fields(self._identity),
        }

    def _order(self, find: str, sort: str) -> Sequence[int]:
        known = self._orders.pop((find, sort), None)
        if known is None:
            items = self.items
            known = range(len(items))
            if find:
                known = [index for index in known if find in items[index].name.casefold()]
            if sort == "name":
                known = sorted(known, key=lambda index: items[index].name)
            elif sort:
                known = sorted(known, key=lambda index: items[index].size, reverse=sort.startswith("-"))
        self._orders[find, sort] = known
        if len(self._orders) > _ORDERS:
            self._orders.popitem(last=False)
        return known

    def _row(self, index: int) -> list[Any]:
        """Place, name, dtype, shape, bytes, digest and file."""
        item = self.items[index]
        if isinstance(item, p2p_pb2.TensorDescriptor):
            return [index, item.name[:_MOST_NAME], item.dtype, "", item.size, "", ""]
        files = () if self._manifest is None else self._manifest.files
        file = files[item.file].path[:_MOST_NAME] if item.file < len(files) else ""
        shape = " × ".join(map(str, item.shape[:_MOST_AXES]))
        return [index, item.name[:_MOST_NAME], item.dtype, shape, item.size, item.digest.hex(), file]


class Manifests:
    """Pages of what sources published. The last few are kept decoded, where they are not too large."""

    def __init__(self, backend: MetadataBackend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._kept: OrderedDict[tuple[str, int], _Contents] = OrderedDict()
        self._working = asyncio.Semaphore(_AT_ONCE)

    async def page(self, asked: Asked, principal: Principal) -> dict[str, Any]:
        """What was asked for. Raises `NotFound`, `NotAllowed`, `Unavailable`."""
        stored = await self._backend.stored(
            asked.source_id, asked.worker_id, asked.rank, deadline=self._clock.monotonic() + _SECONDS
        )
        if stored is None:
            raise NotFound("this worker is not there any more")
        check_model(principal, stored.record.model_name)
        place = stored.record.key.encode(), stored.record.generation
        async with self._working:
            contents = self._kept.get(place)
            if contents is None:
                contents = await asyncio.to_thread(_Contents, stored)
            page = await asyncio.to_thread(contents.page, asked)
        self._keep(place, contents)
        return page

    def _keep(self, place: tuple[str, int], contents: _Contents) -> None:
        self._kept[place] = contents
        self._kept.move_to_end(place)
        while len(self._kept) > _KEPT or sum(len(each.items) for each in self._kept.values()) > _KEPT_ITEMS:
            self._kept.popitem(last=False)


def _fields(identity: p2p_pb2.SourceIdentity) -> list[list[str]]:
    """What an identity says, name by name."""
    said: list[list[str]] = []
    for field, value in identity.ListFields():
        if field.name == "extra_parameters":
            said += [[name[:_MOST_NAME], text[:_MOST_NAME]] for name, text in sorted(value.items())[:_MOST_EXTRA]]
        elif field.enum_type is not None:
            said.append([field.name, field.enum_type.values_by_number[value].name])
        else:
            said.append([field.name, str(value)[:_MOST_NAME]])
    return said


def _number(name: str, text: str, most: int) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and int(text) <= most):
        raise InvalidArgument(name, f"must be a number from 0 to {most}")
    return int(text)
