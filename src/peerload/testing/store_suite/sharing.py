"""Several stores on one place, and what stays when they close."""

from __future__ import annotations

import asyncio

import pytest

from peerload.errors import Compacted, Conflict, NotFound, Unavailable
from peerload.store.base import ABSENT, Beat, Store, Touch, Touched
from peerload.testing.clock import ManualClock
from peerload.testing.store_suite.mirror import Mirror
from peerload.testing.store_suite.place import StorePlace, StoreTests, follow, opened, soon

__all__ = ["SharingTests"]


class SharingTests(StoreTests):
    """More than one server."""

    async def test_what_one_writes_the_other_reads(self, store: Store, place: StorePlace) -> None:
        async with opened(place) as other:
            written = await store.put("k", {"n": 1}, blob=b"blob")
            assert await other.get("k") == await store.get("k")
            assert await other.blob("k", written.generation) == b"blob"
            assert await other.touch([Touch("k", written.generation, Beat(5))]) == [Touched.APPLIED]
            assert await store.touch([Touch("k", written.generation, Beat(5))]) == [Touched.OLDER]
            with pytest.raises(Conflict):
                await other.put("k", {}, expect=ABSENT)
            assert (await other.list()).entries == (await store.list()).entries
            await other.delete("k", expect=written.revision)
            assert await store.get("k") is None
            with pytest.raises(NotFound):
                await store.blob("k", written.generation)

    async def test_what_one_writes_the_other_hears_of(self, store: Store, place: StorePlace) -> None:
        async with opened(place) as other:
            position = (await other.list()).position
            hearing = asyncio.create_task(follow(other, position, lambda m: "end" in m.entries))
            written = await store.put("k", {"n": 1})
            await store.touch([Touch("k", written.generation, Beat(5))])
            await store.put("gone", {})
            await store.delete("gone")
            await store.put("end", {})
            mirror = await soon(hearing)
            assert tuple(e for _, e in sorted(mirror.entries.items())) == (await store.list()).entries

    async def test_two_that_write_at_once_lose_nothing(self, store: Store, place: StorePlace) -> None:
        async with opened(place) as other:
            await store.put("counter", {"n": 0})
            listing = await store.list()

            async def count(through: Store) -> None:
                for _ in range(5):
                    while True:
                        entry = await through.get("counter")
                        assert entry is not None
                        number = entry.value["n"]
                        assert isinstance(number, int)
                        try:
                            await through.put("counter", {"n": number + 1}, expect=entry.revision)
                        except Conflict:
                            continue
                        break

            await soon(asyncio.gather(*(count(each) for each in (store, other) for _ in range(5))))
            for each in (store, other):
                mirror = await follow(
                    each, listing.position, lambda m: m.entries["counter"].value == {"n": 50}, Mirror(listing)
                )
                assert tuple(mirror.entries.values()) == (await each.list()).entries

    async def test_closing_one_leaves_the_other_open(self, store: Store, place: StorePlace) -> None:
        async with opened(place) as other:
            await other.put("k", {"n": 1})
        entry = await store.get("k")
        assert entry is not None
        await store.put("k", {"n": 2}, expect=entry.revision)

    async def test_a_place_opened_again_holds_what_was_put(self, place: StorePlace) -> None:
        async with opened(place) as store:
            listing = await store.list()
            written = await store.put("k", {"n": 1}, blob=b"blob", beat=Beat(3))
            await store.touch([Touch("k", written.generation, Beat(4, 0.5))])
            gone = await store.put("gone", {}, blob=b"gone")
            deleted = await store.delete("gone")
            entry = await store.get("k")
        async with opened(place) as store:
            assert (await store.list()).entries == (entry,)
            assert await store.blob("k", written.generation) == b"blob"
            assert await store.touch([Touch("gone", gone.generation, Beat(9))]) == [Touched.MISSING]
            again = await store.put("gone", {})
            assert again.revision > deleted
            await store.delete("gone")
            await store.delete("k")
        async with opened(place) as store:
            last = await store.put("gone", {})
            assert last.revision > again.revision
            # A position that was handed out before is as good as ever, or the reader is told to list again.
            mirror = Mirror(listing)
            try:
                await follow(store, listing.position, lambda m: "gone" in m.entries, mirror)
            except Unavailable:  # pragma: no cover - the message of a wrong store
                pytest.fail("the place is there")
            except Compacted:
                mirror = Mirror(await store.list())
            assert tuple(mirror.entries.values()) == (await store.list()).entries

    async def test_the_clock_is_steady(self, store: Store, clock: ManualClock) -> None:
        start = store.now()
        assert abs(start - clock.wall_ms()) < 5_000
        # One that goes by its server's clock runs a little slower here, where that one has not moved.
        await clock.advance(12.5)
        assert 12_487 <= store.now() - start <= 12_500
        clock.set_wall_ms(clock.wall_ms() - 3_600_000)
        assert 12_487 <= store.now() - start <= 12_500
        await clock.advance(1)
        assert 13_486 <= store.now() - start <= 13_500
