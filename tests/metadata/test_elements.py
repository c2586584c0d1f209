"""Long lists are judged by their columns as each of their elements would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peerload.errors import InvalidArgument
from peerload.metadata.publications import elements
from peerload.metadata.publications.elements import check_items, check_tensors, same
from peerload.wire import outline_pb2, p2p_pb2, pool, sources_pb2

MOST = 1_000
sizes = st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))
names = st.one_of(st.sampled_from(["", "a", "b", "é"]), st.text(max_size=4), st.just("n" * 1_030), st.just("n" * 5_000))
dimensions = st.sampled_from([(), (0,), (3, 2**40), (1,) * 64, (1,) * 65])
tensors = st.builds(
    p2p_pb2.TensorDescriptor, name=names, addr=sizes, size=sizes, device_id=st.integers(0, 9), dtype=names
)
items = st.builds(
    sources_pb2.Item,
    name=names,
    size=sizes,
    dtype=st.sampled_from(["", "BF16", "x" * 1_100]),
    shape=dimensions,
    stride=dimensions,
    digest=st.sampled_from([b"", b"d" * 16, b"d" * 15]),
    file=st.integers(0, 3),
    offset=sizes,
)


@pytest.fixture(autouse=True, scope="module")
def small_slices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "_SLICE", 3)
        yield


def outcome(check: Callable[[], int]) -> object:
    try:
        return check()
    except InvalidArgument as refused:
        return str(refused)


def encoded(messages: list[Any]) -> list[bytes]:
    return [message.SerializeToString() for message in messages]


@given(st.lists(tensors, max_size=8))
def test_tensors(messages: list[p2p_pb2.TensorDescriptor]) -> None:
    found = encoded(messages)
    expected = outcome(lambda: elements._each_tensor("worker.tensors", found))
    assert outcome(lambda: check_tensors("worker.tensors", found, MOST)) == expected


@given(st.lists(items, max_size=8), st.integers(0, 3))
def test_items(messages: list[sources_pb2.Item], files: int) -> None:
    found = encoded(messages)
    expected = outcome(lambda: elements._each_item("manifest.items", found, files))
    assert outcome(lambda: check_items("manifest.items", found, files, MOST)) == expected


@example([b"\n\x00*\x02\x00\x80"])  # a stride that is no list of numbers
@example([b"*\x01\xff", b"\n\x01b*\x01c"])  # a tensor's dtype that is no text, before one that is
@example([b"\x1a\x01\xff", b"\n\x01b\x1a\x01c"])  # and an item's
@given(st.lists(st.one_of(st.binary(max_size=12), tensors.map(p2p_pb2.TensorDescriptor.SerializeToString)), max_size=8))
def test_whatever_passes_can_be_read_as_what_it_is_said_to_be(found: list[bytes]) -> None:
    for check, kind in (
        (lambda: check_tensors("worker.tensors", found, MOST), p2p_pb2.TensorDescriptor),
        (lambda: check_items("manifest.items", found, 0, MOST), sources_pb2.Item),
    ):
        if isinstance(outcome(check), int):
            named = [name for name in (kind.FromString(each).name for each in found) if name]  # type: ignore[attr-defined]
            assert len(set(named)) == len(named)


def test_an_element_that_is_cut_off_does_not_go_on_in_the_next() -> None:
    whole = p2p_pb2.TensorDescriptor(name="abcdef").SerializeToString()
    with pytest.raises(InvalidArgument, match="not a valid"):
        check_tensors("worker.tensors", [whole[:4], b"cdef"], MOST)
    with pytest.raises(InvalidArgument, match="not a valid"):
        check_items("manifest.items", [whole[:4], b"cdef"], 0, MOST)


def test_a_shape_may_be_encoded_a_number_at_a_time() -> None:
    for dimensions in (64, 65):
        found = [b"\n\x01a" + b"\x20\x01" * dimensions]
        passed = outcome(lambda found=found: check_items("manifest.items", found, 0, MOST))  # type: ignore[misc]
        assert (passed == 0) == (dimensions == 64)


@given(st.lists(st.binary(max_size=2), max_size=8), st.lists(st.binary(max_size=2), max_size=8))
def test_lists_are_the_same_if_all_their_elements_are(left: list[bytes], right: list[bytes]) -> None:
    assert same(left, right) == (left == right)
    assert same(left, list(left))


@pytest.mark.parametrize(
    ("outline", "whole", "lists"),
    [
        (outline_pb2.PublishMetadataRequest, p2p_pb2.PublishMetadataRequest, {"worker"}),
        (outline_pb2.WorkerMetadata, p2p_pb2.WorkerMetadata, {"tensors", "tensor_source"}),
        (outline_pb2.TensorSourceMetadata, p2p_pb2.TensorSourceMetadata, {"tensors"}),
        (outline_pb2.PublishRequest, sources_pb2.PublishRequest, {"record", "manifest"}),
        (outline_pb2.Manifest, sources_pb2.Manifest, {"items"}),
    ],
)
def test_an_outline_has_the_members_of_the_whole(outline: Any, whole: Any, lists: set[str]) -> None:
    def described(message: Any) -> dict[str, object]:
        return {
            field.name: (
                field.number,
                None if field.name in lists else (field.type, field.message_type and members(field.message_type)),
                field.is_repeated,
                field.containing_oneof and field.containing_oneof.name,
            )
            for field in message.DESCRIPTOR.fields
        }

    def members(message: Any) -> str:
        # A map's entries are each message's own.
        return "map" if message.GetOptions().map_entry else str(message.full_name)

    assert described(outline) == described(whole)


def test_columns_have_the_numbers_of_what_they_are_columns_of() -> None:
    for columns, element in (("TensorColumns", p2p_pb2.TensorDescriptor), ("ItemColumns", sources_pb2.Item)):
        fields = pool.POOL.FindMessageTypeByName(f"peerload.outline.{columns}").fields
        whole: Any = element.DESCRIPTOR
        assert all(whole.fields_by_name[field.name].number == field.number for field in fields)
        # Of dtypes nothing is asked but whether each is text, which protobuf does of those that it does not keep, too.
        assert [field.name for field in fields if not field.is_repeated] == ["dtype"]
