"""Items by columns are what they are one by one, whatever a peer writes; and columns are a sequence of items."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peerload.client.items import Item, Items, _Reading, read_items
from peerload.errors import InvalidArgument, LimitExceeded
from peerload.metadata.records import Form
from peerload.wire import sources_pb2


def encoded(**members: object) -> bytes:
    return sources_pb2.Item(**members).SerializeToString()  # type: ignore[arg-type]


PLAIN = encoded(name="w", size=8, dtype="torch.float32", shape=[2], digest=bytes(16))
WELL = st.builds(
    lambda name, kind, digest, region, offset, file, device: encoded(
        name=name, **kind, digest=digest, region=region, offset=offset, file=file, device=device
    ),
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3),
    kind=st.sampled_from(
        [
            {"size": 8, "dtype": "torch.float32", "shape": [2]},
            {"size": 24, "dtype": "torch.float32", "shape": [3, 2]},
            {"size": 2, "dtype": "torch.bfloat16"},
            {"size": 24, "dtype": "torch.float32", "shape": [3, 2], "stride": [1, 3]},
            {"size": 0, "dtype": "torch.float32", "shape": [0]},
        ]
    ),
    digest=st.sampled_from([b"", bytes(16)]),
    region=st.integers(0, 2**32 - 1) | st.just(0),
    offset=st.integers(0, 2**63 - 100) | st.just(0),
    file=st.integers(0, 2),
    device=st.none() | st.integers(0, 2),
)
ODD = st.sampled_from(
    [
        PLAIN[:-1],
        b"",
        b"\xff",
        PLAIN + b"\x0a\x00",  # a name again, and empty
        PLAIN + b"\x12\x02\x01\x02",  # a size as the bytes of a list
        PLAIN + b"\x52\x02\x01\x02",  # a device likewise
        PLAIN + b"\x38\x07\x38\x09",  # a region twice
        PLAIN + b"\x20\x01",  # a dimension by itself
        PLAIN + b"\x22\x00",  # and none
        PLAIN + b"\xa2\x06\x01x",  # a member of a later release
        PLAIN + b"\x0a\x01\xff",  # no text
        encoded(name="w", size=2**64 - 1, offset=1),
        encoded(name="w" * 5000, dtype="x"),
        encoded(name="w", size=9, dtype="torch.float32", shape=[2]),
        encoded(name="w", digest=b"short"),
        encoded(name="w", size=2**63 - 1, dtype="x"),
    ]
)


def outcome(elements: list[bytes], form: Form, *, by_columns: bool) -> list[Item] | str:
    try:
        if by_columns:
            return list(read_items(elements, form))
        reading = _Reading(form)
        reading.one_by_one(elements, 0)
        if sum(reading.items.sizes) > 2**63 - 1:
            return "manifest.items"
        return list(reading.items)
    except InvalidArgument as error:
        return error.field


@settings(max_examples=300, deadline=None)
@given(st.lists(WELL | ODD, max_size=5), st.sampled_from([Form.RUNTIME, Form.CHECKPOINT]))
@example([encoded(name="a", dtype="x", device=1), PLAIN + b"\x52\x02\x01\x02"], Form.RUNTIME)
def test_columns_say_what_each_item_says(elements: list[bytes], form: Form) -> None:
    assert outcome(elements, form, by_columns=True) == outcome(elements, form, by_columns=False)


@given(st.lists(WELL, min_size=1, max_size=5))
def test_columns_are_a_sequence_of_the_items(elements: list[bytes]) -> None:
    items = read_items(elements, Form.RUNTIME)
    listed = list(items)
    for same in (listed, tuple(listed), Items.of(listed)):
        assert items == same
    assert items[0] == listed[0]
    assert items[-1:] == listed[-1:]
    assert items.sizes == [each.size for each in listed]
    assert items != [*listed, listed[0]]
    assert items != 1
    assert Items.of(items) is items


def test_what_most_models_have_is_read_by_columns() -> None:
    for elements in ([PLAIN] * 5000, [PLAIN + b"\x50\x00"] * 3):  # all in host memory, all on one device
        reading = _Reading(Form.RUNTIME)
        assert reading.columns(elements)
        assert len(reading.items) == len(elements)


def test_the_one_of_many_that_is_wrong_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"^manifest\.items\[4321\]\.digest: "):
        read_items([PLAIN] * 4321 + [encoded(name="w", dtype="x", digest=b"1")] + [PLAIN] * 9, Form.RUNTIME)
    with pytest.raises(LimitExceeded, match=r"^manifest\.items\[1\]\.name: "):
        read_items([PLAIN, encoded(name="é" * 3000)], Form.RUNTIME)
