"""What there is to measure, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.figures import Figure
from bench.rows import (
    engines,
    kubernetes,
    libraries,
    lists,
    manifests,
    publish,
    pull,
    records,
    redis,
    restart,
    scale,
    several,
    single,
    update,
    watch,
)
from bench.setting import Setting

__all__ = ["ROWS", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """Some figures that belong together."""

    about: str
    measure: Callable[[Setting], Iterator[Figure]]
    seconds: float
    """The most that it takes by default; then it is ended. On a quiet machine of two cores it takes less than half of that."""
    plain: bool = True
    """Whether a run that names no rows has it."""
    needs_h2load: bool = False


ROWS: Final[dict[str, Row]] = {
    "single": Row("one worker's small calls, by h2load", single.measure, 240, needs_h2load=True),
    "update": Row("UpdateStatus of workers that are all different", update.measure, 180),
    "list": Row("ListSources in a large directory", lists.measure, 450),
    "manifest": Row("GetMetadata, again and for the first time", manifests.measure, 450),
    "publish": Row("PublishMetadata, durable", publish.measure, 400),
    "storm": Row("UpdateStatus while large publications come in", publish.measure_heartbeats, 120),
    "restart": Row("2,000 workers start at once", restart.measure, 240),
    "watch": Row("1,000 watchers are told", watch.measure, 120),
    "records": Row("what 100,000 records cost", records.measure, 180),
    "several": Row("several processes on one port", several.measure, 120),
    "pull": Row("a verified pull beside the engine's own read, and its memory", pull.measure, 240),
    "engines": Row("engines beside raw sockets", engines.measure, 120, plain=False),
    "libraries": Row("NIXL and Mooncake in children beside their bare reads", libraries.measure, 240, plain=False),
    "redis": Row("the Redis store: memory, start, batches, the feed's delay", redis.measure, 240, plain=False),
    "kubernetes": Row("the Kubernetes store beside the API server", kubernetes.measure, 300, plain=False),
    "scale": Row("10,000 workers with 1,500 tensors on sqlite", scale.measure, 300, plain=False),
}
