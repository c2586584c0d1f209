"""Puts, gets, blobs, deletions: revisions, generations and conflicts."""

from __future__ import annotations

import asyncio
import random

import pytest

from peerload.errors import Conflict, NotFound
from peerload.store.base import ABSENT, Beat, Scalar, Store, Touch, Written
from peerload.testing.store_suite.place import StoreTests, soon

__all__ = ["EntryTests"]

_MIB = 1024 * 1024


class EntryTests(StoreTests):
    """The single entry."""

    async def test_an_entry_comes_back_as_it_was_put(self, store: Store) -> None:
        value: dict[str, Scalar] = {
            "text": "ä\n\0/",
            "int": -(2**62),
            "float": 0.1,
            "yes": True,
            "no": False,
            "none": None,
            "": "",
        }
        written = await store.put("a/key", value, blob=b"bytes", beat=Beat(17, 0.25))
        entry = await store.get("a/key")
        assert entry is not None
        assert entry.key == "a/key"
        assert dict(entry.value) == value
        assert type(entry.value["yes"]) is bool
        assert (entry.revision, entry.generation) == (written.revision, written.generation)
        assert entry.beat == Beat(17, 0.25)
        assert entry.blob_size == 5
        assert await store.blob("a/key", entry.generation) == b"bytes"

    async def test_what_was_never_put_is_not_there(self, store: Store) -> None:
        assert await store.get("nothing") is None
        assert (await store.list()).entries == ()
        with pytest.raises(NotFound):
            await store.blob("nothing", 1)

    async def test_changing_the_callers_value_later_changes_nothing(self, store: Store) -> None:
        value: dict[str, int] = {"n": 1}
        await store.put("k", value)
        value["n"] = 2
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == {"n": 1}

    async def test_revisions_grow_and_are_never_used_twice(self, store: Store) -> None:
        seen = []
        for _ in range(3):
            seen += [(await store.put("k", {}, blob=b"x")).revision, (await store.put("k", {"a": 1})).revision]
            seen.append(await store.delete("k"))
        assert seen == sorted(set(seen))
        assert seen[0] > 0

    async def test_a_new_blob_begins_a_generation_and_keep_stays_in_it(self, store: Store) -> None:
        first = await store.put("k", {"n": 1})
        assert first.generation == first.revision
        kept = await store.put("k", {"n": 2})
        assert kept.generation == first.generation
        assert kept.revision > first.revision
        blob = await store.put("k", {"n": 3}, blob=b"one")
        assert blob.generation == blob.revision > kept.revision
        same = await store.put("k", {"n": 4})
        assert same.generation == blob.generation
        assert await store.blob("k", same.generation) == b"one"
        again = await store.put("k", {"n": 4}, blob=b"one")
        assert again.generation == again.revision > same.revision

    async def test_a_recreated_entry_inherits_nothing(self, store: Store) -> None:
        old = await store.put("k", {"n": 1}, blob=b"old", beat=Beat(5))
        gone = await store.delete("k")
        new = await store.put("k", {"n": 2})
        entry = await store.get("k")
        assert entry is not None
        assert entry.blob_size is None
        assert entry.beat is None
        assert new.generation == new.revision > gone > old.revision
        for generation in (old.generation, new.generation):
            with pytest.raises(NotFound):
                await store.blob("k", generation)

    async def test_a_blob_is_found_under_its_own_key_and_generation_only(self, store: Store) -> None:
        a = await store.put("a", {}, blob=b"a1")
        b = await store.put("b", {}, blob=b"b1")
        newer = await store.put("a", {}, blob=b"a2")
        assert await store.blob("a", newer.generation) == b"a2"
        for key, generation in (("a", a.generation), ("a", b.generation), ("b", newer.generation), ("c", b.generation)):
            with pytest.raises(NotFound):
                await store.blob(key, generation)
        for generation in (0, -1, 2**63, 2**70):
            with pytest.raises(NotFound):
                await store.blob("a", generation)
        await store.delete("b")
        with pytest.raises(NotFound):
            await store.blob("b", b.generation)

    async def test_an_entry_without_a_blob_is_not_one_with_an_empty_blob(self, store: Store) -> None:
        none = await store.put("none", {})
        empty = await store.put("empty", {}, blob=b"")
        assert await store.blob("empty", empty.generation) == b""
        with pytest.raises(NotFound):
            await store.blob("none", none.generation)
        sizes = {entry.key: entry.blob_size for entry in (await store.list()).entries}
        assert sizes == {"none": None, "empty": 0}

    @pytest.mark.parametrize("size", [1, 4_095, 16_384, 16_385, 1_000_003, 64 * _MIB])
    async def test_blobs_of_any_size_come_back(self, store: Store, size: int) -> None:
        blob = random.Random(size).randbytes(size)
        written = await soon(store.put("k", {"size": size}, blob=blob))
        assert await soon(store.blob("k", written.generation)) == blob
        entry = await store.get("k")
        assert entry is not None
        assert entry.blob_size == size

    async def test_a_put_writes_only_over_what_it_expects(self, store: Store) -> None:
        with pytest.raises(Conflict) as missing:
            await store.put("k", {"n": 0}, expect=1)
        assert missing.value.revision is None
        assert await store.get("k") is None
        first = await store.put("k", {"n": 1}, blob=b"1", expect=ABSENT)
        with pytest.raises(Conflict) as there:
            await store.put("k", {"n": 2}, blob=b"2", expect=ABSENT)
        assert there.value.revision == first.revision
        second = await store.put("k", {"n": 3}, expect=first.revision)
        with pytest.raises(Conflict) as stale:
            await store.put("k", {"n": 4}, blob=b"4", beat=Beat(9), expect=first.revision)
        assert stale.value.revision == second.revision
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.revision, entry.beat) == ({"n": 3}, second.revision, None)
        assert await store.blob("k", entry.generation) == b"1"

    async def test_a_delete_removes_only_what_it_expects(self, store: Store) -> None:
        with pytest.raises(Conflict) as missing:
            await store.delete("k")
        assert missing.value.revision is None
        first = await store.put("k", {"n": 1})
        second = await store.put("k", {"n": 2})
        with pytest.raises(Conflict) as stale:
            await store.delete("k", expect=first.revision)
        assert stale.value.revision == second.revision
        assert await store.delete("k", expect=second.revision) > second.revision
        assert await store.get("k") is None

    async def test_a_later_heartbeat_saves_an_entry(self, store: Store) -> None:
        written = await store.put("k", {}, beat=Beat(100))
        with pytest.raises(Conflict) as beaten:
            await store.delete("k", expect=written.revision, unless_beaten_since=99)
        assert beaten.value.revision == written.revision
        await store.touch([Touch("k", written.generation, Beat(200))])
        with pytest.raises(Conflict):
            await store.delete("k", expect=written.revision, unless_beaten_since=100)
        await store.delete("k", expect=written.revision, unless_beaten_since=200)
        await store.put("unbeaten", {})
        await store.delete("unbeaten", unless_beaten_since=0)
        assert (await store.list()).entries == ()

    async def test_of_many_creators_one_wins(self, store: Store) -> None:
        outcomes = await asyncio.gather(
            *(store.put("k", {"by": n}, blob=b"%d" % n, expect=ABSENT) for n in range(50)), return_exceptions=True
        )
        winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Written)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 49
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == {"by": winners[0]}
        assert await store.blob("k", entry.generation) == b"%d" % winners[0]

    async def test_a_hundred_counting_writers_lose_no_count(self, store: Store) -> None:
        await store.put("counter", {"n": 0})

        async def count() -> None:
            while True:
                entry = await store.get("counter")
                assert entry is not None
                number = entry.value["n"]
                assert isinstance(number, int)
                try:
                    await store.put("counter", {"n": number + 1}, expect=entry.revision)
                except Conflict:
                    continue
                return

        await soon(asyncio.gather(*(count() for _ in range(100))))
        entry = await store.get("counter")
        assert entry is not None
        assert entry.value == {"n": 100}

    async def test_value_and_blob_change_together(self, store: Store) -> None:
        async def write() -> None:
            for n in range(100):
                await store.put("k", {"n": n}, blob=b"%d" % n * 1_000)

        await store.put("k", {"n": 0}, blob=b"0" * 1_000)
        writing = asyncio.create_task(write())
        agreed = 0
        while not writing.done() or not agreed:
            entry = await store.get("k")
            assert entry is not None
            try:
                blob = await store.blob("k", entry.generation)
            except NotFound:
                continue  # written again in between
            assert blob == str(entry.value["n"]).encode() * 1_000
            agreed += 1
        await writing
