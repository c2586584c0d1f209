"""Finding the sources that a pull may read: listing, waiting for one to appear, telling different weights apart."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from peerload.client.connection import Connection
from peerload.client.identity import CONTENT_KEY, StockIdentity
from peerload.client.manifest import SourceManifest, read_manifest
from peerload.client.settings import ClientSettings
from peerload.client.sources import Selector, SourceChange, SourceInfo
from peerload.client.targets import SourceUnusable
from peerload.errors import Ambiguous, InvalidArgument, NotFound, PeerloadError, Unavailable
from peerload.hub.cache import is_commit
from peerload.metadata.records import Form, SourceKey, Status
from peerload.wire import outline_pb2, p2p_pb2, sources_pb2
from peerload.wire.identity import source_id

__all__ = ["Search", "Wanted", "fetch_manifest", "find", "follow", "get_manifest"]

_MAX_DELAY_S: Final = 5.0
_FEW: Final = 300
"""Items that are read within a millisecond: to hand them to another thread would take as long."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which weights: the sources to ask the server for, and what they must be besides."""

    selector: Selector
    rank: int = 0
    """Runtime form: the rank."""
    content: str = ""
    """Checkpoint form: what the content digest begins with."""
    part: str = ""
    """Which files are asked for, as patterns; "" for all. Sources that have a part are none for whoever asks for another."""
    ref: str = ""
    """Rather from sources that know their revision by this branch or tag, if there are any."""
    commits: bool = False
    """Sources of one commit have the same files, as far as they have them: those that have the most decide."""

    def __str__(self) -> str:
        """For messages to people: what is asked for, in words."""
        return (
            f"{self.selector}, with a content that begins with {self.content!r}" if self.content else str(self.selector)
        )


async def find(connection: Connection, selector: Selector) -> list[SourceInfo]:
    """The sources that a selector lets through, now."""
    response = await connection.list(sources_pb2.ListRequest(selector=selector.to_wire()))
    return [SourceInfo.from_wire(source, response.now) for source in response.sources]


async def get_manifest(connection: Connection, key: SourceKey) -> outline_pb2.GetManifestResponse:
    """What a source published. Raises `NotFound`, `Unavailable`, and `SourceUnusable` for what the server cannot give."""
    try:
        response = await connection.manifest(
            sources_pb2.GetManifestRequest(
                source_id=key.source_id, worker_id=key.worker_id, worker_rank=key.worker_rank
            )
        )
    except (NotFound, Unavailable):
        raise
    except PeerloadError as error:
        raise SourceUnusable(f"its manifest cannot be had: {error}") from error
    if source_id(response.identity) != key.source_id:
        raise SourceUnusable("its identity is not the one that its source id stands for")
    return response


async def fetch_manifest(connection: Connection, key: SourceKey, executor: Executor) -> SourceManifest:
    """A source's manifest, checked. Raises `NotFound`, `Unavailable`, and `SourceUnusable` for one that the server cannot
    give or that is not valid: another source's may be."""
    response = await get_manifest(connection, key)
    if not response.HasField("manifest"):
        raise NotFound("published by another client: no manifest to read")
    # As a part of the response it would keep the whole of that in memory.
    identity = p2p_pb2.SourceIdentity()
    identity.CopyFrom(response.identity)
    source = SourceInfo.from_wire(response.source, 0)
    try:
        if len(response.manifest.items) <= _FEW:
            manifest = read_manifest(response.manifest)
        else:
            manifest = await asyncio.get_running_loop().run_in_executor(executor, read_manifest, response.manifest)
    except InvalidArgument as error:
        raise SourceUnusable(f"its manifest is not valid: {error}") from error
    if manifest.checkpoint is not None:
        content = manifest.checkpoint.content
        if identity.extra_parameters.get(CONTENT_KEY) != content or source.content != content:
            raise SourceUnusable("its manifest has another content than its record")
    return SourceManifest(source, identity, manifest)


async def follow(
    connection: Connection, selector: Selector, settings: ClientSettings, rng: random.Random, resume_token: str = ""
) -> AsyncGenerator[SourceChange | Unavailable, None]:
    """A watch that survives outages: each change, or the outage that now holds it up. It never ends by itself."""
    request = sources_pb2.WatchRequest(selector=selector.to_wire(), resume_token=resume_token)
    delay = settings.retry_delay
    while True:
        try:
            async with aclosing(connection.watch(request)) as responses:
                async for response in responses:
                    delay = settings.retry_delay
                    request.resume_token = response.resume_token
                    yield SourceChange.from_wire(response)
        except Unavailable as error:
            yield error
        await asyncio.sleep(delay * rng.uniform(0.5, 1.0))
        delay = min(delay * 2, _MAX_DELAY_S)


class Search:
    """The sources for one pull. The first that are found decide what is pulled; from then on only their like counts."""

    def __init__(
        self,
        connection: Connection,
        wanted: Wanted,
        *,
        engines: Collection[str],
        agents: bool,
        own_workers: Collection[str],
        pass_over: Callable[[SourceInfo, str], None],
        waiting: Callable[[str], None],
        settings: ClientSettings,
        rng: random.Random,
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._engines = engines
        self._agents = agents
        """Whether an engine is in use by which stock workers are read."""
        self._own_workers = own_workers
        self._pass_over = pass_over
        self._waiting = waiting
        self._settings = settings
        self._rng = rng
        self._group: tuple[str, str] | None = None
        self.banned: set[SourceKey] = set()
        """Sources that are not to be tried again."""
        self.found: list[SourceInfo] = []
        """The usable sources, when there last were any."""

    async def now(self) -> list[SourceInfo]:
        """The usable sources that the server has. Raises `Ambiguous` if they hold different weights, `Unavailable`."""
        return self._usable(await find(self._connection, self._ready()))

    async def appear(self, seconds: float) -> list[SourceInfo]:
        """The usable sources as soon as there are any; the server tells. None, if there were none for that long.

        `waiting` is told that this has begun, and of outages meanwhile: the reason, and an empty one when they end.
        Raises `Ambiguous`, and `Unavailable` if the time ran out while no server could be reached.
        """
        held: dict[SourceKey, SourceInfo] = {}
        outage: Unavailable | None = None
        self._waiting("")
        changes = follow(self._connection, self._ready(), self._settings, self._rng)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), aclosing(changes) as steps:
                async for step in steps:
                    if isinstance(step, Unavailable):
                        if outage is None:
                            self._waiting(str(step))
                        outage = step
                        continue
                    if outage is not None:
                        self._waiting("")
                        outage = None
                    if step.complete:
                        held.clear()
                    held.update((source.key, source) for source in step.present)
                    for key in step.gone:
                        held.pop(key, None)
                    if sources := self._usable(held.values()):
                        return sources
        if outage is not None:
            raise outage
        return []

    def _ready(self) -> Selector:
        return replace(self._wanted.selector, status=Status.READY)

    def _usable(self, sources: Iterable[SourceInfo]) -> list[SourceInfo]:
        usable = [source for source in sources if self._fits(source)]
        if self._group is None and usable:
            self._group = self._decide(usable)
        found = [source for source in usable if _group(source) == self._group]
        self.found = found or self.found
        return found

    def _decide(self, usable: Sequence[SourceInfo]) -> tuple[str, str]:
        """What is pulled. Raises `Ambiguous`."""
        wanted = self._wanted
        named = [source for source in usable if wanted.ref and source.knows(wanted.ref)]
        groups: dict[tuple[str, str], list[SourceInfo]] = {}
        for source in named or usable:
            groups.setdefault(_group(source), []).append(source)
        if len(groups) > 1:
            revisions = {source.revision for members in groups.values() for source in members}
            if not (wanted.commits and len(revisions) == 1 and is_commit(revisions.pop())):
                raise Ambiguous(
                    f"sources of {wanted} hold different weights; say which",
                    [_describe(members) for members in groups.values()],
                )
        return max(groups, key=lambda group: (groups[group][0].total_size, groups[group][0].item_count, group))

    def _fits(self, source: SourceInfo) -> bool:
        if source.worker_id in self._own_workers or source.key in self.banned:
            return False
        if source.form is Form.UNSPECIFIED and not isinstance(self._wanted.selector.identity, StockIdentity):
            self._pass_over(source, "published by another client: only pulled by its exact identity, a StockIdentity")
            return False
        if source.form is not Form.CHECKPOINT and source.worker_rank != self._wanted.rank:
            return False
        if source.form is Form.UNSPECIFIED:
            if not self._agents:
                self._pass_over(
                    source, "published by the stock package, whose workers serve by NIXL: add the engine nixl"
                )
            return self._agents
        if not source.content.startswith(self._wanted.content) or source.part not in ("", self._wanted.part):
            return False
        if not set(source.engines) & set(self._engines):
            self._pass_over(source, f"serves by {', '.join(source.engines)} only, which is not in use here")
            return False
        return True


def _group(source: SourceInfo) -> tuple[str, str]:
    """Sources that may stand in for each other: of a checkpoint the same content, else the same identity."""
    if source.form is Form.CHECKPOINT:
        return "checkpoint", source.content
    return "runtime", source.source_id


def _describe(members: Sequence[SourceInfo]) -> str:
    first = members[0]
    what = f"content {first.content}" if first.form is Form.CHECKPOINT else f"source {first.source_id}"
    revisions = ", ".join(sorted({repr(source.revision) for source in members}))
    count = f"{len(members)} source{'s' if len(members) > 1 else ''}"
    return f"{first.form.name.lower()} form, {what}, revision {revisions}, {first.total_size:,} bytes: {count}"
