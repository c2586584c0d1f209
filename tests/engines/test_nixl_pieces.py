"""Of what pieces NIXL is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peerload.engines.child.driver import Span
from peerload.engines.nixl.agent import joined

ROOM = 64
"""Bytes of an allocation here; they lie side by side."""


def allocation_end(address: int) -> int:
    return (address // ROOM + 1) * ROOM


@st.composite
def inside(draw: st.DrawFn) -> Span:
    begin = draw(st.integers(0, 4 * ROOM - 1))
    return Span(begin, draw(st.integers(1, allocation_end(begin) - begin)), draw(st.integers(0, 1)))


def held(spans: list[Span]) -> set[tuple[int | None, int]]:
    return {(each.device, at) for each in spans for at in range(each.address, each.address + each.nbytes)}


@given(st.lists(inside()))
def test_pieces_are_the_memory_and_never_of_two_allocations(spans: list[Span]) -> None:
    pieces = joined(spans, allocation_end)
    assert held(pieces) == held(spans)
    assert all(each.address + each.nbytes <= allocation_end(each.address) for each in pieces)
    ends = {(each.device, each.address + each.nbytes) for each in pieces}
    assert not any((each.device, each.address) in ends and each.address % ROOM for each in pieces)


def test_neighbours_are_one_piece() -> None:
    spans = [Span(10, 10), Span(30, 10), Span(20, 10), Span(64, 10)]
    assert joined(spans, lambda _: 1 << 64) == [Span(10, 30), Span(64, 10)]
