"""What there is to measure, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.figures import Figure
from bench.processes import ESTABLISHED
from bench.rows import (
    engines,
    established,
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

__all__ = ["MADE_BY", "ROWS", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """Some figures that belong together."""

    about: str
    measure: Callable[[Setting], Iterator[Figure]]
    seconds: float
    """The most that it takes by default; then it is ended. On a quiet machine of two cores it takes less than half of that."""
    plain: bool = True
    """Whether a run that names no rows has it."""
    needs: str = ""
    """A program that it cannot do without; `MADE_BY` tells how to come by it."""


MADE_BY: Final = {
    "h2load": "Debian: apt-get install nghttp2-client",
    ESTABLISHED: f"cargo install {ESTABLISHED} --locked; it needs Debian's protobuf-compiler",
}


ROWS: Final[dict[str, Row]] = {
    "single": Row("one worker's small calls, by h2load", single.measure, 240, needs="h2load"),
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
    "established": Row(
        "the established server, the same calls by turns", established.measure, 300, plain=False, needs=ESTABLISHED
    ),
    "redis": Row("the Redis store: memory, start, batches, the feed's delay", redis.measure, 240, plain=False),
    "kubernetes": Row("the Kubernetes store beside the API server", kubernetes.measure, 300, plain=False),
    "scale": Row("10,000 workers with 1,500 tensors on sqlite", scale.measure, 300, plain=False),
}
