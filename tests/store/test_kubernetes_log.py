"""The log of changes: what was forgotten is known to be, and nothing else is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peerload.store.base import Beat, Beaten, Change, Entry, Put
from peerload.store.kubernetes.log import Log


def change(number: int) -> Change:
    return Beaten("k", 1, Beat(number))


def read_all(log: Log, position: int) -> list[Change]:
    found: list[Change] = []
    while True:
        changes, following = log.read(position)
        found += changes
        if following == position or following >= log.end:
            assert log.read(following) == ((), max(following, log.end))
            return found
        assert following > position
        position = following


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), max_size=60), st.integers(1, 20))
def test_every_change_after_a_position_is_there_or_it_is_below_the_floor(
    steps: list[tuple[int, int]], limit: int
) -> None:
    log = Log(10, limit)
    told: list[tuple[int, Change]] = []
    version = 10
    for gap, count in steps:
        version += gap
        changes = tuple(change(len(told) + n) for n in range(count))
        told += [(version, one) for one in changes]
        log.add(version, changes)
        assert log.end == version
        for position in range(log.floor, version + 2):
            assert read_all(log, position) == [one for at, one in told if at > position]
        held = read_all(log, log.floor)
        assert len(held) <= limit or len({at for at, one in told if one in held}) == 1


def test_much_is_read_in_parts() -> None:
    log = Log(0)
    for version in range(1, 3_001):
        log.add(version, (change(version),))
    changes, position = log.read(0)
    assert 0 < len(changes) < 3_000
    assert position == len(changes)
    assert len(read_all(log, 0)) == 3_000


def test_large_values_count_for_more() -> None:
    log = Log(0, 1_000)
    for version in range(1, 101):
        log.add(version, (Put(Entry("k", {"text": "x" * 200_000}, version, 1, None, None)),))
    assert log.floor > 85


def test_a_position_ahead_stays_where_it_is() -> None:
    assert Log(10).read(12) == ((), 12)
