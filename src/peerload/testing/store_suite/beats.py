"""Heartbeats: what raises them, and what they never change."""

from __future__ import annotations

import pytest

from peerload.errors import InvalidArgument
from peerload.store.base import Beat, Beaten, Store, Touch, Touched
from peerload.testing.store_suite.place import StoreTests, follow, soon

__all__ = ["BeatTests"]


class BeatTests(StoreTests):
    """The touch, and the beat of a put."""

    async def test_a_touch_raises_the_beat_and_changes_nothing_else(self, store: Store) -> None:
        written = await store.put("k", {"n": 1}, blob=b"blob")
        assert await store.touch([Touch("k", written.generation, Beat(10, 0.5))]) == [Touched.APPLIED]
        entry = await store.get("k")
        assert entry is not None
        assert entry.beat == Beat(10, 0.5)
        assert (entry.value, entry.revision, entry.generation) == ({"n": 1}, written.revision, written.generation)
        assert await store.blob("k", written.generation) == b"blob"

    async def test_only_a_later_stamp_counts(self, store: Store) -> None:
        generation = (await store.put("k", {}, beat=Beat(10, 0.1))).generation
        for stamp in (9, 10, 0):
            assert await store.touch([Touch("k", generation, Beat(stamp, 0.9))]) == [Touched.OLDER]
        assert await store.touch([Touch("k", generation, Beat(11))]) == [Touched.APPLIED]
        entry = await store.get("k")
        assert entry is not None
        assert entry.beat == Beat(11, None)

    async def test_nothing_is_resurrected(self, store: Store) -> None:
        old = await store.put("k", {}, blob=b"1")
        other = await store.put("other", {})
        await store.delete("k")
        assert await store.touch([Touch("k", old.generation, Beat(10))]) == [Touched.MISSING]
        assert await store.get("k") is None
        new = await store.put("k", {}, blob=b"2")
        strangers = [old.generation, other.generation, 0, -1, 2**63, 2**70]
        answers = await store.touch([Touch("k", generation, Beat(10)) for generation in strangers])
        assert answers == [Touched.MISSING] * len(strangers)
        for key in ("k", "other"):
            entry = await store.get(key)
            assert entry is not None
            assert entry.beat is None
        assert await store.touch([Touch("k", new.generation, Beat(10))]) == [Touched.APPLIED]

    async def test_a_touch_hears_that_the_entry_has_changed(self, store: Store) -> None:
        first = await store.put("k", {"n": 1}, beat=Beat(10))
        second = await store.put("k", {"n": 2})

        async def touch(stamp: int, revision: int | None) -> tuple[Touched, int]:
            (answer,) = await store.touch([Touch("k", first.generation, Beat(stamp), revision)])
            entry = await store.get("k")
            assert entry is not None
            assert entry.value == {"n": 2}
            assert entry.beat is not None
            return answer, entry.beat.stamp

        assert await touch(11, first.revision) == (Touched.CHANGED, 11)
        assert await touch(11, first.revision) == (Touched.CHANGED, 11)
        assert await touch(11, second.revision) == (Touched.OLDER, 11)
        assert await touch(12, second.revision) == (Touched.APPLIED, 12)
        assert await touch(13, None) == (Touched.APPLIED, 13)
        third = await store.put("k", {"n": 2}, blob=b"")
        assert third.generation != first.generation
        assert await store.touch([Touch("k", first.generation, Beat(20), third.revision)]) == [Touched.MISSING]

    async def test_a_batch_is_answered_in_the_order_of_its_questions(self, store: Store) -> None:
        a = (await store.put("a", {})).generation
        b = (await store.put("b", {}, beat=Beat(100))).generation
        touches = [
            Touch("b", b, Beat(50)),
            Touch("a", a, Beat(5, 0.5)),
            Touch("nobody", 1, Beat(5)),
            Touch("a", a, Beat(5, 0.9)),
            Touch("a", a, Beat(7, 0.7)),
            Touch("a", a, Beat(6, 0.6)),
            Touch("b", b, Beat(101)),
        ]
        assert await store.touch(touches) == [
            Touched.OLDER,
            Touched.APPLIED,
            Touched.MISSING,
            Touched.OLDER,
            Touched.APPLIED,
            Touched.OLDER,
            Touched.APPLIED,
        ]
        beats = {entry.key: entry.beat for entry in (await store.list()).entries}
        assert beats == {"a": Beat(7, 0.7), "b": Beat(101)}

    async def test_an_empty_batch_is_nothing(self, store: Store) -> None:
        assert await store.touch([]) == []

    async def test_ten_thousand_beats_in_one_batch(self, store: Store) -> None:
        position = (await store.list()).position
        written = [await store.put(f"w/{n:05}", {"n": n}) for n in range(100)]
        touches = [
            Touch(f"w/{n % 100:05}", written[n % 100].generation, Beat(n + 1, n / 10_000)) for n in range(10_000)
        ]
        assert await soon(store.touch(touches)) == [Touched.APPLIED] * 10_000
        expected = {f"w/{n:05}": Beat(9_901 + n, (9_900 + n) / 10_000) for n in range(100)}
        assert {entry.key: entry.beat for entry in (await store.list("w/")).entries} == expected
        mirror = await follow(store, position, lambda m: {e.key: e.beat for e in m.entries.values()} == expected)
        assert len(mirror.entries) == 100

    async def test_a_put_with_a_blob_brings_its_own_beat(self, store: Store) -> None:
        await store.put("k", {}, blob=b"1", beat=Beat(100, 0.5))
        earlier = await store.put("k", {}, blob=b"2", beat=Beat(50))
        entry = await store.get("k")
        assert entry is not None
        assert entry.beat == Beat(50)
        await store.touch([Touch("k", earlier.generation, Beat(60))])
        await store.put("k", {}, blob=b"3")
        entry = await store.get("k")
        assert entry is not None
        assert entry.beat is None

    async def test_a_put_that_keeps_the_blob_keeps_the_later_beat(self, store: Store) -> None:
        expected: list[tuple[Beat | None, Beat | None]] = [
            (None, None),
            (Beat(100, 0.1), Beat(100, 0.1)),
            (Beat(99), Beat(100, 0.1)),
            (Beat(100, 0.9), Beat(100, 0.1)),
            (None, Beat(100, 0.1)),
            (Beat(101), Beat(101)),
        ]
        for given, held in expected:
            await store.put("k", {}, beat=given)
            entry = await store.get("k")
            assert entry is not None
            assert entry.beat == held

    async def test_a_malformed_touch_leaves_the_whole_batch_undone(self, store: Store) -> None:
        generation = (await store.put("k", {})).generation
        good = Touch("k", generation, Beat(10))
        for bad in (
            Touch("", 1, Beat(1)),
            Touch("\ud800", 1, Beat(1)),
            Touch("k", generation, Beat(-1)),
            Touch("k", generation, Beat(2**63)),
            Touch("k", generation, Beat(20, float("nan"))),
        ):
            with pytest.raises(InvalidArgument):
                await store.touch([good, bad])
        entry = await store.get("k")
        assert entry is not None
        assert entry.beat is None

    async def test_the_largest_stamp_is_kept(self, store: Store) -> None:
        generation = (await store.put("k", {}, beat=Beat(2**63 - 2))).generation
        assert await store.touch([Touch("k", generation, Beat(2**63 - 1))]) == [Touched.APPLIED]
        entry = await store.get("k")
        assert entry is not None
        assert entry.beat == Beat(2**63 - 1)

    async def test_the_feed_tells_of_raised_beats_only(self, store: Store) -> None:
        generation = (await store.put("k", {}, beat=Beat(10))).generation
        position = (await store.list()).position
        await store.touch([Touch("k", generation, Beat(5)), Touch("gone", 1, Beat(50))])
        await store.touch([Touch("k", generation, Beat(20, 0.5))])
        await store.put("end", {})
        mirror = await follow(store, position, lambda m: "end" in m.entries)
        beaten = {change for change in mirror.changes if isinstance(change, Beaten)}
        assert beaten == {Beaten("k", generation, Beat(20, 0.5))}
