"""Random walks, compared step by step with a plain dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import Conflict, NotFound
from peerload.store.base import ABSENT, ANY, KEEP, Beat, Entry, Expect, Store, Touch, Touched
from peerload.testing.store_suite.limits import quick
from peerload.testing.store_suite.mirror import Mirror
from peerload.testing.store_suite.place import StoreTests, follow

__all__ = ["ModelTests"]

_keys = st.sampled_from(["a", "a/b", "b", "\0", "\U0001f4be"])
_beats = st.one_of(st.none(), st.builds(Beat, st.integers(0, 20), st.one_of(st.none(), st.floats(0, 1))))
_expects = st.sampled_from(["any", "absent", "held", "stale"])
_puts = st.tuples(st.just("put"), _keys, st.integers(), st.one_of(st.none(), st.binary(max_size=9)), _expects, _beats)
_deletes = st.tuples(st.just("delete"), _keys, _expects, st.one_of(st.none(), st.integers(0, 20)))
_touch = st.tuples(_keys, st.sampled_from(["held", "stale"]), st.integers(0, 20), st.floats(0, 1))
_touches = st.tuples(st.just("touch"), st.lists(_touch, max_size=6))
_Step: TypeAlias = tuple[Any, ...]
_steps = st.lists(st.one_of(_puts, _puts, _deletes, _touches), max_size=30)


class _Model:
    """The contract in its plainest form."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.blobs: dict[str, bytes] = {}

    def expect(self, key: str, kind: str) -> Expect:
        held = self.entries.get(key)
        if kind in ("any", "absent"):
            return ANY if kind == "any" else ABSENT
        return held.revision - (kind == "stale") if held else 1

    def allows(self, key: str, expect: Expect) -> bool:
        held = self.entries.get(key)
        return expect is ANY or (held is None if expect is ABSENT else held is not None and held.revision == expect)


class ModelTests(StoreTests):
    """Everything at once."""

    @quick
    @given(steps=_steps)
    async def test_a_random_walk_agrees_with_a_dictionary(self, store: Store, steps: Sequence[_Step]) -> None:
        for entry in (await store.list()).entries:
            await store.delete(entry.key)
        listing = await store.list()
        model = _Model()
        for step in steps:
            match step:
                case ("put", key, number, blob, kind, beat):
                    await _put(store, model, key, {"n": str(number)}, blob, model.expect(key, kind), beat)
                case ("delete", key, kind, since):
                    await _delete(store, model, key, model.expect(key, kind), since)
                case ("touch", touches):
                    await _touch_all(store, model, touches)
            await _compare(store, model)
        await store.put("end", {})
        mirror = await follow(store, listing.position, lambda m: "end" in m.entries, Mirror(listing))
        del mirror.entries["end"]
        assert mirror.entries == model.entries


async def _put(
    store: Store, model: _Model, key: str, value: dict[str, str], blob: bytes | None, expect: Expect, beat: Beat | None
) -> None:
    held = model.entries.get(key)
    given_blob = KEEP if blob is None else blob
    if not model.allows(key, expect):
        with pytest.raises(Conflict) as conflict:
            await store.put(key, value, blob=given_blob, expect=expect, beat=beat)
        assert conflict.value.revision == (None if held is None else held.revision)
        return
    written = await store.put(key, value, blob=given_blob, expect=expect, beat=beat)
    assert held is None or written.revision > held.revision
    if blob is not None or held is None:
        assert written.generation == written.revision
        model.blobs.pop(key, None)
        if blob is not None:
            model.blobs[key] = blob
        kept = beat
    else:
        assert written.generation == held.generation
        kept = beat if held.beat is None or (beat is not None and beat.stamp > held.beat.stamp) else held.beat
    size = len(model.blobs[key]) if key in model.blobs else None
    model.entries[key] = Entry(key, value, written.revision, written.generation, kept, size)


async def _delete(store: Store, model: _Model, key: str, expect: Expect, since: int | None) -> None:
    if expect is ABSENT:
        return  # nothing that a delete may expect
    held = model.entries.get(key)
    late = held is not None and held.beat is not None and since is not None and held.beat.stamp > since
    if held is None or late or not model.allows(key, expect):
        with pytest.raises(Conflict):
            await store.delete(key, expect=expect, unless_beaten_since=since)
        return
    assert await store.delete(key, expect=expect, unless_beaten_since=since) > held.revision
    del model.entries[key]
    model.blobs.pop(key, None)


async def _touch_all(store: Store, model: _Model, drawn: Sequence[tuple[str, str, int, float]]) -> None:
    touches, expected = [], []
    for key, kind, stamp, load in drawn:
        held = model.entries.get(key)
        generation = 1 if held is None else held.generation - (kind == "stale")
        touches.append(Touch(key, generation, Beat(stamp, load)))
        if held is None or held.generation != generation:
            expected.append(Touched.MISSING)
        elif held.beat is not None and held.beat.stamp >= stamp:
            expected.append(Touched.OLDER)
        else:
            expected.append(Touched.APPLIED)
            model.entries[key] = held._replace(beat=Beat(stamp, load))
    assert await store.touch(touches) == expected


async def _compare(store: Store, model: _Model) -> None:
    assert (await store.list()).entries == tuple(entry for _, entry in sorted(model.entries.items()))
    for key, entry in model.entries.items():
        if key in model.blobs:
            assert await store.blob(key, entry.generation) == model.blobs[key]
        else:
            with pytest.raises(NotFound):
                await store.blob(key, entry.generation)
