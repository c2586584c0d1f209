"""The source in an examination of an engine: a process of its own that publishes, says so, and serves until its input ends.

python -m peerload.doctor.peer ENGINE
"""

from __future__ import annotations

import base64
import json
import os
import sys
from itertools import accumulate
from typing import Any, Final

import xxhash

from peerload.engines.base import Region
from peerload.engines.shared import allocate_arena
from peerload.errors import MissingExtra, PeerloadError
from peerload.plugins import open_engine

__all__ = ["SIZES", "main"]

SIZES: Final = (48 << 20, 16 << 20, *([4096] * 64), 1, 0)
"""Bytes of what is published: enough to measure by, and of every kind."""


def main() -> None:
    """Publish by the engine that the first argument names, and answer with one line of JSON."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever a library prints is no answer.
    with said:
        try:
            answer = _publish(sys.argv[1])
        except MissingExtra as error:
            answer = {"missing": str(error)}
        except PeerloadError as error:
            answer = {"error": str(error)}
        said.write(json.dumps(answer) + "\n")
    sys.stdin.read()
    os._exit(0)  # Some libraries crash on their way out.


def _publish(name: str) -> dict[str, Any]:
    exporter = open_engine(name).exporter("127.0.0.1")
    ends = list(accumulate(SIZES, initial=0))
    try:
        memory = allocate_arena(ends[-1], "peerload doctor")
    except OSError:
        memory = memoryview(bytearray(ends[-1]))
    block = os.urandom(1 << 20)
    for start in range(0, ends[-1], len(block)):
        part = memory[start : start + len(block)]
        part[:] = block[: len(part)]
    views = [memory[start : start + size] for start, size in zip(ends, SIZES, strict=False)]
    digests = [xxhash.xxh3_128_hexdigest(view) for view in views]
    found = exporter.publish([Region(view) for view in views]).descriptor
    _serving.append(exporter)
    return {
        "engine": found.engine,
        "address": found.address,
        "data": base64.b64encode(found.data).decode("ascii"),
        "digests": digests,
    }


_serving: list[object] = []
"""What must not be collected as long as the process runs."""


if __name__ == "__main__":
    main()
