"""Fleets for the page's tests: many workers, quickly, and reads among them."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from peerload.metadata.principals import ANYONE
from peerload.metadata.publications.publication import Publication
from peerload.metadata.records import Pod, SourceKey, Status
from peerload.metadata.transfers import Outcome, Reading, Transfer
from peerload.server.app import Server
from peerload.wire import p2p_pb2, sources_pb2

__all__ = ["Population", "Spread", "identity", "manifest_of"]


def identity(model: str) -> p2p_pb2.SourceIdentity:
    return p2p_pb2.SourceIdentity(mx_version="0.7.0", model_name=model, dtype="bfloat16", tensor_parallel_size=1)


def manifest_of(items: int, size: int = 64 << 20) -> sources_pb2.Manifest:
    """A manifest in runtime form, of so many tensors."""
    manifest = sources_pb2.Manifest(form=sources_pb2.FORM_RUNTIME)
    manifest.endpoints.add(engine="tcp", address="127.0.0.1:40123", descriptor=b"a-secret-descriptor")
    for index in range(items):
        manifest.items.add(
            name=f"model.layers.{index // 12}.self_attn.{'qkvo'[index % 4]}_proj.{index:05}.weight",
            size=size + 1024 * index,
            dtype="torch.bfloat16",
            shape=[8192, 1024 + index],
            digest=hashlib.md5(bytes([index % 251])).digest(),
            offset=0,
            region=index,
        )
    return manifest


@dataclass
class Population:
    """Workers of some models at one server, each model with so many."""

    server: Server
    models: Sequence[tuple[str, int]]
    items: int = 4
    size: int = 64 << 20
    ranks: int = 1
    """Of each replica."""
    keys: list[SourceKey] = field(default_factory=list)
    """Of those that were published as ready."""

    async def publish(self) -> None:
        for model, count in self.models:
            for number in range(count):
                await self.add(model, f"{number:04x}{abs(hash((model, number))) % 16**8:08x}", number)

    async def add(self, model: str, worker_id: str, number: int, status: int = Status.READY) -> SourceKey:
        made = Publication.of(
            identity(model),
            p2p_pb2.WorkerMetadata(
                worker_rank=number % self.ranks,
                status=status,  # type: ignore[arg-type]
                accelerator="cuda",
                topology={"zone": f"z{number % 3}", "rack": f"r{number // 8:02}", "host": f"gpu-{number // 8:03}"},
            ),
            worker_id,
            pod=Pod(f"llm-{number}", "", "prod"),
            manifest=manifest_of(self.items, self.size),
        )
        if self.ranks > 1:
            named = made.record._replace(replica=f"replica-{number // self.ranks}", world_size=self.ranks)
            made = dataclasses.replace(made, record=named)
        key = await self.server.backend.publish(made)
        if status == Status.READY:
            self.keys.append(key)
        return key

    async def beat(self, rng: random.Random, some: int) -> None:
        """Heartbeats of so many."""
        for key in rng.sample(self.keys, min(some, len(self.keys))):
            await self.server.backend.update_status(*_parts(key), Status.READY, rng.random())


def _parts(key: SourceKey) -> tuple[str, str, int]:
    return key.source_id, key.worker_id, key.worker_rank


@dataclass
class Spread:
    """One model that goes from worker to worker: each `step` brings every read further, and those that are whole become
    sources that others read from."""

    population: Population
    model: str
    total: int
    rng: random.Random
    reading: dict[str, tuple[SourceKey, int]] = field(default_factory=dict)
    sources: list[SourceKey] = field(default_factory=list)
    made: int = 0

    async def begin(self) -> None:
        self.sources.append(await self.population.add(self.model, "origin-000000", 0))

    async def steps(self, most: int, wide: int) -> AsyncIterator[None]:
        traffic = self.population.server._traffic
        assert traffic is not None
        while True:
            free = [key for key in self.sources for _ in range(2)]
            while len(self.reading) < wide and self.made < most and free:
                source = free.pop(self.rng.randrange(len(free)))
                self.made += 1
                self.reading[f"{self.made:04x}{self.rng.randrange(16**8):08x}"] = (source, 0)
            for worker_id, (source, done) in list(self.reading.items()):
                number = int(worker_id[:4], 16)
                done = min(self.total, done + int(self.total * self.rng.uniform(0.04, 0.14)))
                self.reading[worker_id] = (source, done)
                traffic.progress(
                    Reading(worker_id, source, done, self.total, 1.0, "tcp", worker_id, 0, f"gpu-{number // 8:03}"),
                    ANYONE,
                    f"ipv4:10.0.0.{number % 200}:1",
                )
                if done == self.total:
                    failed = self.rng.random() < 0.06
                    traffic.finished(
                        Transfer(
                            source,
                            Outcome.LOST if failed else Outcome.OK,
                            done,
                            self.rng.uniform(6, 14),
                            "tcp",
                            worker_id,
                            0,
                            f"gpu-{number // 8:03}",
                            worker_id,
                        ),
                        ANYONE,
                        f"ipv4:10.0.0.{number % 200}:1",
                    )
                    del self.reading[worker_id]
                    if not failed:
                        self.sources.append(await self.population.add(self.model, worker_id, number))
            yield
