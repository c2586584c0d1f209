"""model_express.p2p.P2pService: what existing engines publish to and find each other by.

success=false and found=false are facts that clients act on ('publish again', 'try the next one'), so only what is known
is told that way; an outage is a status.
"""

from __future__ import annotations

import math
from typing import Final

from peerload.clock import Clock
from peerload.errors import InvalidArgument, MissingField, Unavailable
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.metadata.scopes import check_model
from peerload.server.diagnosis.misses import Misses
from peerload.server.diagnosis.question import Call
from peerload.server.rpc import Context, Methods, UnaryMethod
from peerload.server.services.checks import NO_CHECKS, Checks
from peerload.server.services.messages import decode, shown
from peerload.server.services.parsing import Parser
from peerload.server.services.waiting import deadline_on
from peerload.wire.p2p_pb2 import (
    GetMetadataRequest,
    GetMetadataResponse,
    PublishMetadataResponse,
    UpdateStatusRequest,
    UpdateStatusResponse,
)

__all__ = ["P2pService"]

_UPDATED: Final = UpdateStatusResponse(success=True).SerializeToString()


class P2pService:
    """The four calls, over a metadata backend. `misses` is told of lists that match nothing."""

    def __init__(
        self, backend: MetadataBackend, clock: Clock, parser: Parser, misses: Misses, checks: Checks = NO_CHECKS
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._parser = parser
        self._misses = misses
        self._checks = checks

    def methods(self) -> Methods:
        """Its table."""
        path = "/model_express.p2p.P2pService"
        return {
            f"{path}/PublishMetadata": UnaryMethod(self.publish_metadata, large=True),
            f"{path}/ListSources": UnaryMethod(self.list_sources),
            f"{path}/GetMetadata": UnaryMethod(self.get_metadata),
            f"{path}/UpdateStatus": UnaryMethod(self.update_status),
        }

    async def publish_metadata(self, request: bytes, context: Context) -> bytes:
        """Keep what a worker publishes; durable before the answer. success=false names what is missing."""
        try:
            packed = await self._parser.read(request, self._checks.reading(v1=False))
        except MissingField as missing:
            return PublishMetadataResponse(success=False, message=str(missing)).SerializeToString()
        await self._checks.check(packed, context.peer)
        key = await self._backend.keep(packed, principal=context.principal, deadline=deadline_on(self._clock, context))
        return PublishMetadataResponse(
            success=True, mx_source_id=key.source_id, worker_id=key.worker_id
        ).SerializeToString()

    async def list_sources(self, request: bytes, context: Context) -> bytes:
        """The sources that pass the request's filters, one instance a worker id."""
        query = self._backend.scoped(Query.from_list_request(request), context.principal)
        try:
            answer = await self._backend.list_refs(query, deadline=deadline_on(self._clock, context))
        except Unavailable as error:
            self._misses.outage(str(error))
            raise
        if not answer:
            self._misses.note(Call.LIST_SOURCES, query, request, context.peer)
        return answer

    async def get_metadata(self, request: bytes, context: Context) -> bytes:
        """What a worker published, with its present status; found=false if there is no such worker."""
        asked = decode(GetMetadataRequest, request)
        source = None
        if asked.mx_source_id and asked.worker_id:
            source = self._backend.stored_at_hand(asked.mx_source_id, asked.worker_id)
            if source is None:
                deadline = deadline_on(self._clock, context)
                source = await self._backend.stored(asked.mx_source_id, asked.worker_id, deadline=deadline)
            if source is not None:
                check_model(context.principal, source.record.model_name)
        if source is None:
            return GetMetadataResponse(
                found=False, mx_source_id=asked.mx_source_id, worker_id=asked.worker_id
            ).SerializeToString()
        return source.metadata_response()

    async def update_status(self, request: bytes, context: Context) -> bytes:
        """A heartbeat, and perhaps a new status. success=false if nobody published that (source, worker, rank)."""
        update = decode(UpdateStatusRequest, request)
        source_id, worker_id, rank, principal = (
            update.mx_source_id,
            update.worker_id,
            update.worker_rank,
            context.principal,
        )
        try:
            if not source_id:
                raise MissingField("mx_source_id")
            if not worker_id:
                raise MissingField("worker_id")
            status = Status.of(update.status)
        except InvalidArgument as error:
            return _not_updated(str(error))
        load = None
        if update.HasField("source_load"):
            if not math.isfinite(update.source_load):
                raise InvalidArgument("source_load", "must be a number from 0 to 1")
            # A publisher that overshoots is alive and busy; refusing its heartbeats would declare it dead.
            load = min(1.0, max(0.0, update.source_load))
        # Almost every heartbeat is no more than that.
        if self._backend.refresh(source_id, worker_id, rank, status, load, principal=principal):
            return _UPDATED
        deadline = deadline_on(self._clock, context)
        if await self._backend.update_status(
            source_id, worker_id, rank, status, load, principal=principal, deadline=deadline
        ):
            return _UPDATED
        return _not_updated(
            f"unknown: source {shown(source_id)}, worker {shown(worker_id)}, rank {rank} (publish it again)"
        )


def _not_updated(message: str) -> bytes:
    return UpdateStatusResponse(success=False, message=message).SerializeToString()
