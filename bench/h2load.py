"""h2load (Debian: nghttp2-client): the same small call over and over, in one thread."""

from __future__ import annotations

import re
import resource
import subprocess
import tempfile
import time
from pathlib import Path

__all__ = ["h2load"]


def h2load(
    address: str, path: str, request: bytes, seconds: float, *, connections: int = 8, streams: int = 16
) -> tuple[float, float]:
    """Calls a second, and how much of a core h2load took itself. Raises `RuntimeError` where some were not answered."""
    shape = {"-D": max(1, round(seconds)), "-c": connections, "-m": streams, "-t": 1}
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    with tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(len(request).to_bytes(5, "big") + request)
        words = ["h2load", *(str(word) for pair in shape.items() for word in pair), "-d", body.name, *headers]
        before, begun = _spent(), time.perf_counter()
        output = subprocess.run([*words, f"http://{address}{path}"], capture_output=True, text=True).stdout
        cores = (_spent() - before) / (time.perf_counter() - begun)
    rate = re.search(r"([\d.]+) req/s", output)
    counted = re.search(r"(\d+) succeeded, (\d+) failed", output)
    if rate is None or counted is None or int(counted[2]) or not int(counted[1]):
        raise RuntimeError(f"h2load: {output}")
    return float(rate[1]), cores


def _spent() -> float:
    """Processor time of children that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
