"""peerload.v1.SourceService: manifests, withdrawal and watching, for Peerload's own clients. Errors are statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator

from peerload.clock import Clock
from peerload.errors import MissingField, NotFound, Unavailable
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.query import Query
from peerload.metadata.scopes import check_model
from peerload.metadata.watch_event import WatchEvent
from peerload.server.diagnosis.misses import Misses
from peerload.server.diagnosis.question import Call
from peerload.server.rpc import Context, Methods, StreamMethod, UnaryMethod
from peerload.server.services.checks import NO_CHECKS, Checks
from peerload.server.services.messages import decode, shown
from peerload.server.services.parsing import Parser
from peerload.server.services.waiting import deadline_on
from peerload.wire.sources_pb2 import (
    GetManifestRequest,
    ListRequest,
    ListResponse,
    PublishResponse,
    SourceRef,
    WatchRequest,
    WatchResponse,
    WithdrawRequest,
    WithdrawResponse,
)

__all__ = ["SourceService"]


class SourceService:
    """The five calls, over a metadata backend. `misses` is told of lists, and first answers of watches, that match
    nothing."""

    def __init__(
        self, backend: MetadataBackend, clock: Clock, parser: Parser, misses: Misses, checks: Checks = NO_CHECKS
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._parser = parser
        self._misses = misses
        self._checks = checks
        self._told: tuple[WatchEvent, bytes] | None = None

    def methods(self) -> Methods:
        """Its table."""
        path = "/peerload.v1.SourceService"
        return {
            f"{path}/Publish": UnaryMethod(self.publish, large=True),
            f"{path}/Withdraw": UnaryMethod(self.withdraw),
            f"{path}/GetManifest": UnaryMethod(self.get_manifest),
            f"{path}/List": UnaryMethod(self.list_sources),
            f"{path}/Watch": StreamMethod(self.watch),
        }

    async def publish(self, request: bytes, context: Context) -> bytes:
        """Keep what a worker publishes, manifest and all; durable before the answer."""
        packed = await self._parser.read(request, self._checks.reading(v1=True))
        await self._checks.check(packed, context.peer)
        key = await self._backend.keep(packed, principal=context.principal, deadline=deadline_on(self._clock, context))
        return PublishResponse(source_id=key.source_id, worker_id=key.worker_id).SerializeToString()

    async def withdraw(self, request: bytes, context: Context) -> bytes:
        """Take back one rank's record, or every rank's under a worker id."""
        asked = decode(WithdrawRequest, request)
        _require(asked.source_id, asked.worker_id)
        rank = asked.worker_rank if asked.HasField("worker_rank") else None
        withdrawn = await self._backend.withdraw(
            asked.source_id,
            asked.worker_id,
            rank,
            principal=context.principal,
            deadline=deadline_on(self._clock, context),
        )
        return WithdrawResponse(withdrawn=withdrawn).SerializeToString()

    async def get_manifest(self, request: bytes, context: Context) -> bytes:
        """What a worker published, with its present state. Raises `NotFound` once the store has confirmed that."""
        asked = decode(GetManifestRequest, request)
        _require(asked.source_id, asked.worker_id)
        rank = asked.worker_rank if asked.HasField("worker_rank") else None
        source = await self._backend.stored(
            asked.source_id, asked.worker_id, rank, deadline=deadline_on(self._clock, context)
        )
        if source is None:
            which = "" if rank is None else f", rank {rank}"
            raise NotFound(f"no source {shown(asked.source_id)}, worker {shown(asked.worker_id)}{which}")
        check_model(context.principal, source.record.model_name)
        return source.manifest_response()

    async def list_sources(self, request: bytes, context: Context) -> bytes:
        """The sources that the selector lets through, now: by model, source id and rank, then the newest first."""
        query = self._backend.scoped(Query.from_selector(decode(ListRequest, request).selector), context.principal)
        try:
            records = await self._backend.select(query, deadline=deadline_on(self._clock, context))
        except Unavailable as error:
            self._misses.outage(str(error))
            raise
        if not records:
            self._misses.note(Call.LIST, query, request, context.peer)
        return ListResponse(
            sources=[record.to_source() for record in records], now=self._backend.now()
        ).SerializeToString()

    async def watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """The same, and then every change to it, until the caller ends the call."""
        asked = decode(WatchRequest, request)
        query = self._backend.scoped(Query.from_selector(asked.selector), context.principal)
        deadline = deadline_on(self._clock, context)
        # Who watches everything looks on, and misses nothing.
        named = query.source_id is not None or query.model_name is not None
        first = True
        try:
            async for event in self._backend.watch(query, asked.resume_token, deadline=deadline):
                if first and named and event.complete and not event.present:
                    self._misses.note(Call.WATCH, query, request, context.peer)
                first = False
                yield self._encoded(event) + WatchResponse(now=self._backend.now()).SerializeToString()
        except Unavailable as error:
            if first:
                self._misses.outage(str(error))
            raise

    def _encoded(self, event: WatchEvent) -> bytes:
        # Watchers who are told the same are told one after the other.
        if self._told is None or self._told[0] is not event:
            self._told = event, _watch_response(event)
        return self._told[1]


def _watch_response(event: WatchEvent) -> bytes:
    """All of the answer but the time at which it is given."""
    return WatchResponse(
        complete=event.complete,
        present=[record.to_source() for record in event.present],
        gone=[
            SourceRef(source_id=key.source_id, worker_id=key.worker_id, worker_rank=key.worker_rank)
            for key in event.gone
        ],
        resume_token=event.resume_token,
    ).SerializeToString()


def _require(source_id: str, worker_id: str) -> None:
    if not source_id:
        raise MissingField("source_id")
    if not worker_id:
        raise MissingField("worker_id")
