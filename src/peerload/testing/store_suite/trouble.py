"""Cancelled calls, and calls to a store that is not open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from peerload.errors import Conflict, NotFound, Unavailable
from peerload.store.base import Beat, Entry, Store, Touch, Touched
from peerload.testing.store_suite.mirror import Mirror
from peerload.testing.store_suite.place import StorePlace, StoreTests, follow, soon

__all__ = ["TroubleTests"]

_MOMENTS = [0, 1, 2, 3, 5, 8]
"""Turns of the event loop before a call is cancelled."""
_BLOB = b"x" * 300_000


class TroubleTests(StoreTests):
    """All or nothing."""

    @pytest.mark.parametrize("moment", _MOMENTS)
    async def test_a_cancelled_put_is_whole_or_not_there(self, store: Store, moment: int) -> None:
        listing = await store.list()
        for n in range(5):
            await _cancelled(lambda n=n: store.put(f"k{n}", {"n": n}, blob=_BLOB, beat=Beat(n)), moment)  # type: ignore[misc]
        await store.put("end", {})
        final = await store.list()
        mirror = await follow(store, listing.position, lambda m: "end" in m.entries, Mirror(listing))
        for entry in (*final.entries, *mirror.entries.values()):
            if entry.key != "end":
                assert entry.blob_size == len(_BLOB)
                assert await store.blob(entry.key, entry.generation) == _BLOB
        # What was cancelled on its way may still arrive, whole, after what was asked for later.
        last = mirror.entries["end"].revision
        held = {entry.key: entry for entry in final.entries if entry.revision <= last}
        assert {key: entry for key, entry in mirror.entries.items() if entry.revision <= last} == held

    @pytest.mark.parametrize("moment", _MOMENTS)
    async def test_a_cancelled_overwrite_is_whole_or_not_there(self, store: Store, moment: int) -> None:
        old = await store.put("k", {"n": "old"}, blob=b"old", beat=Beat(1))
        await _cancelled(lambda: store.put("k", {"n": "new"}, blob=b"new", expect=old.revision), moment)
        await store.put("end", {})
        entry = await _present(store, "k")
        name = entry.value["n"]
        assert isinstance(name, str)
        assert await store.blob("k", entry.generation) == name.encode()
        assert entry.beat == (Beat(1) if name == "old" else None)

    @pytest.mark.parametrize("moment", _MOMENTS)
    async def test_a_cancelled_touch_is_whole_or_not_there(self, store: Store, moment: int) -> None:
        touches = [Touch(f"k{n}", (await store.put(f"k{n}", {})).generation, Beat(7)) for n in range(20)]
        await _cancelled(lambda: store.touch(touches), moment)
        await store.put("end", {})
        beats = {entry.beat for entry in (await store.list("k")).entries}
        assert beats in ({None}, {Beat(7)})
        assert set(await store.touch(touches)) in ({Touched.APPLIED}, {Touched.OLDER})

    @pytest.mark.parametrize("moment", _MOMENTS)
    async def test_a_cancelled_delete_is_whole_or_not_there(self, store: Store, moment: int) -> None:
        written = await store.put("k", {}, blob=b"blob")
        await _cancelled(lambda: store.delete("k"), moment)
        await store.put("end", {})
        if await store.get("k") is None:
            with pytest.raises(NotFound):
                await store.blob("k", written.generation)
            with pytest.raises(Conflict):
                await store.delete("k")
        else:
            assert await store.blob("k", written.generation) == b"blob"
            await store.delete("k")

    @pytest.mark.parametrize("moment", _MOMENTS)
    async def test_a_cancelled_read_does_no_harm(self, store: Store, moment: int) -> None:
        written = await store.put("k", {}, blob=_BLOB)
        for _ in range(8):
            await _cancelled(lambda: store.get("k"), moment)
            await _cancelled(lambda: store.blob("k", written.generation), moment)
            await _cancelled(store.list, moment)
        assert await soon(store.blob("k", written.generation)) == _BLOB
        assert len((await soon(store.list())).entries) == 1

    async def test_a_store_that_is_not_open_is_unavailable(self, place: StorePlace) -> None:
        store = place.store()
        await _assert_unavailable(store)
        await soon(store.open())
        await store.put("k", {})
        await soon(store.close())
        await soon(store.close())
        await _assert_unavailable(store)

    async def test_close_lets_no_call_hang(self, store: Store) -> None:
        calls: list[Coroutine[Any, Any, object]] = []
        for n in range(20):
            calls += [store.put(f"k{n}", {}, blob=_BLOB), store.get(f"k{n}"), store.list(), store.touch([])]
        tasks = [asyncio.create_task(call) for call in calls]
        for _ in range(3):
            await asyncio.sleep(0)
        await soon(store.close())
        for outcome in await soon(asyncio.gather(*tasks, return_exceptions=True)):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, Unavailable)


async def _cancelled(call: Callable[[], Coroutine[Any, Any, object]], moment: int) -> None:
    task = asyncio.create_task(call())
    for _ in range(moment):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await soon(task)
    except asyncio.CancelledError:
        pass


async def _present(store: Store, key: str) -> Entry:
    entry = await store.get(key)
    assert entry is not None
    return entry


async def _assert_unavailable(store: Store) -> None:
    calls: list[Coroutine[Any, Any, object]] = [
        store.put("k", {}),
        store.get("k"),
        store.blob("k", 1),
        store.delete("k"),
        store.list(),
        store.touch([Touch("k", 1, Beat(1))]),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await soon(call)
