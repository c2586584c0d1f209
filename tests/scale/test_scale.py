"""A fleet of ten thousand workers fits the embedded store of one small machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.rows.scale import fleet

WORKERS = 10_000
TENSORS = 1_500
FILE_BYTES_A_WORKER = 30_000


@pytest.mark.scale
@pytest.mark.timeout(1200)
def test_ten_thousand_workers(tmp_path: Path) -> None:
    figures = fleet(WORKERS, TENSORS, tmp_path, "grpc", twice=True)
    print(replace(figures, publish_times=(), list_times=()))
    assert figures.listed == WORKERS
    assert figures.file_bytes < FILE_BYTES_A_WORKER


def test_a_small_fleet(tmp_path: Path) -> None:
    """The same in small, so that what the long run rests on is known to work."""
    figures = fleet(41, 200, tmp_path, "grpc")
    assert figures.listed == 41
    assert figures.request_bytes > 200 * 40
