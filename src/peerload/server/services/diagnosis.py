"""peerload.v1.DiagnosisService: why lists gave nothing, for people."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from peerload.errors import LimitExceeded, MissingField
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.directory.held import Held
from peerload.metadata.principals import Principal
from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.metadata.scopes import check_model
from peerload.server.diagnosis.finding import Finding, Verdict
from peerload.server.diagnosis.memory import MOST_MISSES, Miss
from peerload.server.diagnosis.misses import Misses
from peerload.server.diagnosis.question import Question
from peerload.server.rpc import Context, Methods, UnaryMethod
from peerload.server.services.messages import decode
from peerload.wire import diagnosis_pb2 as wire
from peerload.wire.identity import source_id

__all__ = ["DiagnosisService"]

_LIMIT: Final = 20
_MOST_SOURCES: Final = 256
_MOST_PEERS: Final = 8


class DiagnosisService:
    """The one call, over what a server remembers of misses. `listen` tells where the server listens."""

    def __init__(self, backend: MetadataBackend, misses: Misses, listen: Callable[[], str]) -> None:
        self._backend = backend
        self._misses = misses
        self._listen = listen
        self._server = socket.gethostname()

    def methods(self) -> Methods:
        """Its table."""
        return {"/peerload.v1.DiagnosisService/Explain": UnaryMethod(self.explain)}

    async def explain(self, request: bytes, context: Context) -> bytes:
        """The latest misses of what is named, what stands in its way now, and the sources that there are of it; nothing of
        models that are not in the caller's scope."""
        asked = decode(wire.ExplainRequest, request)
        if asked.limit > MOST_MISSES:
            raise LimitExceeded("limit", f"is {asked.limit}, more than {MOST_MISSES}", limit=MOST_MISSES)
        question, principal = _question(asked), context.principal
        if question is not None:
            self._backend.scoped(question.query, principal)
            if question.identity is not None:
                check_model(principal, question.model)
        await self._misses.settle()
        memory = self._misses.memory
        name = None if question is None else question.query.source_id or question.model
        latest = [miss for miss in memory.latest(name) if _may_see(principal, miss)]
        answer = wire.ExplainResponse(
            misses=[_miss(miss) for miss in latest[: asked.limit or _LIMIT]],
            misses_total=len(latest),
            server=self._server,
            listen=self._listen(),
            since=self._misses.since,
        )
        if self._misses.unanswered.count:
            known = self._misses.unanswered
            answer.unanswered.CopyFrom(
                wire.Unanswered(count=known.count, first=known.first, last=known.last, reason=known.reason)
            )
        if question is not None:
            names = await self._names(question.model, principal)
            if question.identity is None and names and names[0].lower() == question.model.lower():
                # People need not know how it is spelled.
                question = replace(question, query=replace(question.query, model_name=names[0]))
            verdict = await self._misses.judge.judge(question, principal)
            answer.live.CopyFrom(_verdict(verdict))
            records = self._records(names, verdict.source_id, principal)
            answer.sources.extend(held.view().to_source() for held in records[:_MOST_SOURCES])
            answer.sources_total = len(records)
        answer.now = self._backend.now()
        return answer.SerializeToString()

    async def _names(self, model: str, principal: Principal) -> list[str]:
        """How a model's name is spelled, or else the name that is most like it; empty where nothing is."""
        similar = await self._misses.judge.similar(model, principal) if model else []
        return [name for name in similar if name.lower() == model.lower()] or similar[:1]

    def _records(self, names: Sequence[str], source_id: str, principal: Principal) -> list[Held]:
        """The sources of these models, or of that id: what there is to look at for somebody who wonders."""
        if not self._backend.serving:
            return []
        queries = [Query(model_name=name) for name in names]
        if not queries and source_id:
            queries = [Query(source_id=source_id)]
        found = [ranks[0] for query in queries for ranks in self._backend.directory.find(query)]
        found = [held for held in found if principal.covers(held.record.model_name)]
        return sorted(found, key=lambda held: (held.record.model_name, held.record.key))


def _question(asked: wire.ExplainRequest) -> Question | None:
    """What a list for weights would ask. None where nothing is named."""
    match asked.WhichOneof("what"):
        case "model_name":
            if not asked.model_name:
                raise MissingField("model_name")
            return Question(Query(model_name=asked.model_name, status=Status.READY))
        case "source_id":
            if not asked.source_id:
                raise MissingField("source_id")
            return Question(Query(source_id=asked.source_id, status=Status.READY))
        case "identity":
            if not asked.identity.model_name:
                raise MissingField("identity.model_name")
            query = Query(source_id=source_id(asked.identity), status=Status.READY)
            return Question(query, asked.identity)
    return None


def _may_see(principal: Principal, miss: Miss) -> bool:
    """Whether everything that a miss tells of is in a principal's scope."""
    if principal.sees_all:
        return True
    named = [miss.model, miss.verdict.model]
    for finding in miss.verdict.findings:
        if finding.field == "model_name":
            named += [value for value in finding.have if value is not None]
    return any(named) and all(principal.covers(name) for name in named if name)


def _miss(miss: Miss) -> wire.Miss:
    occurred = miss.occurred
    return wire.Miss(
        verdict=_verdict(miss.verdict),
        first=occurred.first,
        last=occurred.last,
        count=occurred.count,
        peers=itertools.islice(occurred.peers, _MOST_PEERS),
        peer_count=len(occurred.peers),
        more_peers=occurred.more_peers,
        call=miss.call,
        asked=[wire.Asked(field=each.field, key=each.key, value=each.value) for each in miss.asked],
    )


def _verdict(verdict: Verdict) -> wire.Verdict:
    return wire.Verdict(
        findings=[_finding(finding) for finding in verdict.findings],
        nearest_source_id=verdict.source_id,
        nearest_model=verdict.model,
        matches=verdict.matches,
        text=verdict.text,
    )


def _finding(finding: Finding) -> wire.Finding:
    return wire.Finding(
        field=finding.field,
        key=finding.key,
        asked=finding.asked,
        have=[value for value in finding.have if value is not None],
        text=finding.text,
    )
