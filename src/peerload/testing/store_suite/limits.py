"""Keys, values and blobs at their limits, and any Unicode."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any as AnyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerload.errors import InvalidArgument, LimitExceeded
from peerload.store.base import MAX_BLOB_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Beat, Position, Scalar, Store
from peerload.testing.store_suite.place import StoreTests, soon

__all__ = ["LimitTests", "quick"]

quick = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)
"""For properties of a store: every example meets the store as the examples before it left it."""

_TRICKY = ["\0", "\n", "/", "\\", "'", '"', "%", "_", "\x7f", "\u0080", "\ud7ff", "\ue000", "\uffff", "\U00010000"]
_TRICKY += ["\U0010ffff", "\u00e9", "e", "\u0301", "a", "A", "\U0001f4be", "\u202e"]
_characters = st.one_of(st.sampled_from(_TRICKY), st.characters(codec="utf-8"))
_keys = st.text(_characters, min_size=1, max_size=12)
_texts = st.text(_characters, max_size=20)
_scalars: st.SearchStrategy[Scalar] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _texts
)
_values = st.dictionaries(_texts, _scalars, max_size=5)


class LimitTests(StoreTests):
    """What a store takes, and what it refuses by name."""

    @quick
    @given(entries=st.dictionaries(_keys, st.tuples(_values, st.binary(max_size=40)), min_size=1, max_size=12))
    async def test_any_unicode_comes_back(
        self, store: Store, entries: dict[str, tuple[dict[str, Scalar], bytes]]
    ) -> None:
        for entry in (await store.list()).entries:
            await store.delete(entry.key)
        for key, (value, blob) in entries.items():
            await store.put(key, value, blob=blob)
        listing = await store.list()
        assert [entry.key for entry in listing.entries] == sorted(entries)
        for entry in listing.entries:
            value, blob = entries[entry.key]
            assert dict(entry.value) == value
            assert await store.get(entry.key) == entry
            assert await store.blob(entry.key, entry.generation) == blob

    @quick
    @given(keys=st.sets(_keys, max_size=20), prefix=st.text(_characters, max_size=3))
    async def test_a_list_holds_exactly_what_begins_with_the_prefix(
        self, store: Store, keys: set[str], prefix: str
    ) -> None:
        held = {entry.key for entry in (await store.list()).entries}
        for key in keys - held:
            await store.put(key, {})
        listed = [entry.key for entry in (await store.list(prefix)).entries]
        assert listed == sorted(key for key in held | keys if key.startswith(prefix))

    async def test_prefixes_at_the_edges_of_unicode(self, store: Store) -> None:
        keys = [a + b for a in ("", *_TRICKY) for b in _TRICKY]
        for key in keys:
            await store.put(key, {})
        for prefix in ("", *_TRICKY, "\U0010ffff\U0010ffff", "\ud7ff\U0010ffff", "\0\0", "a\0", "nothing"):
            listed = [entry.key for entry in (await store.list(prefix)).entries]
            assert listed == sorted(key for key in keys if key.startswith(prefix)), repr(prefix)

    async def test_keys_have_a_size(self, store: Store) -> None:
        longest = "\u00e9" * (MAX_KEY_BYTES // 2)
        await store.put(longest, {})
        assert await store.get(longest) is not None
        for bad in (longest + "a", "x" * (MAX_KEY_BYTES + 1)):
            with pytest.raises(LimitExceeded) as refused:
                await store.put(bad, {})
            assert (refused.value.field, refused.value.limit) == ("key", MAX_KEY_BYTES)
        for bad in ("", "\ud800", "a\udfff"):
            calls: list[Coroutine[AnyType, AnyType, object]] = [
                store.put(bad, {}),
                store.get(bad),
                store.blob(bad, 1),
                store.delete(bad),
            ]
            for call in calls:
                with pytest.raises(InvalidArgument) as malformed:
                    await call
                assert malformed.value.field == "key"
        calls = [store.list("\ud800"), anext(store.watch(Position(""), "\ud800"))]
        for call in calls:
            with pytest.raises(InvalidArgument) as malformed:
                await call
            assert malformed.value.field == "prefix"
        assert len((await store.list()).entries) == 1

    async def test_values_have_a_size_and_a_shape(self, store: Store) -> None:
        largest = {"v": "x" * (MAX_VALUE_BYTES - len('{"v":""}'))}
        await store.put("k", largest)
        with pytest.raises(LimitExceeded) as refused:
            await store.put("k", {"v": largest["v"] + "x"}, blob=b"b")
        assert (refused.value.field, refused.value.limit) == ("value", MAX_VALUE_BYTES)
        bad: list[dict[str, object]] = [
            {"v": float("nan")},
            {"v": float("inf")},
            {"v": [1]},
            {"v": {"w": 1}},
            {"v": b"bytes"},
            {"v": "\ud800"},
            {"\udfff": 1},
            {"v": 10**5_000},
        ]
        for value in bad:
            with pytest.raises(InvalidArgument) as malformed:
                await store.put("k", value, blob=b"b")  # type: ignore[arg-type]
            assert malformed.value.field == "value"
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == largest
        assert entry.blob_size is None

    async def test_blobs_have_a_size(self, store: Store) -> None:
        with pytest.raises(LimitExceeded) as refused:
            await soon(store.put("k", {}, blob=bytes(MAX_BLOB_BYTES + 1)))
        assert (refused.value.field, refused.value.limit) == ("blob", MAX_BLOB_BYTES)
        assert await store.get("k") is None

    async def test_beats_are_times_and_numbers(self, store: Store) -> None:
        for beat in (Beat(-1), Beat(2**63), Beat(1, float("inf")), Beat(1, float("nan"))):
            with pytest.raises(InvalidArgument) as refused:
                await store.put("k", {}, beat=beat)
            assert refused.value.field == "beat"
        assert await store.get("k") is None
