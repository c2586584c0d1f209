"""Weights in memory: what a pull fills when it is not a folder."""

from __future__ import annotations

from typing import Any

from peerload.checkpoint import Progress
from peerload.client.giving import As
from peerload.client.layout import tensors_of
from peerload.client.manifest import Manifest, SourceManifest, checkpoint_manifest
from peerload.client.source import AsyncSource, Offer
from peerload.client.targets import Allocate, AtOnce, CheckpointMemory, Mapped, RuntimeMemory
from peerload.client.transfer import Slot
from peerload.client.weights import PullReport, Weights
from peerload.metadata.records import Form

__all__ = ["MemoryTarget"]


class MemoryTarget(AtOnce):
    """The target of a pull into memory of its own; the first manifest decides its form."""

    def __init__(self, framework: As, *, need_digests: bool, maps: bool = True) -> None:
        self._framework = framework
        self._need_digests = need_digests
        self._maps = maps
        self._runtime: RuntimeMemory | None = None
        self._checkpoint: CheckpointMemory | None = None
        self.slots: list[Slot] = []

    @property
    def maps(self) -> bool:
        """Whether the source's own memory will do."""
        return self._maps

    @property
    def shares(self) -> bool:
        """Whether what is read is to be served to others."""
        return self._need_digests

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress, mapped: Mapped | None = None) -> None:
        target: RuntimeMemory | CheckpointMemory
        self._framework.check(tensors_of(manifest))
        if manifest.form is Form.CHECKPOINT:
            target = self._checkpoint = self._checkpoint or CheckpointMemory()
        else:
            target = self._runtime = self._runtime or RuntimeMemory(need_digests=self._need_digests)
        target.plan(manifest, allocate, progress, mapped)
        self.slots = target.slots

    def weights(self, found: SourceManifest, report: PullReport) -> Weights[Any, AsyncSource]:
        """What was pulled, as the framework's arrays."""
        target = self._checkpoint or self._runtime
        assert target is not None
        files = {} if self._checkpoint is None else self._checkpoint.files()
        return Weights(
            self._framework.over(target.tensors()),
            form=found.manifest.form,
            identity=found.identity,
            rank=found.source.worker_rank,
            report=report,
            files=files,
        )

    def offer(self, found: SourceManifest) -> Offer:
        """What was pulled, to be published on under the same identity."""
        rank = found.source.worker_rank
        if self._checkpoint is not None:
            assert found.manifest.checkpoint is not None
            manifest = checkpoint_manifest(found.manifest.checkpoint)
            return Offer(found.wire_identity, rank, manifest, list(self._checkpoint.files().values()))
        assert self._runtime is not None
        items, regions = self._runtime.offered()
        return Offer(found.wire_identity, rank, Manifest(Form.RUNTIME, items, ()), regions)
