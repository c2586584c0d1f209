"""How a read is cut into windows, and what of it is digested where it arrives."""

from __future__ import annotations

from array import array

import hypothesis.strategies as st
import xxhash
from hypothesis import given, settings

from peerload.engines.base import Range
from peerload.engines.child.digests import DIGEST_BYTES, Digests, pieces
from peerload.engines.child.plan import WINDOW, Plan
from peerload.engines.shared import allocate_shared


@given(st.lists(st.integers(0, 40), max_size=30), st.data())
@settings(max_examples=200)
def test_digests_are_those_of_the_ranges_however_they_are_cut(lengths: list[int], data: st.DataObject) -> None:
    content = bytes(index % 251 for index in range(sum(lengths)))
    digests, found = Digests(), []
    index = start = at = 0
    while at < len(content):
        window = data.draw(st.integers(1, len(content) - at))
        cut = array("q", pieces(lengths, index, start, window))
        assert sum(map(abs, cut)) == window
        digests.expect(cut)
        end = at + window
        while at < end:
            step = data.draw(st.integers(1, end - at))
            digests.feed(memoryview(content)[at : at + step])
            at += step
            start += step
        while index < len(lengths) and start >= lengths[index]:
            start -= lengths[index]
            index += 1
        said = digests.take()
        found += [said[at : at + DIGEST_BYTES] for at in range(0, len(said), DIGEST_BYTES)]
    expected, at = [], 0
    for length in lengths:
        if length:
            expected.append(xxhash.xxh3_128_digest(content[at : at + length]))
        at += length
    assert found == expected


def test_windows_are_bounded_in_bytes_and_in_ranges() -> None:
    lengths = [1] * 40_000 + [3 * WINDOW]
    memory = allocate_shared(sum(lengths))
    views, ranges, at = [], [], 0
    for index, length in enumerate(lengths):
        views.append(memory[at : at + length])
        ranges.append(Range(index, 0, length))
        at += length
    plan = Plan(ranges, views, len(lengths))
    starts = [sum(lengths[:1]) * index for index in range(len(lengths))]
    windows = plan.windows(starts, [0] * len(lengths))
    sizes, ended = [], 0
    while (window := windows.take(1 << 60)).size:
        cut = array("q", window.pieces)
        assert sum(map(abs, cut)) == window.size <= WINDOW
        assert len(cut) <= 20_000
        ended += sum(piece > 0 for piece in cut)
        sizes.append(window.size)
    assert sum(sizes) == sum(lengths)
    assert ended == len(lengths)
    assert sizes[:2] == [16_384, 16_384]
