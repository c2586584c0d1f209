"""Digests of many buffers: each its own and in order, however they are given and however many threads there are."""

from __future__ import annotations

import random
import threading

import pytest
import xxhash

from peerload.client import digests as module
from peerload.client.digests import digest_all, digests
from peerload.engines.pieces import Pieces

SIZES = [5, 0, 70_000, 4096, 1, 300_000, 4096, 0]


def pieces() -> Pieces:
    memories = [memoryview(random.Random(seed).randbytes(500_000)) for seed in range(2)]
    places: list[tuple[int, int] | None] = []
    at = [0, 0]
    for index, size in enumerate(SIZES):
        number = index % 2
        places.append((number, at[number]) if size else None)
        at[number] += size
    return Pieces(memories, places, SIZES)


@pytest.mark.parametrize("batch", [1, 4096, 75_000, 1 << 24])
def test_each_its_own_and_in_order(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", batch)
    told: list[tuple[int, int]] = []
    for views in (pieces(), list(pieces())):
        assert digest_all(views, lambda done, total: told.append((done, total))) == [
            xxhash.xxh3_128_digest(view) for view in list(views)
        ]
        assert told[-1] == (sum(SIZES), sum(SIZES))
        assert [first for first, _ in digests(views)] == [first for first, _ in module._batches(SIZES)]
    assert digest_all([]) == []


def test_what_is_small_takes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail("a thread was started"))
    assert len(digest_all(pieces())) == len(SIZES)


def test_no_thread_is_left_by_who_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 1)
    some = digests(pieces())
    assert next(some)[0] == 0
    some.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("peerload-digest")]
