"""Which of a question's filters keep out the sources that there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from peerload.metadata.directory.held import Held
from peerload.metadata.query import Query
from peerload.metadata.records import SourceRecord, Status
from peerload.server.diagnosis.compare import few
from peerload.server.diagnosis.finding import Finding
from peerload.server.diagnosis.question import moment
from peerload.server.diagnosis.shown import kept

__all__ = ["Instance", "Kept", "kept_out"]

Instance = tuple[Held, ...]
"""The ranks that are one answer, as `Directory.find` gives them without filters: the lowest first."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the filters do to some sources."""

    matches: int
    findings: tuple[Finding, ...]
    """Where nothing matches: what keeps out those that miss by the fewest filters."""


def kept_out(query: Query, instances: Sequence[Instance], cutoff: int) -> Kept:
    """Judge sources by all filters but the identity's. `cutoff`: heartbeats that were heard before have run out."""
    failing = [_failing(query, ranks) for ranks in instances]
    matches = failing.count(())
    if matches or not instances:
        return Kept(matches, ())
    best = min(failing, key=len)
    nearest = [ranks for ranks, fields in zip(instances, failing, strict=True) if fields == best]
    findings = [_finding(field, query, nearest, instances, cutoff) for field in best]
    return Kept(0, tuple(findings))


def _failing(query: Query, ranks: Instance) -> tuple[str, ...]:
    """The filters that an instance does not pass, in the order in which they are told. Asked of every worker of a fleet."""
    chosen: Held | None = ranks[0]
    if query.worker_rank is not None:
        chosen = next((held for held in ranks if held.record.key.worker_rank == query.worker_rank), None)
    record = (chosen or ranks[0]).record
    fields = []
    if query.model_name is not None and query.model_name != record.model_name:
        fields.append("model_name")
    if not query.takes_revision(record):
        fields.append("revision")
    if query.form is not None and query.form is not record.form:
        fields.append("form")
    if query.worker_id is not None and query.worker_id != record.key.worker_id:
        fields.append("worker_id")
    if chosen is None:
        fields.append("worker_rank")
    step = record.training_step
    if query.min_training_step is not None and (step is None or step < query.min_training_step):
        fields.append("min_training_step")
    wrong = [] if query.status is None else [held for held in ranks if held.shown is not query.status]
    if wrong:
        fields.append("heartbeat" if all(_silent(held) and _said(held) is query.status for held in wrong) else "status")
    if query.min_updated_at is not None and min(held.heard for held in ranks) < query.min_updated_at:
        fields.append("min_updated_at")
    return tuple(fields)


def _silent(held: Held) -> bool:
    """Whether it is stale because its heartbeat has run out."""
    return held.shown is Status.STALE and (held.expired or held.record.mark is not None)


def _said(held: Held) -> Status:
    """The status that the worker gave last, whatever has become of its heartbeat."""
    return held.record.mark.was if held.record.mark is not None else held.record.status


def _finding(
    field: str, query: Query, nearest: Sequence[Instance], instances: Sequence[Instance], cutoff: int
) -> Finding:
    records = [held.record for ranks in instances for held in ranks]
    match field:
        case "worker_rank":
            return Finding(field, str(query.worker_rank), (_ranks(records),))
        case "status":
            assert query.status is not None
            counts = Counter(_state(query.status, ranks) for ranks in nearest)
            return Finding(field, query.status.name, tuple(f"{count:,} {name}" for name, count in counts.most_common()))
        case "heartbeat":
            assert query.status is not None
            heard = max(min(held.heard for held in ranks) for ranks in nearest)
            what = "1 source" if len(nearest) == 1 else f"{len(nearest):,} sources, the last"
            return Finding(field, query.status.name, (f"{what} ran out {max(0, cutoff - heard) / 1000:,.0f} s ago",))
        case "min_updated_at":
            assert query.min_updated_at is not None
            late = query.min_updated_at - max(min(held.heard for held in ranks) for ranks in nearest)
            return Finding(
                field, moment(query.min_updated_at), (f"the latest heartbeat is {late / 1000:,.1f} s older",)
            )
        case "min_training_step":
            steps = sorted({-1 if record.training_step is None else record.training_step for record in records})
            return Finding(
                field, str(query.min_training_step), few(None if step < 0 else str(step) for step in reversed(steps))
            )
        case "form":
            assert query.form is not None
            return Finding(field, query.form.name, few(record.form.name for record in records))
        case _:
            return Finding(
                field,
                _text(getattr(query, field)),
                few(_text(getattr(record, field)) for record in records),
            )


def _text(value: str) -> str | None:
    return kept(value) or None


def _state(wanted: Status, ranks: Instance) -> str:
    """What an instance is that is not as wanted; what it was, if it is no longer heard of."""
    worst = next(held for held in ranks if held.shown is not wanted)
    said = _said(worst)
    if worst.refuses and not _silent(worst):
        return f"{said.name}, but gone: the host refuses connections"
    return worst.shown.name if worst.shown is said else f"{worst.shown.name} (last {said.name})"


def _ranks(records: Sequence[SourceRecord]) -> str:
    """Ranks in words: `rank 0`, `ranks 0-1, 4`."""
    ranks = sorted({record.worker_rank for record in records})
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    told = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:5]]
    if len(runs) > len(told):
        told.append(f"… ({len(ranks):,} in all)")
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(told)}"
