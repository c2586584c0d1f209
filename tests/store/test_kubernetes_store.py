"""What is the Kubernetes store's own, over a real API server: what it writes there, what that costs, what it removes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from peerload.clock import Clock, SystemClock
from peerload.errors import Conflict, Damaged, InvalidArgument, NotFound, Unavailable
from peerload.store.base import Beat, Deleted, Scalar, Touch, Touched
from peerload.store.kubernetes.names import chunk_name, entry_name, layout_name
from peerload.store.kubernetes.store import KubernetesStore
from peerload.testing import ManualClock
from peerload.testing.store_suite import Mirror
from tests.support.following import PATIENCE, follow, in_time
from tests.support.kube import Asked, ControlPlane, FaultProxy, Hold, KubeRefused, Namespace

LARGE = random.Random(1).randbytes(2_500_000)
"""Takes three ConfigMaps."""


@pytest.fixture
def proxy(shared_kube: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(shared_kube) as running:
        yield running


@contextlib.asynccontextmanager
async def opened(url: str, clock: Clock | None = None, **more: Any) -> AsyncIterator[KubernetesStore]:
    store = KubernetesStore(url, clock or SystemClock(), **more)
    await store.open()
    try:
        yield store
    finally:
        async with asyncio.timeout(PATIENCE):
            await store.close()


@pytest.fixture
async def store(kube_url: str) -> AsyncIterator[KubernetesStore]:
    async with opened(kube_url) as store:
        yield store


def record_of(namespace: Namespace, key: str) -> Any:
    return namespace.plane.admin.get(f"{namespace.records}/{entry_name('main', key)}")


def chunks(namespace: Namespace) -> dict[str, Any]:
    """Parts of blobs, by name."""
    found = namespace.plane.admin.get(f"{namespace.core}/configmaps", labelSelector="peerload.dev/type=blob")
    return {item["metadata"]["name"]: item for item in found["items"]}


def beats_objects(namespace: Namespace) -> dict[str, Any]:
    found = namespace.plane.admin.get(namespace.records, labelSelector="peerload.dev/type=heartbeats")
    return {item["metadata"]["name"]: item for item in found["items"]}


async def test_what_is_asked_of_the_api_server(kube_namespace: Namespace, proxy: FaultProxy) -> None:
    url = kube_namespace.store_url(kube_namespace.kubeconfig(url=proxy.url))

    def calls() -> list[Asked]:
        """All but what keeps up to date, and the time."""
        return [one for one in proxy.asked if not one.watching and one.path != "/version"]

    def asked() -> list[str]:
        found = [f"{one.method} {one.path.split('/')[-2 if one.method != 'POST' else -1]}" for one in calls()]
        proxy.asked.clear()
        return found

    async with opened(url, copies_a_second=0.0) as store:
        asked()
        written = await store.put("source/1/0/a", {"n": 1}, blob=b"x" * 1_000, beat=Beat(1))
        assert asked() == ["POST peerloadrecords"]
        other = await store.put("source/1/0/b", {"n": 1}, beat=Beat(1))
        await store.put("source/1/0/b", {"n": 2}, expect=other.revision)
        assert asked() == ["POST peerloadrecords", "PATCH peerloadrecords"]
        beats = [Touch("source/1/0/a", written.generation, Beat(2)), Touch("source/1/0/b", other.generation, Beat(2))]
        assert await store.touch(beats) == [Touched.APPLIED] * 2
        await in_time(lambda: len(calls()) >= 2)
        # The second is the one that is shown to people.
        assert asked() == ["POST peerloadrecords", "PATCH peerloadrecords"]
        assert await store.blob("source/1/0/a", written.generation) == b"x" * 1_000
        assert asked() == ["GET peerloadrecords"]
        large = await store.put("source/1/0/a", {"n": 1}, blob=b"x" * 10_000)
        once, again = ["POST configmaps", "PATCH peerloadrecords"], ["GET peerloadrecords", "PATCH peerloadrecords"]
        # Once more where the store has not seen yet that the object was changed when the heartbeat was shown.
        assert asked() in (once, once + again)
        assert await store.blob("source/1/0/a", large.generation) == b"x" * 10_000
        assert asked() == ["GET peerloadrecords", "GET configmaps"]
        await store.put("new", {}, blob=b"x" * 10_000)
        assert asked() == ["POST configmaps", "POST peerloadrecords", "PATCH configmaps"]
        await store.get("new")
        assert asked() == ["GET peerloadrecords"]


async def test_the_parts_of_a_blob_go_with_its_record(kube_namespace: Namespace, store: KubernetesStore) -> None:
    await store.put("k", {}, blob=LARGE)
    record = record_of(kube_namespace, "k")
    token = record["blob"]["token"]
    held = chunks(kube_namespace)
    assert sorted(held) == [chunk_name(token, number) for number in range(3)]
    assert all(part["immutable"] for part in held.values())
    owners = [held[chunk_name(token, number)]["metadata"]["ownerReferences"] for number in range(3)]
    assert [(owner["kind"], owner["uid"]) for (owner,) in owners] == [
        ("PeerloadRecord", record["metadata"]["uid"]),
        *[("ConfigMap", held[chunk_name(token, 0)]["metadata"]["uid"])] * 2,
    ]
    again = await store.put("k", {}, blob=LARGE[:2_000])
    second = record_of(kube_namespace, "k")["blob"]["token"]
    await in_time(lambda: list(chunks(kube_namespace)) == [chunk_name(second, 0)])
    assert chunks(kube_namespace)[chunk_name(second, 0)]["metadata"]["ownerReferences"][0]["kind"] == "PeerloadRecord"
    await store.delete("k", expect=again.revision)
    await in_time(lambda: not chunks(kube_namespace))


@pytest.mark.parametrize("size", [900_000, 9_000_000], ids=["20,000 tensors", "200,000 tensors"])
async def test_manifests_of_any_size(store: KubernetesStore, size: int) -> None:
    """Digests do not compress: forty bytes a tensor are left at least."""
    blob = random.Random(size).randbytes(size)
    written = await store.put("source/1/0/w", {"n": 1}, blob=blob)
    assert await store.blob("source/1/0/w", written.generation) == blob


async def test_a_blob_that_is_not_whole_is_damaged_and_never_absent(
    kube_namespace: Namespace, store: KubernetesStore
) -> None:
    written = await store.put("k", {}, blob=LARGE)
    admin, names = kube_namespace.plane.admin, sorted(chunks(kube_namespace))
    part = chunks(kube_namespace)[names[1]]
    path = f"{kube_namespace.core}/configmaps"
    admin.delete(f"{path}/{names[1]}")
    with pytest.raises(Damaged, match="missing"):
        await store.blob("k", written.generation)
    for content in ({"part": base64.b64encode(b"other").decode()}, {}):
        admin.post(path, {"metadata": {"name": names[1], "labels": part["metadata"]["labels"]}, "binaryData": content})
        with pytest.raises(Damaged):
            await store.blob("k", written.generation)
        admin.delete(f"{path}/{names[1]}")
    # What was there before is no matter once there is something else.
    again = await store.put("k", {}, blob=b"new")
    with pytest.raises(NotFound):
        await store.blob("k", written.generation)
    assert await store.blob("k", again.generation) == b"new"


async def test_parts_that_were_lost_on_the_way_are_written_again(kube_namespace: Namespace, proxy: FaultProxy) -> None:
    """As if somebody had removed them between the write of the record and that of its owner reference."""
    async with opened(kube_namespace.store_url(kube_namespace.kubeconfig(url=proxy.url))) as store:
        with proxy.fault(Hold(), method="PATCH", path="configmaps", times=1) as rule:
            writing = asyncio.create_task(store.put("k", {"n": 1}, blob=LARGE))
            await in_time(lambda: rule.met)
            for name in chunks(kube_namespace):
                kube_namespace.plane.admin.delete(f"{kube_namespace.core}/configmaps/{name}")
        written = await writing
        assert await store.blob("k", written.generation) == LARGE


async def test_what_a_crash_left_is_swept_and_never_read(kube_namespace: Namespace, kube_url: str) -> None:
    clock = ManualClock(wall_ms=time.time_ns() // 1_000_000)
    admin = kube_namespace.plane.admin
    labels = {"peerload.dev/instance": "main", "peerload.dev/type": "blob"}
    async with opened(kube_url, clock) as store:
        written = await store.put("k", {}, blob=LARGE)
        named = set(chunks(kube_namespace))
        for number in range(2):
            name = chunk_name("0123456789abcdef0123", number)
            admin.post(f"{kube_namespace.core}/configmaps", {"metadata": {"name": name, "labels": labels}})
        foreign = {"metadata": {"name": "peerload-settings-1"}}
        admin.post(f"{kube_namespace.core}/configmaps", foreign)
        await clock.advance(301)
        assert len(chunks(kube_namespace)) == len(named) + 2  # it may still be on its way
        async with asyncio.timeout(PATIENCE):
            while set(await asyncio.to_thread(chunks, kube_namespace)) != named:
                await clock.advance(61)
                await asyncio.sleep(0.02)
        assert await store.blob("k", written.generation) == LARGE
        admin.get(f"{kube_namespace.core}/configmaps/peerload-settings-1")


async def test_shared_heartbeats_of_servers_that_are_gone_are_swept_when_they_no_longer_count(
    kube_namespace: Namespace, kube_url: str
) -> None:
    clock = ManualClock(wall_ms=time.time_ns() // 1_000_000)
    keys = ["source/1/0/a", "source/1/0/b"]

    async def beat(through: KubernetesStore, stamp: int) -> None:
        touches = [Touch(key, generations[key], Beat(stamp)) for key in keys]
        assert await through.touch(touches) == [Touched.APPLIED] * len(keys)

    async with opened(kube_url, clock, copies_a_second=0.0) as store:
        generations = {key: (await store.put(key, {}, beat=Beat(1))).generation for key in keys}
        async with opened(kube_url, clock, copies_a_second=0.0) as other:
            await beat(other, 2)
        gone = set(beats_objects(kube_namespace))
        assert gone
        for _ in range(12):
            await clock.advance(61)
            await asyncio.sleep(0.05)
        assert gone <= set(beats_objects(kube_namespace))
        assert [entry.beat for entry in (await store.list("source/")).entries] == [Beat(2)] * 2
        await beat(store, 3)
        async with asyncio.timeout(PATIENCE):
            while gone & set(await asyncio.to_thread(beats_objects, kube_namespace)):
                await clock.advance(61)
                await asyncio.sleep(0.02)
        assert [entry.beat for entry in (await store.list()).entries] == [Beat(3)] * 2


async def test_a_record_goes_with_the_pod_that_its_publisher_is(
    kube_namespace: Namespace, store: KubernetesStore
) -> None:
    pod = await asyncio.to_thread(kube_namespace.pod, "worker")
    named = {"pod.name": "worker", "pod.uid": pod["metadata"]["uid"], "pod.namespace": kube_namespace.name}

    async def owners(value: dict[str, Scalar], key: str = "source/1/0/w") -> list[str]:
        await store.put(key, value, blob=b"x")
        return [owner["uid"] for owner in record_of(kube_namespace, key)["metadata"].get("ownerReferences", ())]

    assert await owners({**named}) == [pod["metadata"]["uid"]]
    await store.put("source/1/0/w", {**named, "status": "STALE"})
    assert record_of(kube_namespace, "source/1/0/w")["metadata"]["ownerReferences"][0]["name"] == "worker"
    # Another Pod of that name, another namespace, no Pod at all, what is no source: nothing would ever end it.
    for wrong in ({"pod.uid": "other"}, {"pod.namespace": "other"}, {"pod.name": "nobody"}, {"pod.name": "../x"}):
        assert await owners({**named, **wrong}) == []
    assert await owners({**named}, "claim/x") == []


@pytest.mark.parametrize("worker", ["-", "../../x", "a\0b", "W" * 3_000, "🦀🦀", "a/b/c", "%2e%2e", "A", "a", "_._"])
async def test_any_worker_id_can_be_kept_and_selected(
    kube_namespace: Namespace, store: KubernetesStore, worker: str
) -> None:
    key = f"source/{'ab' * 8}/3/{worker}"
    written = await store.put(key, {"model": "org/name", "status": "READY"}, blob=b"x")
    await store.put("source/other/0/x", {})
    (entry,) = (await store.list(f"source/{'ab' * 8}/")).entries
    assert (entry.key, entry.generation) == (key, written.generation)
    selector = "peerload.dev/model=org_name,peerload.dev/status=READY,peerload.dev/rank=3"
    (found,) = kube_namespace.plane.admin.get(kube_namespace.records, labelSelector=selector)["items"]
    assert (found["key"], found["rank"]) == (key, 3)


async def test_two_peerloads_in_one_namespace_do_not_hear_of_each_other(kube_namespace: Namespace) -> None:
    config = kube_namespace.kubeconfig()
    async with (
        opened(kube_namespace.store_url(config)) as main,
        opened(kube_namespace.store_url(config, instance="second")) as second,
    ):
        position = (await second.list()).position
        mine = await main.put("k", {"n": "main"}, blob=LARGE)
        theirs = await second.put("k", {"n": "second"}, blob=b"x")
        await main.touch([Touch("k", mine.generation, Beat(5)), Touch("x", 1, Beat(5))])
        await main.delete("k")
        mirror = Mirror(await second.list())
        mirror.position = position
        await second.put("end", {})
        await follow(second, mirror, lambda m: "end" in m.entries)
        assert not any(isinstance(change, Deleted) for change in mirror.changes)
        assert mirror.entries["k"].value == {"n": "second"}
        assert mirror.entries["k"].beat is None
        assert await second.blob("k", theirs.generation) == b"x"
        assert (await main.list()).entries == ()


async def test_a_heartbeat_that_came_late_saves_what_is_being_deleted(
    kube_namespace: Namespace, proxy: FaultProxy
) -> None:
    """It is shared, so the record does not move by it: but for the mark of who is about to delete it."""
    key = "source/1/0/w"
    async with (
        opened(kube_namespace.store_url(kube_namespace.kubeconfig(url=proxy.url)), copies_a_second=0.0) as reaper,
        opened(kube_namespace.store_url(), copies_a_second=0.0) as other,
    ):
        written = await reaper.put(key, {}, beat=Beat(10))
        with proxy.fault(Hold(), method="DELETE", times=1) as rule:
            deleting = asyncio.create_task(reaper.delete(key, expect=written.revision, unless_beaten_since=10))
            await in_time(lambda: rule.met)
            beats = [Touch(key, written.generation, Beat(11)), Touch("nobody", 1, Beat(11))]
            assert await other.touch(beats) == [Touched.APPLIED, Touched.MISSING]
        with pytest.raises(Conflict):
            await deleting
        for store in (reaper, other):
            entry = await store.get(key)
            assert entry is not None
            assert (entry.beat, entry.revision) == (Beat(11), written.revision)
        await reaper.delete(key, expect=written.revision, unless_beaten_since=11)
        assert await other.touch(beats) == [Touched.MISSING] * 2


async def test_a_small_fleet_shows_its_heartbeats(kube_namespace: Namespace, store: KubernetesStore) -> None:
    now = store.now()
    keys = [f"source/1/{rank}/w" for rank in range(5)]
    generations = {key: (await store.put(key, {}, beat=Beat(1))).generation for key in keys}
    for step in range(6):
        touches = [Touch(key, generations[key], Beat(now + step, 0.5)) for key in keys]
        assert await store.touch(touches) == [Touched.APPLIED] * 5
        await asyncio.sleep(0.02)
    assert [entry.beat for entry in (await store.list("source/")).entries] == [Beat(now + 5, 0.5)] * 5
    await in_time(lambda: {record_of(kube_namespace, key)["beat"]["stamp"] for key in keys} != {1})


async def test_a_source_is_read_with_the_heartbeat_that_another_server_has_stored(kube_url: str) -> None:
    async with opened(kube_url, copies_a_second=0.0) as store, opened(kube_url, copies_a_second=0.0) as other:
        written = await store.put("source/1/0/w", {}, beat=Beat(1))
        for stamp in range(2, 12):
            touches = [Touch("source/1/0/w", written.generation, Beat(stamp)), Touch("nobody", 1, Beat(1))]
            assert (await other.touch(touches))[0] is Touched.APPLIED
            entry = await store.get("source/1/0/w")
            assert entry is not None
            assert entry.beat == Beat(stamp)


async def test_objects_that_are_full_are_followed_by_others_and_used_again(
    kube_namespace: Namespace, monkeypatch: pytest.MonkeyPatch, kube_url: str
) -> None:
    monkeypatch.setattr("peerload.store.kubernetes.segments.SEGMENT_BEATS", 8)
    keys = [f"source/1/{rank}/w" for rank in range(24)]
    async with opened(kube_url, copies_a_second=0.0) as store:
        generations = {key: (await store.put(key, {})).generation for key in keys}
        for stamp in range(1, 13):
            some = [key for number, key in enumerate(keys) if number % 4 == stamp % 4]
            touches = [Touch(key, generations[key], Beat(stamp)) for key in some]
            assert await store.touch(touches) == [Touched.APPLIED] * len(some)
        expected = {key: Beat(12 - (12 - number) % 4) for number, key in enumerate(keys)}
        assert {entry.key: entry.beat for entry in (await store.list()).entries} == expected
        assert len(beats_objects(kube_namespace)) <= 6
    async with opened(kube_url) as store:
        assert {entry.key: entry.beat for entry in (await store.list()).entries} == expected
        assert await store.touch([Touch(keys[0], generations[keys[0]], Beat(12)), Touch("x", 1, Beat(1))]) == [
            Touched.OLDER,
            Touched.MISSING,
        ]


async def test_a_newer_layout_is_refused(kube_namespace: Namespace, kube_url: str) -> None:
    async with opened(kube_url) as store:
        path = f"{kube_namespace.records}/{layout_name('main')}"
        patch = [{"op": "replace", "path": "/value/layout", "value": 2}]
        kube_namespace.plane.admin.ask("PATCH", path, patch, content_type="application/json-patch+json")
        with pytest.raises(Unavailable, match="newer"):
            async with asyncio.timeout(PATIENCE):
                while True:
                    position = (await store.list()).position
                    async with contextlib.aclosing(store.watch(position)) as feeds:
                        await anext(feeds)
                    await asyncio.sleep(0.02)
    newer = KubernetesStore(kube_url, SystemClock())
    with pytest.raises(InvalidArgument, match="newer"):
        await newer.open()


async def test_what_people_write_is_no_reason_to_fail(kube_namespace: Namespace, store: KubernetesStore) -> None:
    written = await store.put("k", {"n": 1}, blob=b"x")
    mirror = Mirror(await store.list())
    admin, path = kube_namespace.plane.admin, kube_namespace.records
    patch = [{"op": "add", "path": "/metadata/labels/team", "value": "red"}]
    admin.ask("PATCH", f"{path}/{entry_name('main', 'k')}", patch, content_type="application/json-patch+json")
    labels = {"peerload.dev/instance": "main", "peerload.dev/type": "other"}
    foreign = {"apiVersion": "peerload.dev/v1", "kind": "PeerloadRecord", "key": "x", "value": {}}
    admin.post(path, {**foreign, "metadata": {"name": "by-hand", "labels": labels}})
    with pytest.raises(KubeRefused):
        admin.post(path, {**foreign, "metadata": {"name": "no-key"}, "key": 7})
    await store.put("end", {})
    await follow(store, mirror, lambda m: "end" in m.entries)
    assert set(mirror.entries) == {"k", "end"} == {entry.key for entry in (await store.list()).entries}
    entry = await store.get("k")
    assert entry is not None
    assert mirror.entries["k"].value == entry.value == {"n": 1}
    assert entry.revision > written.revision
    assert await store.blob("k", entry.generation) == b"x"
    await store.put("k", {"n": 2}, expect=entry.revision)
    assert record_of(kube_namespace, "k")["metadata"]["labels"]["team"] == "red"
    admin.delete(f"{path}/{entry_name('main', 'k')}")
    await follow(store, mirror, lambda m: "k" not in m.entries)
