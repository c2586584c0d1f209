"""Comparing a question with the nearest of the sources that the directory knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from peerload.clock import Clock
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.principals import ANYONE, Principal
from peerload.metadata.query import Query
from peerload.metadata.records import SourceRecord, Status
from peerload.server.diagnosis.compare import Nearest, few, nearest
from peerload.server.diagnosis.filters import Instance, kept_out
from peerload.server.diagnosis.finding import Finding, Verdict
from peerload.server.diagnosis.identities import Identities
from peerload.server.diagnosis.names import similar
from peerload.server.diagnosis.question import Question
from peerload.server.diagnosis.shown import kept
from peerload.wire.p2p_pb2 import SourceIdentity

__all__ = ["Judge"]

_MOST_CANDIDATES: Final = 16
"""Sources whose identities are compared with one question."""
_MOST_INSTANCES: Final = 20_000
"""Workers that filters are tried on."""
_READ_SECONDS: Final = 2.0
"""For reading the identities that one question needs."""
_IN_THREAD_BYTES: Final = 64 * 1024
_IN_THREAD_NAMES: Final = 1_000


class Judge:
    """Says what stands between a question and the sources that there are. Belongs to one event loop."""

    def __init__(self, backend: MetadataBackend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._identities = Identities(backend, clock)

    async def judge(self, question: Question, principal: Principal = ANYONE) -> Verdict:
        """The verdict as of now, of a question that this principal may ask. Where the directory cannot be relied on, it says
        that; it is never 'nothing'."""
        query = question.query
        if reason := self._doubt(query):
            return Verdict((Finding("unknown", None, (kept(reason),)),))
        named = Query(
            source_id=query.source_id,
            model_name=None if query.source_id else query.model_name,
            instances=query.instances,
        )
        instances = self._instances(named)
        if instances:
            return self._filtered(query, instances)
        if not question.model:
            if query.source_id is not None:
                return Verdict((Finding("source_id", kept(query.source_id)),))
            return Verdict((Finding("absent"),))
        names = await self.similar(question.model, principal)
        if not names:
            return Verdict((Finding("absent", kept(question.model)),))
        if question.identity is not None:
            return await self._by_identity(question, names)
        return self._by_name(question, names)

    async def similar(self, model: str, principal: Principal = ANYONE) -> list[str]:
        """The names of models that are most like one, itself first, among those that a principal may see."""
        names = self._backend.directory.models()
        if not principal.sees_all:
            names = [name for name in names if principal.covers(name)]
        if len(names) < _IN_THREAD_NAMES:
            return similar(model, names)
        return await asyncio.to_thread(similar, model, names)

    def _doubt(self, query: Query) -> str:
        """Why nothing can be said now; empty while something can."""
        if not self._backend.serving:
            return self._backend.reason
        return "it is not known yet what there is, after an outage" if self._backend.directory.doubtful(query) else ""

    def _instances(self, query: Query) -> list[Instance]:
        return self._backend.directory.find(query)[:_MOST_INSTANCES]

    def _filtered(self, query: Query, instances: Sequence[Instance], before: Sequence[Finding] = ()) -> Verdict:
        directory = self._backend.directory
        judged = kept_out(query, instances, directory.liveness.cutoff(directory.now()))
        first = instances[0][0].record
        findings = (*before, *judged.findings)
        return Verdict(findings, first.source_id, kept(first.model_name), 0 if findings else judged.matches)

    def _by_name(self, question: Question, names: Sequence[str]) -> Verdict:
        """Nothing has the name that was asked for, but others are like it."""
        instances = self._instances(Query(model_name=names[0], instances=question.query.instances))
        if not instances:
            return Verdict((Finding("absent", kept(question.model)),))
        finding = Finding("model_name", kept(question.model), few(map(kept, names)))
        return self._filtered(replace(question.query, model_name=None), instances, (finding,))

    async def _by_identity(self, question: Question, names: Sequence[str]) -> Verdict:
        """Nothing has the identity that was asked for: what differs in the nearest of the same or a similar name."""
        assert question.identity is not None
        deadline = self._clock.monotonic() + _READ_SECONDS
        identities: dict[str, bytes] = {}
        for record in self._candidates(question.identity, names):
            identity = await self._identities.read(record.key, deadline=deadline)
            if identity is not None:
                identities[record.source_id] = identity
        encoded = list(identities.values())
        if sum(map(len, encoded), question.identity.ByteSize()) > _IN_THREAD_BYTES:
            found = await asyncio.to_thread(nearest, question.identity, encoded)
        else:
            found = nearest(question.identity, encoded)
        if found is None:
            return self._unread(question, names)
        return self._nearest(question, list(identities)[found.index], found)

    def _nearest(self, question: Question, source_id: str, found: Nearest) -> Verdict:
        """What differs in the nearest source, and what would keep it out besides."""
        query = replace(question.query, source_id=source_id, model_name=None)
        instances = self._instances(Query(source_id=source_id, instances=query.instances))
        if not instances:
            return Verdict(found.findings, source_id)  # it went while it was looked at
        return self._filtered(query, instances, found.findings)

    def _unread(self, question: Question, names: Sequence[str]) -> Verdict:
        if kept(question.model).lower() in {kept(name).lower() for name in names}:
            text = f"what the sources of {kept(question.model)} published could not be read just now"
            return Verdict((Finding("unknown", None, (text,)),))
        return Verdict((Finding("model_name", kept(question.model), few(map(kept, names))),))

    def _candidates(self, asked: SourceIdentity, names: Sequence[str]) -> list[SourceRecord]:
        """A record of each source that may come nearest: those of that name, or, if there are none, of similar ones; of many
        the ones of that revision, then the ones that can be read from, then the latest."""
        alike = [name for name in names if name.lower() == asked.model_name.lower()] or names
        best: dict[str, tuple[tuple[bool, int], SourceRecord]] = {}
        for name in alike:
            for ranks in self._instances(Query(model_name=name)):
                held = ranks[0]
                source_id = held.record.key.source_id
                place = (held.shown is not Status.READY, -held.heard)
                known = best.get(source_id)
                if known is None or place < known[0]:
                    best[source_id] = (place, held.record)
        order = sorted(best.values(), key=lambda each: (each[1].revision.lower() != asked.revision.lower(), *each[0]))
        return [record for _, record in order[:_MOST_CANDIDATES]]
