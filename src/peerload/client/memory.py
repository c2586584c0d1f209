"""Weights in memory: what a pull fills when it is not a folder, and what a publication offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerload.checkpoint import Progress
from peerload.client.buffers import Memory, memories
from peerload.client.digests import digest_all
from peerload.client.frameworks import As
from peerload.client.identity import Identity
from peerload.client.layout import tensors_of
from peerload.client.manifest import Item, Manifest, SourceManifest, checkpoint_manifest
from peerload.client.source import AsyncSource, Offer
from peerload.client.targets import Allocate, AtOnce, CheckpointMemory, RuntimeMemory
from peerload.client.tensor import Tensor
from peerload.client.transfer import Slot
from peerload.client.weights import PullReport, Weights
from peerload.errors import InvalidArgument
from peerload.metadata.records import Form

__all__ = ["MemoryTarget", "offer_tensors"]


class MemoryTarget(AtOnce):
    """The target of a pull into memory; the first manifest decides its form."""

    def __init__(self, framework: As, into: Mapping[str, Memory] | None = None, *, need_digests: bool) -> None:
        self._framework = framework
        self._into = into
        self._need_digests = need_digests
        self._runtime: RuntimeMemory | None = None
        self._checkpoint: CheckpointMemory | None = None
        self.slots: list[Slot] = []

    def plan(self, manifest: Manifest, allocate: Allocate, progress: Progress) -> None:
        target: RuntimeMemory | CheckpointMemory
        self._framework.check(tensors_of(manifest))
        if manifest.form is Form.CHECKPOINT:
            if self._into is not None:
                raise InvalidArgument("into", "a checkpoint is read into memory of its own")
            target = self._checkpoint = self._checkpoint or CheckpointMemory()
        else:
            target = self._runtime = self._runtime or RuntimeMemory(self._into, need_digests=self._need_digests)
        target.plan(manifest, allocate, progress)
        self.slots = target.slots

    def weights(self, found: SourceManifest, report: PullReport) -> Weights[Any, AsyncSource]:
        """What was pulled, as the framework's arrays."""
        tensors: Mapping[str, Tensor]
        files: Mapping[str, memoryview] = {}
        if self._checkpoint is not None:
            tensors, files = self._checkpoint.tensors(), self._checkpoint.files()
        else:
            assert self._runtime is not None
            tensors = self._runtime.tensors()
        return Weights(
            {name: self._framework(tensor) for name, tensor in tensors.items()},
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


def offer_tensors(
    tensors: Mapping[str, Any], identity: Identity, rank: int, copy: bool, digests: bool, progress: Progress
) -> Offer:
    """Each distinct memory becomes a region; tensors that share it, share that."""
    if not tensors:
        raise InvalidArgument("tensors", "there is none")
    found = memories(tensors, copy=copy)
    index: dict[tuple[object, int], int] = {}
    regions: list[memoryview] = []
    for memory in found.values():
        if memory.key not in index:
            index[memory.key] = len(regions)
            regions.append(memory.view)
    known = digest_all(regions, progress) if digests else [b""] * len(regions)
    items = tuple(
        Item(name, memory.view.nbytes, memory.dtype, memory.shape, known[at := index[memory.key]], at, 0)
        for name, memory in found.items()
    )
    return Offer(identity.to_wire(), rank, Manifest(Form.RUNTIME, items, ()), regions, owner=found)
