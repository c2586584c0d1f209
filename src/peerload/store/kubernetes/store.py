"""The store over a Kubernetes API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from peerload.clock import Clock
from peerload.errors import Damaged, InvalidArgument, NotFound, PeerloadError, Unavailable
from peerload.finding import Finding
from peerload.kubernetes.api import KubeApi
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import Forbidden
from peerload.store.base import (
    ANY,
    KEEP,
    Any,
    Beat,
    Entry,
    Expect,
    Feed,
    Keep,
    Listing,
    Position,
    Store,
    Touch,
    Touched,
    Value,
    Written,
)
from peerload.store.kubernetes import examination
from peerload.store.kubernetes.blobs import Blobs
from peerload.store.kubernetes.deletions import Deletions
from peerload.store.kubernetes.feed import follow, write_position
from peerload.store.kubernetes.fence import Fence
from peerload.store.kubernetes.heartbeats import Heartbeats
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.kubetime import KubeTime
from peerload.store.kubernetes.layout import NewerLayout
from peerload.store.kubernetes.lists import listed
from peerload.store.kubernetes.log import LOG_LIMIT
from peerload.store.kubernetes.names import Type, entry_name, type_of
from peerload.store.kubernetes.objects import read_entry, read_record
from peerload.store.kubernetes.puts import Puts
from peerload.store.kubernetes.records import Records
from peerload.store.kubernetes.reflector import BACK_SECONDS, Reflector
from peerload.store.kubernetes.removal import removed_after
from peerload.store.kubernetes.resources import CALL_SECONDS, Resources
from peerload.store.kubernetes.sweep import Sweep
from peerload.store.values import check_beat, check_blob, check_key, check_prefix, encode_value
from peerload.store.wakeups import Wakeups

__all__ = ["COPIES_A_SECOND", "KubernetesStore"]

COPIES_A_SECOND: Final = 8.0
"""How many heartbeats of sources are also written into their records, by all servers together."""
_PACE_SECONDS: Final = 3.0


def _is_source(key: str) -> bool:
    return type_of(key) == Type.SOURCE


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open store consists of."""

    api: KubeApi
    resources: Resources
    index: Index
    reflector: Reflector
    fence: Fence
    blobs: Blobs
    puts: Puts
    deletions: Deletions
    heartbeats: Heartbeats
    sweep: Sweep
    wakeups: Wakeups
    tasks: tuple[asyncio.Task[None], ...]


class KubernetesStore:
    """A `Store` in a namespace of a Kubernetes cluster, for any number of servers.

    Opening a store that is open does nothing; a closed one may be opened again.
    """

    def __init__(
        self,
        url: str | KubernetesPlace,
        clock: Clock,
        *,
        shares: Callable[[str], bool] = _is_source,
        copies_a_second: float = COPIES_A_SECOND,
        log_limit: int = LOG_LIMIT,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """`shares` says of a key whether its heartbeats may be kept in shared objects alone, and `copies_a_second` how many
        of those are written into their records too; `log_limit` is how many changes a watch can be behind, and `call_seconds` how long a
        simple call may take.

        Raises `InvalidArgument` for a URL that cannot be read.
        """
        self._place = KubernetesPlace.parse(url) if isinstance(url, str) else url
        self._clock = clock
        self._shares = shares
        self._copies_a_second = copies_a_second
        self._log_limit = log_limit
        self._call_seconds = call_seconds
        self._time = KubeTime(clock)
        self._parts: _Parts | None = None
        self._opening = asyncio.Lock()

    @property
    def url(self) -> str:
        return self._place.shown

    @property
    def pace(self) -> float:
        return _PACE_SECONDS

    async def open(self) -> None:
        async with self._opening:
            if self._parts is not None:
                return
            api = KubeApi(self._place, self._clock)
            api.on_date = self._time.heard
            await api.open()
            try:
                await self._time.learn(functools.partial(_ask_time, api))
                self._parts = await self._build(api)
            except NewerLayout as error:
                await api.close()
                raise InvalidArgument("store", str(error)) from error
            except BaseException:
                await api.close()
                raise

    async def _build(self, api: KubeApi) -> _Parts:
        token = secrets.token_hex(8)
        resources = Resources(api, self._place.instance, call_seconds=self._call_seconds)
        index = Index(self._place.instance, self._clock)
        records = Records(resources, index)
        blobs = Blobs(resources)
        wakeups: Wakeups | None = None

        def ring() -> None:
            if wakeups is not None:
                wakeups.ring()

        def check() -> None:
            if wakeups is not None and wakeups.wanted:
                fence.check()

        reflector = Reflector(
            resources,
            index,
            self._clock,
            self._time.now,
            ring,
            log_limit=self._log_limit,
            back_seconds=BACK_SECONDS * self._call_seconds / CALL_SECONDS,
        )
        fence = Fence(resources, reflector, self._clock, token)
        heartbeats = Heartbeats(
            resources,
            index,
            records,
            reflector,
            fence,
            self._clock,
            token,
            shares=self._shares,
            rate=self._copies_a_second,
        )
        await reflector.open()
        fence.open()
        heartbeats.open()
        wakeups = Wakeups(self._clock, check)
        sweep = Sweep(resources, index, fence, self._clock, self._time, token)
        return _Parts(
            api=api,
            resources=resources,
            index=index,
            reflector=reflector,
            fence=fence,
            blobs=blobs,
            puts=Puts(resources, index, records, blobs),
            deletions=Deletions(resources, index, reflector, records, blobs, shares=self._shares),
            heartbeats=heartbeats,
            sweep=sweep,
            wakeups=wakeups,
            tasks=(
                asyncio.create_task(sweep.run(), name="kubernetes sweep"),
                asyncio.create_task(self._time.keep(functools.partial(_asked_time, api)), name="kubernetes time"),
            ),
        )

    async def close(self) -> None:
        parts, self._parts = self._parts, None
        if parts is None:
            return
        for task in parts.tasks:
            task.cancel()
        await parts.reflector.close()
        await parts.api.close()
        await parts.resources.close()
        await parts.heartbeats.close()
        await parts.fence.close()
        await parts.blobs.close()
        await parts.wakeups.stop()
        await asyncio.wait(parts.tasks)

    def now(self) -> int:
        return self._time.now()

    @property
    def doubt_ms(self) -> float:
        return self._time.doubt_ms

    async def put(
        self,
        key: str,
        value: Value,
        *,
        blob: bytes | Keep = KEEP,
        expect: Expect = ANY,
        beat: Beat | None = None,
    ) -> Written:
        check_key(key)
        check_blob(blob)
        check_beat(beat)
        text = encode_value(value)
        return await self._open_parts().puts.put(key, dict(value), text, blob, expect, beat)

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        parts = self._open_parts()
        batch = tuple(touches)
        for touch in batch:
            check_key(touch.key)
            check_beat(touch.beat)
        return await parts.heartbeats.touch(batch) if batch else []

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        parts = self._open_parts()
        # Heartbeats that are kept elsewhere are those that have been seen by now.
        passing = asyncio.ensure_future(parts.fence.passed()) if self._shares(key) else None
        try:
            body = await parts.resources.get(entry_name(self._place.instance, key))
            if body is None:
                return None
            record = read_record(self._place.instance, body)
            if passing is not None:
                await passing
            return read_entry(record, body, parts.index.base, parts.index.beat_of(record))
        finally:
            if passing is not None:
                passing.cancel()
                await asyncio.wait([passing])
                if not passing.cancelled():
                    passing.exception()  # seen, where there is no such entry

    async def blob(self, key: str, generation: int) -> bytes:
        check_key(key)
        parts = self._open_parts()
        name = entry_name(self._place.instance, key)
        for last in (False, True):
            body = await parts.resources.get(name)
            record = None if body is None else read_record(self._place.instance, body)
            if record is None or parts.index.base + record.generation != generation or record.blob is None:
                raise NotFound(f"entry {key!r} has no blob of generation {generation}")
            assert body is not None
            if not record.blob.token:
                return base64.b64decode(body["blob"].get("inline", ""))
            blob = await parts.blobs.read(record.blob)
            if blob is not None:
                return blob
            if last:
                break
        raise Damaged(f"parts of the blob of entry {key!r} are missing")

    async def delete(
        self, key: str, *, expect: int | Literal[Any.ANY] = ANY, unless_beaten_since: int | None = None
    ) -> int:
        check_key(key)
        return await self._open_parts().deletions.delete(key, expect, unless_beaten_since)

    async def list(self, prefix: str = "") -> Listing:
        check_prefix(prefix)
        parts = self._open_parts()
        layout = parts.reflector.layout
        entries, version = await listed(parts.resources, layout.base, prefix)
        return Listing(entries, write_position(layout.epoch, version))

    async def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        check_prefix(prefix)
        parts = self._open_parts()
        feeds = follow(
            position,
            prefix,
            parts.resources,
            parts.reflector,
            parts.fence,
            parts.wakeups,
            lambda: self._parts is parts,
        )
        async with contextlib.aclosing(feeds):
            async for feed in feeds:
                yield feed

    async def examine(self) -> AsyncGenerator[Finding, None]:
        async with contextlib.aclosing(examination.examine(self._place, self._clock)) as found:
            async for finding in found:
                yield finding

    @contextlib.asynccontextmanager
    async def rehearsal(self) -> AsyncIterator[Store]:
        # An instance of its own: servers neither list nor watch it, and all of it can be removed.
        place = replace(self._place, instance=f"doctor-{secrets.token_hex(6)}")
        async with removed_after(place, self._clock):
            store = KubernetesStore(place, self._clock, shares=self._shares)
            try:
                await store.open()
                yield store
            finally:
                await store.close()

    def _open_parts(self) -> _Parts:
        if self._parts is None:
            raise Unavailable("the store is not open")
        return self._parts


async def _ask_time(api: KubeApi) -> None:
    with contextlib.suppress(Forbidden):  # some clusters tell nobody their version, but all tell the time
        await api.fetch("GET", "/version")


async def _asked_time(api: KubeApi) -> None:
    """The same for what goes on by itself: of trouble tell the calls that matter."""
    with contextlib.suppress(PeerloadError):
        await _ask_time(api)
