"""How a read is cut: into windows for lanes, into calls of the kernel, and by the kernel where it gives less than was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from peerload.clock import SystemClock
from peerload.engines.base import JobState, Range
from peerload.engines.job import LaneJob
from peerload.engines.pieces import Pieces
from peerload.engines.tcp import lane, protocol, serving, sockets, work
from peerload.engines.tcp.lane import Lane
from peerload.engines.tcp.work import Window, Work

LENGTHS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 200)), max_size=40)


def ranges_of(lengths: Sequence[int]) -> list[Range]:
    """A range for each, somewhere in a region of its own."""
    return [Range(index, 7 * index, length) for index, length in enumerate(lengths)]


@given(lengths=LENGTHS, window=st.integers(1, 64), most=st.integers(1, 8), turns=st.lists(st.booleans(), max_size=400))
def test_windows_are_the_read(lengths: list[int], window: int, most: int, turns: list[bool]) -> None:
    with patch.multiple(work, WINDOW=window, SMALLEST=1), patch.object(protocol, "MAX_RANGES", most):
        given_out = Work(ranges_of(lengths), 1)
        last: list[Window | None] = [None, None]
        done: set[int] = set()
        owner: dict[int, int] = {}
        reached = [0] * len(lengths)
        for who in [*map(int, turns), *([0, 1] * (sum(lengths) + 1))]:
            if who in done:
                continue
            took = given_out.take(last[who])
            if took is None:
                done.add(who)
                continue
            last[who] = took
            wanted = given_out.wanted(took)
            assert 0 < sum(each.length for each in wanted) == took.size <= window
            assert len(wanted) <= most
            parts = list(given_out.parts(took))
            assert [size for _, _, size in parts] == [each.length for each in wanted if each.length]
            for (index, start, size), each in zip(parts, (each for each in wanted if each.length), strict=True):
                # In the order of its bytes, and by one lane alone.
                assert owner.setdefault(index, who) == who
                assert start == reached[index]
                assert (each.region, each.offset) == (index, 7 * index + start)
                reached[index] += size
        assert done == {0, 1}
        assert reached == lengths


def test_a_long_range_has_windows_of_one_size() -> None:
    with patch.multiple(work, WINDOW=10, SMALLEST=10):
        given_out = Work(ranges_of([3, 31]), 1)
        windows: list[Window] = []
        while (took := given_out.take(windows[-1] if windows else None)) is not None:
            windows.append(took)
    assert [each.size for each in windows] == [3, 8, 8, 8, 7]


class Job(LaneJob):
    """Notes what it is told of."""

    def __init__(self, destinations: Any) -> None:
        super().__init__(destinations, deadline=60, clock=SystemClock())
        self.bytes = 0

    def arrived(self, nbytes: int, ranges: Sequence[tuple[int, bytes | None]] = ()) -> None:
        self.bytes += nbytes
        super().arrived(nbytes, ranges)


def dripping(stream: bytes, counts: Sequence[int]) -> Callable[..., int]:
    """`sockets.receive` where the kernel gives no more than it has at the moment: so many bytes, then so many."""
    at, turn = 0, 0

    def receive(sock: object, views: Sequence[memoryview], waiting: object) -> int:
        nonlocal at, turn
        assert 0 < len(views) <= lane.BATCH
        # The kernel takes no other, not even where there is nothing to receive.
        assert not any(view.readonly for view in views)
        room = sum(map(len, views))
        assert 0 < room <= lane.PIECE
        count = min(room, counts[turn % len(counts)])
        turn += 1
        left = count
        for view in views:
            now = min(left, len(view))
            view[:now] = stream[at : at + now]
            at, left = at + now, left - now
        return count

    return receive


@given(
    lengths=LENGTHS,
    window=st.integers(1, 300),
    piece=st.integers(1, 100),
    batch=st.integers(1, 8),
    counts=st.lists(st.integers(1, 120), min_size=1, max_size=10),
    pieces=st.booleans(),
)
def test_what_arrives_in_parts_is_digested_whole(
    lengths: list[int], window: int, piece: int, batch: int, counts: list[int], pieces: bool
) -> None:
    content = bytes((7 * at + at // 251) % 256 for at in range(sum(lengths)))
    starts = list(accumulate(lengths, initial=0))[:-1]
    into = bytearray(len(content))
    places = [(0, start) if size else None for start, size in zip(starts, lengths, strict=True)]
    destinations: Any = Pieces([memoryview(into)], places, lengths)
    job = Job(destinations if pieces else destinations[:])
    with (
        patch.multiple(work, WINDOW=window, SMALLEST=1),
        patch.multiple(lane, PIECE=piece, BATCH=batch),
        patch.object(sockets, "receive", dripping(content, counts)),
    ):
        given_out = Work(ranges_of(lengths), 1)
        reading = Lane(job, given_out, Any, SystemClock(), 10)  # type: ignore[arg-type]
        last = None
        while (last := given_out.take(last)) is not None:
            reading._receive(None, last, destinations)  # type: ignore[arg-type]
    assert bytes(into) == content
    assert job.bytes == len(content)
    assert job.poll().state is JobState.DONE
    told = job.completed()
    expected = [xxhash.xxh3_128_digest(content[at : at + size]) for at, size in zip(starts, lengths, strict=True)]
    assert dict(told) == dict(enumerate(expected))
    assert len(told) == len(lengths)


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=10), data=st.data())
def test_views_are_cut_where_the_kernel_stopped(lengths: list[int], data: st.DataObject) -> None:
    content = bytes(range(sum(lengths)))
    starts = accumulate(lengths, initial=0)
    views = [memoryview(content)[start : start + size] for start, size in zip(starts, lengths, strict=False)]
    at = data.draw(st.integers(0, len(content) - 1))
    rest = serving._cut(views, at)
    assert b"".join(views) == content[:at]
    assert b"".join(rest) == content[at:]
    assert all(map(len, [*views, *rest]))


def test_a_request_is_written_as_one() -> None:
    ranges = [Range(1, 2, 3), Range(4, 2**40, 6)]
    said = protocol.read_request(ranges)
    assert protocol.REQUEST.unpack_from(said) == (protocol.REQUEST_MAGIC, protocol.Kind.READ, 2)
    assert [Range(*each) for each in protocol.RANGE.iter_unpack(said[protocol.REQUEST.size :])] == ranges


@pytest.mark.parametrize("size", [0, 1])
def test_a_read_of_little_is_one_window(size: int) -> None:
    given_out = Work(ranges_of([size]), 2)
    took = given_out.take(None)
    assert took == (Window(0, 1, 0, 1) if size else None)
    assert given_out.take(took) is None
