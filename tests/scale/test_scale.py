"""A fleet of ten thousand workers fits the embedded store of one small machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rows.scale import fleet

WORKERS = 10_000
TENSORS = 1_500
FILE_BYTES_A_WORKER = 30_000


@pytest.mark.scale
@pytest.mark.timeout(1200)
async def test_ten_thousand_workers(tmp_path: Path) -> None:
    figures = await fleet(WORKERS, TENSORS, tmp_path, twice=True)
    print(figures)
    assert figures.listed == WORKERS
    assert figures.file_bytes_a_worker < FILE_BYTES_A_WORKER


async def test_a_small_fleet(tmp_path: Path) -> None:
    """The same in small, so that what the long run rests on is known to work."""
    figures = await fleet(40, 200, tmp_path)
    assert figures.listed == 40
    assert figures.request_bytes > 200 * 40
