"""Looking at a place and trying it: what a store that can be examined promises. One that cannot skips this."""

from __future__ import annotations

import contextlib

import pytest

from peerload.finding import Finding, Level, worst
from peerload.store.base import Beat, Store, Touch, Touched
from peerload.store.examinable import Examinable
from peerload.testing.store_suite.place import StorePlace, StoreTests, opened, soon

__all__ = ["ExaminationTests"]


def examinable(place: StorePlace) -> Examinable:
    """A store of the place that is not open. Skips the test if it cannot be examined."""
    store = place.store()
    if not isinstance(store, Examinable):
        pytest.skip("a store need not be examinable")
    return store


async def examined(store: Examinable) -> list[Finding]:
    """What the store says of its place."""
    async with contextlib.aclosing(store.examine()) as found:
        return [finding async for finding in found]


class ExaminationTests(StoreTests):
    """`Examinable`."""

    async def test_a_place_that_works_is_found_so(self, place: StorePlace) -> None:
        store = examinable(place)
        found = await soon(examined(store))
        assert found
        assert worst(found) is not Level.PROBLEM
        async with opened(place) as other:
            await other.put("k", {})
            assert worst(await soon(examined(store))) is not Level.PROBLEM

    async def test_nobody_sees_a_rehearsal(self, store: Store, place: StorePlace) -> None:
        written = await store.put("k", {"n": 1}, blob=b"blob")
        before = await store.list()
        async with examinable(place).rehearsal() as trial:
            assert (await trial.list()).entries == ()
            again = await trial.put("k", {"n": 2}, blob=b"other")
            assert await trial.touch([Touch("k", again.generation, Beat(5))]) == [Touched.APPLIED]
            assert await trial.blob("k", again.generation) == b"other"
            assert (await store.list()).entries == before.entries
        async with examinable(place).rehearsal() as trial:
            assert (await trial.list()).entries == ()
        assert (await store.list()).entries == before.entries
        assert await store.blob("k", written.generation) == b"blob"
        await store.put("last", {})
        async with contextlib.aclosing(store.watch(before.position)) as feeds:
            while not (changes := (await soon(anext(feeds))).changes):
                pass
            assert "last" in str(changes[0])

    async def test_a_rehearsal_that_fails_passes_on_why(self, store: Store, place: StorePlace) -> None:
        with pytest.raises(ZeroDivisionError):
            async with examinable(place).rehearsal() as trial:
                await trial.put("k", {}, blob=b"x")
                raise ZeroDivisionError
        assert (await store.list()).entries == ()
