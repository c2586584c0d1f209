"""What is kept in Redis is read strictly: what is not as Peerload writes it is `Damaged`, and nothing else."""

from __future__ import annotations

import pytest

from peerload.errors import Compacted, Damaged
from peerload.store.base import Beat, Beaten, Deleted, Put
from peerload.store.redis.layout import read_changes, read_entry

VALUES = [
    b"[]",
    b"5",
    b"{",
    b'{"a":[]}',
    b'{"a":NaN}',
    b'{"a":"\\ud800"}',
    b"[" * 90_000,
    b'{"a":1' + b"0" * 5_000 + b"}",
]


@pytest.mark.parametrize("value", VALUES)
def test_values(value: bytes) -> None:
    with pytest.raises(Damaged, match="'k'"):
        read_entry(b"k", b"7 7 - " + value, b"7 7")


@pytest.mark.parametrize("beat", [b"7 7 -1 ", b"7 7 5 nan", b"7 7 5 x", b"7 7 9223372036854775808 ", b"7 7 5", b"8 7"])
def test_beats(beat: bytes) -> None:
    with pytest.raises(Damaged):
        read_entry(b"k", b"7 7 - {}", beat)


@pytest.mark.parametrize(
    "flat",
    [
        [],
        [b"p"],
        [b"p", b"x"],
        [b"p", b"6"],
        [b"p", b"6", b"t", b"{"],
        [b"p", b"6", b"t", b'["k","1","2"]'],
        [b"p", b"6", b"t", b'[5,"1","2",""]'],
        [b"p", b"6", b"t", b'["k","1","-2",""]'],
        [b"p", b"6", b"d", b"\xff"],
        [b"p", b"6", b"v", b"7 7 - {}"],
    ],
)
def test_the_feed(flat: list[bytes]) -> None:
    with pytest.raises(Damaged, match="the feed"):
        read_changes([(b"7-0", flat)], 6)


def test_what_is_as_it_is_written() -> None:
    items = [
        (b"7-0", [b"p", b"6", b"k", b"k", b"v", b'7 7 3 {"a":"\\u0007"}', b"b", b"7 7 5 0.5"]),
        (b"8-0", [b"p", b"7", b"t", b'["k","7","9",""]']),
        (b"9-0", [b"p", b"8", b"d", b"k"]),
    ]
    (put, beaten, deleted), seen = read_changes(items, 6)
    assert isinstance(put, Put)
    assert (put.entry.value, put.entry.beat, put.entry.blob_size) == ({"a": "\a"}, Beat(5, 0.5), 3)
    assert (beaten, deleted, seen) == (Beaten("k", 7, Beat(9)), Deleted("k", 9), 9)
    with pytest.raises(Compacted):
        read_changes(items, 5)
