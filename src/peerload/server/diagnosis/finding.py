"""What stands between a question and the sources, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from peerload.wire.p2p_pb2 import SourceIdentity

__all__ = ["FIELDS", "IDENTITY_FIELDS", "Finding", "Verdict"]

IDENTITY_FIELDS: Final = (
    "model_name",
    "mx_source_type",
    "revision",
    "mx_version",
    "backend_framework",
    "backend_framework_version",
    "dtype",
    "quantization",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "expert_parallel_size",
    "gpu_arch",
    "cuda_version",
    "torch_version",
    "triton_version",
    "compile_config_digest",
    "extra_parameters",
)
"""The weightiest first."""
assert set(IDENTITY_FIELDS) == {field.name for field in SourceIdentity.DESCRIPTOR.fields}

_SAID: Final = {
    "worker_rank": "worker_rank {asked}, sources have {have}",
    "status": "status {asked}, sources are {have}",
    "heartbeat": "heartbeat: {have}",
    "min_updated_at": "min_updated_at {asked}: {have}",
    "source_id": "source_id {asked}: no source has it",
    "absent": "model_name {asked}: nobody publishes it, nor one of a similar name",
    "appeared": "there was none then; {have} since",
    "oversize": "it was asked in {asked}, more than anybody can publish",
    "unknown": "what stands in the way could not be found out: {have}",
}
"""How a finding is told that is more than a difference between two values."""

FIELDS: Final = (
    *IDENTITY_FIELDS,
    "form",
    "worker_id",
    "min_training_step",
    *_SAID,
)
"""Everything that can stand in the way: what a metric may be labelled with."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that stands in the way. Its texts are fit to be kept and shown."""

    field: str
    """One of `FIELDS`."""
    asked: str | None = None
    """None: not given."""
    have: tuple[str | None, ...] = ()
    """What the nearest sources have instead; None: nothing."""
    key: str = ""
    """Of extra_parameters: which."""

    @property
    def text(self) -> str:
        """The finding for people."""
        have = ", ".join(map(_value, self.have))
        if self.field == "absent" and self.asked is None:
            return "there are no sources at all"
        if self.field in _SAID:
            return _SAID[self.field].format(asked=_value(self.asked), have=have)
        name = f"{self.field}[{self.key}]" if self.key else self.field
        return f"{name} {_value(self.asked)}, sources have {have}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a question compares with what there is."""

    findings: tuple[Finding, ...] = ()
    """The weightiest first; empty where something matches."""
    source_id: str = ""
    """The source that comes nearest; empty where none does."""
    model: str = ""
    """Its model, fit to be shown."""
    matches: int = 0

    @property
    def field(self) -> str:
        """The first thing in the way; empty where there is none."""
        return self.findings[0].field if self.findings else ""

    @property
    def text(self) -> str:
        """The verdict for people, one line."""
        if not self.findings:
            return f"{self.matches:,} {'source matches' if self.matches == 1 else 'sources match'}"
        return f"no match: {'; '.join(finding.text for finding in self.findings)}"

    @property
    def reason(self) -> tuple[tuple[str, str], ...]:
        """What is in the way, without the values: they may differ from one moment to the next."""
        return tuple((finding.field, finding.key) for finding in self.findings)

    @property
    def texts(self) -> Sequence[str]:
        """All that is kept with it."""
        return [
            self.source_id,
            self.model,
            *(text for finding in self.findings for text in (finding.key, finding.asked, *finding.have) if text),
        ]


def _value(value: str | None) -> str:
    if value is None:
        return "(none)"
    return value or '""'
