"""Plans over memory: what is moved, what is kept when the source changes, and that weights never mix."""

from __future__ import annotations

import random

import pytest
import xxhash

from peerload.client.giving import As
from peerload.client.manifest import Item, Manifest
from peerload.client.targets import RuntimeMemory, SourceUnusable
from peerload.client.transfer import Slot
from peerload.engines.base import Descriptor
from peerload.metadata.records import Form

ENDPOINT = Descriptor("tcp", "127.0.0.1:1", b"")


class Peer:
    """A source's regions, and the manifest that goes with them."""

    def __init__(self, tensors: dict[str, bytes], *, ties: dict[str, str] | None = None, digests: bool = True) -> None:
        self.regions = list(tensors.values())
        places = {name: index for index, name in enumerate(tensors)}
        contents = tensors | {tied: tensors[name] for tied, name in (ties or {}).items()}
        places |= {tied: places[name] for tied, name in (ties or {}).items()}
        self.contents = contents
        self.manifest = Manifest(
            Form.RUNTIME,
            tuple(
                Item(
                    name,
                    len(data),
                    "torch.uint8",
                    (len(data),),
                    xxhash.xxh3_128_digest(data) if digests else b"",
                    places[name],
                    0,
                )
                for name, data in contents.items()
            ),
            (ENDPOINT,),
        )

    def fill(self, slots: list[Slot], count: int | None = None) -> None:
        """What a transfer does to the missing slots, or to the first `count` of them."""
        for slot in [slot for slot in slots if not slot.verified][:count]:
            start = slot.range.offset
            slot.destination[:] = self.regions[slot.range.region][start : start + slot.size]
            slot.verified = not slot.digest or xxhash.xxh3_128_digest(slot.destination) == slot.digest
            assert slot.verified


def plan(target: RuntimeMemory, peer: Peer) -> list[Slot]:
    target.plan(peer.manifest, lambda size: memoryview(bytearray(size)), lambda done, total: None)
    return [slot for slot in target.slots if not slot.verified]


def contents(target: RuntimeMemory) -> dict[str, bytes]:
    return {name: bytes(memory[at : at + size]) for name, (size, *_), memory, at in target.tensors()}


def test_tied_tensors_are_moved_once_and_stay_tied() -> None:
    peer = Peer({"a": b"aaaa", "b": b"bb", "none": b""}, ties={"c": "a"})
    target = RuntimeMemory()
    missing = plan(target, peer)
    assert sorted(slot.names for slot in missing) == [("a", "c"), ("b",), ("none",)]
    peer.fill(missing)
    assert contents(target) == peer.contents
    tensors = As(None).over(target.tensors())
    tensors["a"].memory[0] = 0
    assert tensors["c"].memory[0] == 0


def test_what_agrees_is_kept_and_the_rest_read_again() -> None:
    first = Peer({"a": b"same", "b": b"old!", "c": b"never"})
    second = Peer({"c": b"never", "b": b"new!", "a": b"same", "d": b"more"})
    target = RuntimeMemory()
    plan(target, first)
    first.fill(target.slots, 2)
    missing = plan(target, second)
    assert [slot.names for slot in missing] == [("c",), ("b",), ("d",)]
    second.fill(missing)
    assert contents(target) == second.contents


def test_another_dtype_shape_or_size_is_not_the_same_tensor() -> None:
    first = Peer({"a": b"same"})
    for item in (
        Item("a", 4, "torch.int8", (4,), first.manifest.items[0].digest, 0, 0),
        Item("a", 4, "torch.uint8", (2, 2), first.manifest.items[0].digest, 0, 0),
        Item("other", 4, "torch.uint8", (4,), first.manifest.items[0].digest, 0, 0),
    ):
        target = RuntimeMemory()
        first.fill(plan(target, first))
        target.plan(Manifest(Form.RUNTIME, (item,), (ENDPOINT,)), lambda n: memoryview(bytearray(n)), lambda d, t: None)
        assert [slot.verified for slot in target.slots] == [False]


def test_without_digests_nothing_is_kept() -> None:
    bare = Peer({"a": b"aaaa", "b": b"bbbb"}, digests=False)
    target = RuntimeMemory()
    bare.fill(plan(target, bare), 1)
    assert len(plan(target, bare)) == 2
    full = Peer({"a": b"aaaa", "b": b"bbbb"})
    target = RuntimeMemory()
    full.fill(plan(target, full), 1)
    assert len(plan(target, bare)) == 2


def test_memory_that_was_kept_is_never_written_again() -> None:
    """a and b are tied at the first source; at the second b is another tensor."""
    first, second = Peer({"a": b"aaaa"}, ties={"b": "a"}), Peer({"a": b"aaaa", "b": b"bbbb"})
    target = RuntimeMemory()
    first.fill(plan(target, first))
    missing = plan(target, second)
    assert [slot.names for slot in missing] == [("b",)]
    second.fill(missing)
    assert contents(target) == second.contents


@pytest.mark.parametrize("seed", range(40))
def test_any_chain_of_sources_ends_as_the_last(seed: int) -> None:
    rng = random.Random(seed)
    pool = [bytes([value]) * size for value in range(4) for size in (0, 3, 64, 100)]
    target = RuntimeMemory()
    for step in range(4):
        names = rng.sample("abcdef", rng.randint(1, 5))
        tensors = {name: rng.choice(pool) for name in names}
        ties = {name: rng.choice(names) for name in "xyz"[: rng.randint(0, 3)]}
        peer = Peer(tensors, ties=ties, digests=rng.random() < 0.8)
        missing = plan(target, peer)
        peer.fill(missing, None if step == 3 else rng.randint(0, len(missing)))
        if step == 3:
            assert contents(target) == peer.contents


def test_what_cannot_be_verified_is_not_for_publishing_on() -> None:
    with pytest.raises(SourceUnusable, match="gives no digest of 'a'"):
        plan(RuntimeMemory(need_digests=True), Peer({"a": b"aaaa"}, digests=False))
    plan(RuntimeMemory(need_digests=True), Peer({"a": b""}, digests=False))


def test_contradictions_and_absurd_sizes() -> None:
    items = tuple(
        Item(name, 1, "torch.uint8", (1,), digest, 0, 0) for name, digest in [("a", bytes(16)), ("b", b"1" * 16)]
    )
    with pytest.raises(SourceUnusable, match="two digests"):
        RuntimeMemory().plan(Manifest(Form.RUNTIME, items, ()), lambda n: memoryview(bytearray(n)), lambda d, t: None)
    huge = Item("a", 2**60, "torch.uint8", (2**60,), b"", 0, 0)
    with pytest.raises(SourceUnusable, match=r"bytes of memory, and .* are available"):
        RuntimeMemory().plan(Manifest(Form.RUNTIME, (huge,), ()), lambda n: memoryview(bytearray(n)), lambda d, t: None)
