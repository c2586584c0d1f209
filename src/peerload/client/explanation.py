"""Why lists of sources gave nothing, as a server tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from peerload.client.connection import Connection
from peerload.client.identity import Identity
from peerload.client.sources import SourceInfo
from peerload.errors import InvalidArgument
from peerload.wire import diagnosis_pb2 as wire

__all__ = ["Asked", "Explanation", "Finding", "Miss", "Unanswered", "Verdict", "explain"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that stands in the way."""

    field: str
    """A field of the identity, a filter, or what `peerload.v1.Finding` names besides."""
    key: str
    """Of extra_parameters: which."""
    asked: str | None
    """None: not given."""
    have: tuple[str, ...]
    """What the nearest sources have instead."""
    text: str
    """For people."""

    @classmethod
    def from_wire(cls, message: wire.Finding) -> Self:
        """The finding in a message."""
        asked = message.asked if message.HasField("asked") else None
        return cls(message.field, message.key, asked, tuple(message.have), message.text)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a question compares with what there is."""

    findings: tuple[Finding, ...]
    """The weightiest first; empty where something matches."""
    nearest_source_id: str
    """Empty where no source comes near."""
    nearest_model: str
    matches: int
    text: str
    """For people, one line."""

    @classmethod
    def from_wire(cls, message: wire.Verdict) -> Self:
        """The verdict in a message."""
        return cls(
            tuple(map(Finding.from_wire, message.findings)),
            message.nearest_source_id,
            message.nearest_model,
            message.matches,
            message.text,
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that was asked for: a field of the identity, or a filter."""

    field: str
    key: str
    """Of extra_parameters: which."""
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Lists of one question that matched nothing, for one reason. Times are milliseconds since 1970 on the store's clock."""

    verdict: Verdict
    first: int
    last: int
    age: float
    """Seconds from the last of them to this answer."""
    first_age: float
    """Seconds from the first of them to this answer."""
    count: int
    peers: tuple[str, ...]
    """Hosts that asked, some of them."""
    peer_count: int
    more_peers: bool
    """Whether there were more than `peer_count`."""
    call: str
    """By which it was asked last: ListSources, List or Watch."""
    asked: tuple[Asked, ...]

    @classmethod
    def from_wire(cls, message: wire.Miss, now: int) -> Self:
        """The miss in an answer that was given at `now`."""
        return cls(
            verdict=Verdict.from_wire(message.verdict),
            first=message.first,
            last=message.last,
            age=max(0, now - message.last) / 1000,
            first_age=max(0, now - message.first) / 1000,
            count=message.count,
            peers=tuple(message.peers),
            peer_count=message.peer_count,
            more_peers=message.more_peers,
            call=message.call,
            asked=tuple(Asked(each.field, each.key, each.value) for each in message.asked),
        )


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Lists that an outage left without an answer: they say nothing about what there was."""

    count: int
    first_age: float
    """Seconds from the first of them to this answer."""
    age: float
    """Seconds from the last of them to this answer."""
    reason: str
    """Of the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What one server remembers of lists that matched nothing, and how things are now."""

    misses: tuple[Miss, ...]
    """The latest first."""
    misses_total: int
    """How many there are, however many were asked for."""
    live: Verdict | None
    """What a list of READY sources would match now; None where nothing was named."""
    sources: tuple[SourceInfo, ...]
    """The sources of that model, or of the one that comes nearest, whatever their state; the first 256."""
    sources_total: int
    unanswered: Unanswered | None
    server: str
    """The host that answered: each server remembers only what it was asked itself."""
    listen: str
    """Where it listens there."""
    since: int
    """When its memory began, milliseconds since 1970 on the store's clock."""
    memory_age: float
    """Seconds from then to this answer."""

    @classmethod
    def from_wire(cls, message: wire.ExplainResponse) -> Self:
        """The explanation in an answer."""
        now = message.now
        missing = message.unanswered
        unanswered = Unanswered(
            missing.count, max(0, now - missing.first) / 1000, max(0, now - missing.last) / 1000, missing.reason
        )
        return cls(
            misses=tuple(Miss.from_wire(miss, now) for miss in message.misses),
            misses_total=message.misses_total,
            live=Verdict.from_wire(message.live) if message.HasField("live") else None,
            sources=tuple(SourceInfo.from_wire(source, now) for source in message.sources),
            sources_total=message.sources_total,
            unanswered=unanswered if missing.count else None,
            server=message.server,
            listen=message.listen,
            since=message.since,
            memory_age=max(0, now - message.since) / 1000,
        )


async def explain(connection: Connection, model: str | Identity | None, source_id: str, limit: int) -> Explanation:
    """Ask the server; see `AsyncClient.explain`."""
    request = wire.ExplainRequest(limit=limit)
    if model is not None and source_id:
        raise InvalidArgument("source_id", "must not be given together with a model")
    if isinstance(model, Identity):
        request.identity.CopyFrom(model.to_wire())
    elif model is not None:
        request.model_name = model
    elif source_id:
        request.source_id = source_id
    return Explanation.from_wire(await connection.explain(request))
