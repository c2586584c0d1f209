"""The feed: order, resuming, repeats, compaction, slow readers, and no loss between a list and a watch."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from peerload.errors import Compacted, Unavailable
from peerload.store.base import Beat, Deleted, Listing, Position, Put, Store, Touch
from peerload.store.paged import pages
from peerload.testing.clock import ManualClock
from peerload.testing.store_suite.mirror import Mirror, revisions
from peerload.testing.store_suite.place import StorePlace, StoreTests, first, follow, soon

__all__ = ["FeedTests"]


class FeedTests(StoreTests):
    """Watching."""

    async def test_a_watch_yields_at_once_and_then_every_second(self, store: Store, clock: ManualClock) -> None:
        async with contextlib.aclosing(store.watch((await store.list()).position)) as feeds:
            assert (await soon(anext(feeds))).changes == ()
            for _ in range(3):
                idle = asyncio.create_task(anext(feeds))
                await clock.advance(1.0)
                assert (await soon(idle)).changes == ()

    async def test_the_position_of_a_quiet_watch_is_good(self, store: Store, clock: ManualClock) -> None:
        position = (await store.list()).position
        for n in range(3):
            await store.put(f"elsewhere/{n}", {})
        async with contextlib.aclosing(store.watch(position, "here/")) as feeds:
            feed = await soon(anext(feeds))
            while feed.position == position:  # it moves on with the changes that are not for this reader
                step = asyncio.create_task(anext(feeds))
                await clock.advance(1.0)
                feed = await soon(step)
        await store.put("here/1", {"n": 1})
        mirror = await follow(store, feed.position, lambda m: "here/1" in m.entries, prefix="here/")
        assert set(mirror.entries) == {"here/1"}

    async def test_the_feed_holds_every_kind_of_change(self, store: Store) -> None:
        position = (await store.list()).position
        async with contextlib.aclosing(store.watch(position)) as feeds:
            written = await store.put("k", {"n": 1}, blob=b"123", beat=Beat(5, 0.5))
            put = (await first(feeds)).changes[0]
            assert put == Put((await store.list()).entries[0])
            mirror = Mirror(await store.list())
            await store.touch([Touch("k", written.generation, Beat(6))])
            while mirror.entries["k"].beat != Beat(6):
                mirror.apply(await soon(anext(feeds)))
            revision = await store.delete("k")
            while "k" in mirror.entries:
                mirror.apply(await soon(anext(feeds)))
            assert Deleted("k", revision) in mirror.changes

    async def test_a_listing_in_parts_is_the_listing(self, store: Store) -> None:
        for key in ("a", "b/", "b/\0", "b/2", "b/\U0010ffff", "c"):
            await store.put(key, {"key": key}, blob=b"1", beat=Beat(7))
        for prefix in ("", "b/", "nobody/"):
            listing, parts = await store.list(prefix), [part async for part in pages(store, prefix)]
            assert tuple(entry for part in parts for entry in part.entries) == listing.entries
            assert {part.position for part in parts} == {listing.position}

    async def test_every_change_comes_in_order(self, store: Store) -> None:
        listing = await store.list()
        puts = [(f"k{n}", (await store.put(f"k{n}", {"n": n})).revision) for n in range(20)]
        deletes = [(f"k{n}", await store.delete(f"k{n}")) for n in range(0, 20, 2)]
        mirror = await follow(store, listing.position, lambda m: deletes[-1] in revisions(m.changes))
        seen = set(revisions(mirror.changes))
        # A put whose entry was deleted before it was read may be left out; nothing else may.
        gone = {key for key, _ in deletes}
        assert set(deletes) | {put for put in puts if put[0] not in gone} <= seen <= {*puts, *deletes}

    async def test_a_reader_resumes_from_every_position(self, store: Store) -> None:
        listings = [await store.list()]
        generations: dict[str, int] = {}
        for n in range(60):
            key = f"k{n % 7}"
            if n % 5 == 4 and key in generations:
                await store.delete(key)
                del generations[key]
            elif n % 3 == 2 and key in generations:
                await store.touch([Touch(key, generations[key], Beat(n, 0.5))])
            else:
                generations[key] = (await store.put(key, {"n": n}, blob=b"%d" % n)).generation
            listings.append(await store.list())
        await store.put("end", {})
        final = await store.list()
        for listing in listings:
            mirror = await follow(store, listing.position, lambda m: "end" in m.entries, Mirror(listing))
            assert _entries(mirror) == final.entries

    async def test_a_reader_resumes_where_it_stopped(self, store: Store) -> None:
        mirror = Mirror(await store.list())
        for n in range(30):
            await store.put(f"k{n % 4}", {"n": n})
            if n % 3 == 0:
                assert mirror.position is not None
                mirror.rewind()
                async with contextlib.aclosing(store.watch(mirror.position)) as feeds:
                    mirror.apply(await soon(anext(feeds)))
        await store.put("end", {})
        assert mirror.position is not None
        mirror.rewind()
        await follow(store, mirror.position, lambda m: "end" in m.entries, mirror)
        assert _entries(mirror) == (await store.list()).entries

    async def test_a_prefix_filters_all_kinds_of_change(self, store: Store) -> None:
        position = (await store.list()).position
        for folder in ("a", "b"):
            written = await store.put(f"{folder}/1", {})
            await store.put(f"{folder}/2", {})
            await store.touch([Touch(f"{folder}/1", written.generation, Beat(3))])
            await store.delete(f"{folder}/2")
        await store.put("b/end", {})
        mirror = await follow(store, position, lambda m: "b/end" in m.entries, prefix="b/")
        assert _entries(mirror) == (await store.list("b/")).entries
        keys = {change.entry.key if isinstance(change, Put) else change.key for change in mirror.changes}
        assert keys == {"b/1", "b/2", "b/end"}

    async def test_a_hot_entry_ends_at_its_last_change(self, store: Store) -> None:
        position = (await store.list()).position
        for n in range(300):
            await store.put("hot", {"n": n})
        mirror = await follow(store, position, lambda m: "hot" in m.entries and m.entries["hot"].value == {"n": 299})
        assert _entries(mirror) == (await store.list()).entries

    async def test_every_watch_gets_every_change(self, store: Store) -> None:
        position = (await store.list()).position
        readers = [asyncio.create_task(follow(store, position, lambda m: "end" in m.entries)) for _ in range(5)]
        for n in range(50):
            await store.put(f"k{n % 9}", {"n": n})
        await store.put("end", {})
        final = (await store.list()).entries
        for mirror in await soon(asyncio.gather(*readers)):
            assert _entries(mirror) == final

    async def test_no_change_is_lost_between_list_and_watch(self, store: Store) -> None:
        async def write(writer: int) -> None:
            generations: dict[str, int] = {}
            for n in range(40):
                key = f"{writer}/{n % 5}"
                if n % 4 == 3 and key in generations:
                    await store.delete(key)
                    del generations[key]
                elif n % 6 == 5 and key in generations:
                    await store.touch([Touch(key, generations[key], Beat(n))])
                else:
                    generations[key] = (await store.put(key, {"n": n}, blob=b"x" if n % 2 else b"")).generation
            await store.put(f"end/{writer}", {})

        def done(mirror: Mirror) -> bool:
            return all(f"end/{writer}" in mirror.entries for writer in range(8))

        async def read() -> Mirror:
            listing = await store.list()
            mirror = Mirror(listing)
            return mirror if done(mirror) else await follow(store, listing.position, done, mirror)

        writers = asyncio.gather(*(write(n) for n in range(8)))
        readers = []
        while not writers.done():
            readers.append(asyncio.create_task(read()))
            await store.get("pace")
            if len(readers) == 30:
                break
        await soon(writers)
        final = (await store.list()).entries
        for mirror in await soon(asyncio.gather(*readers)):
            assert _entries(mirror) == final

    async def test_a_feed_that_does_not_reach_back_says_so(self, store: Store, place: StorePlace) -> None:
        await store.put("k", {"n": 1})
        position = (await store.list()).position
        await store.put("k", {"n": 2})
        await place.forget_feed(store)
        with pytest.raises(Compacted):
            await soon(anext(store.watch(position)))
        listing = await store.list("k")
        assert [entry.value for entry in listing.entries] == [{"n": 2}]
        await store.put("k", {"n": 3})
        await follow(store, listing.position, lambda m: "k" in m.entries and m.entries["k"].value == {"n": 3})

    async def test_a_position_of_another_store_is_refused(self, store: Store) -> None:
        own = (await store.list()).position
        for position in ("", "0", "nonsense", "9" * 40, f"{own}0", f"x{own}", f"{own}.", "\0", "²"):
            with pytest.raises(Compacted):
                await soon(anext(store.watch(Position(position))))

    async def test_a_slow_reader_gets_everything_or_is_told_to_list_again(
        self, store: Store, place: StorePlace
    ) -> None:
        async with contextlib.aclosing(store.watch((await store.list()).position)) as feeds:
            await soon(anext(feeds))
            for n in range(200):
                await store.put(f"k{n % 3}", {"n": n})
            mirror = Mirror()
            while not any(entry.value == {"n": 199} for entry in mirror.entries.values()):
                mirror.apply(await soon(anext(feeds)))
            assert _entries(mirror) == (await store.list()).entries
        async with contextlib.aclosing(store.watch((await store.list()).position)) as feeds:
            await soon(anext(feeds))
            await store.put("missed", {})
            await place.forget_feed(store)
            # What it had taken before may still come; the rest is lost to it, and it hears so.
            with pytest.raises(Compacted):
                while True:
                    await soon(anext(feeds))

    async def test_leaving_a_watch_leaves_the_store_usable(self, store: Store) -> None:
        position = (await store.list()).position
        for waiting in (0, 1, 3, 10):
            feeds = store.watch(position)
            await soon(anext(feeds))
            step = asyncio.create_task(anext(feeds))
            for _ in range(waiting):
                await asyncio.sleep(0)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
            await soon(feeds.aclose())
        await store.put("k", {})
        await follow(store, position, lambda m: "k" in m.entries)

    async def test_close_ends_watches(self, store: Store) -> None:
        feeds = [store.watch((await store.list()).position) for _ in range(3)]
        for feed in feeds:
            await soon(anext(feed))
        waiting = [asyncio.create_task(anext(feed)) for feed in feeds]
        await asyncio.sleep(0)
        await soon(store.close())
        for step in waiting:
            with pytest.raises(Unavailable):
                await soon(step)
        with pytest.raises(Unavailable):
            await soon(anext(store.watch(Position("any"))))


def _entries(mirror: Mirror) -> tuple[object, ...]:
    return Listing(tuple(entry for _, entry in sorted(mirror.entries.items())), Position("")).entries
