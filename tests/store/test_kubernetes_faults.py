"""The Kubernetes store over a real API server whose answers are refused, lost, held back and contradicted.

What must come within bounds is waited for a multiple of them and no longer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from peerload.errors import Conflict, Unavailable
from peerload.store.base import ABSENT, Beat, Store, Touch, Touched
from peerload.store.kubernetes.names import entry_name
from peerload.testing.store_suite import Mirror
from tests.support.following import PATIENCE, follow, in_time, next_feed, opened, recovered, refused
from tests.support.kube import Answer, Asked, ControlPlane, Cut, FaultProxy, Hold, Lose, Namespace

LARGE = b"\0\1\2" * 500_000
"""Takes two ConfigMaps."""


@pytest.fixture
def proxy(shared_kube: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(shared_kube) as running:
        yield running


@pytest.fixture
def url(kube_namespace: Namespace, proxy: FaultProxy) -> str:
    return kube_namespace.store_url(kube_namespace.kubeconfig(url=proxy.url))


@pytest.fixture
async def store(url: str, proxy: FaultProxy) -> AsyncIterator[Store]:
    async with opened(url) as store:
        await watching(proxy)
        yield store


async def watching(proxy: FaultProxy) -> None:
    """Return once there is a watch."""
    async with asyncio.timeout(PATIENCE):
        while not proxy.watches():
            await asyncio.sleep(0.01)


@pytest.fixture
async def other(kube_namespace: Namespace) -> AsyncIterator[Store]:
    """Another server, that has no trouble."""
    async with opened(kube_namespace.store_url()) as store:
        yield store


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (Answer(429, "TooManyRequests", retry_after=60), "429"),
        (Answer(503, "ServiceUnavailable"), "503"),
        (Answer(504, "Timeout"), "504"),
        (Answer(500, "InternalError", "etcdserver: request timed out"), "request timed out"),
        (Answer(401, "Unauthorized"), "credentials"),
        (Cut(), "closed the connection"),
        (Hold(), "did not answer in time"),
    ],
    ids=str,
)
async def test_what_cannot_be_done_is_unavailable_and_soon_over(
    proxy: FaultProxy, store: Store, action: Answer | Cut | Hold, reason: str
) -> None:
    written = await store.put("k", {"n": 1})
    with proxy.fault(action, watching=False):
        async with asyncio.TaskGroup() as group:
            group.create_task(refused(store, reason))
            group.create_task(unreadable(store, reason))
        await in_time(lambda: not proxy.held())  # what was given up is not to be done later
    await recovered(store)
    assert (await store.put("k", {"n": 3}, expect=written.revision)).generation == written.generation


async def unreadable(store: Store, reason: str) -> None:
    """Every kind of read is unavailable, and says why."""
    async with asyncio.timeout(PATIENCE):
        for outcome in await asyncio.gather(store.get("k"), store.list(), return_exceptions=True):
            with pytest.raises(Unavailable, match=reason):
                raise outcome if isinstance(outcome, BaseException) else AssertionError("it was read")


async def test_who_is_asked_to_come_later_does(proxy: FaultProxy, store: Store) -> None:
    with proxy.fault(Answer(429, "TooManyRequests", retry_after=1), times=1, watching=False) as rule:
        await store.put("k", {"n": 1}, expect=ABSENT)
    assert rule.met == 1


async def test_a_quota_against_which_others_count_keeps_nobody_from_beginning_or_writing(
    proxy: FaultProxy, url: str
) -> None:
    """Where several create what a ResourceQuota counts, the API server gives up counting at some time: that is a conflict,
    and not one over what is created."""
    words = 'Operation cannot be fulfilled on resourcequotas "count": the object has been modified'
    conflict = Answer(409, "Conflict", words)
    with proxy.fault(conflict, method="POST", times=2) as rule:
        async with opened(url) as store:
            assert rule.met == 2
            for path in ("configmaps", "peerloadrecords"):
                with proxy.fault(conflict, method="POST", path=path, times=2) as rule:
                    written = await store.put(path, {"n": 1}, blob=LARGE, expect=ABSENT)
                assert rule.met == 2
                assert await store.blob(path, written.generation) == LARGE


async def test_a_write_whose_answer_is_lost_is_known_to_be_done(proxy: FaultProxy, store: Store) -> None:
    """What came of it is asked; never is one's own write taken for another's."""
    with proxy.fault(Lose(), method="POST", times=1) as lost:
        created = await store.put("k", {"n": 1}, expect=ABSENT)
    assert lost.met == 1
    with proxy.fault(Lose(), method="PATCH", times=1) as lost:
        changed = await store.put("k", {"n": 2}, expect=created.revision)
    assert lost.met == 1
    assert changed.revision > created.revision
    assert changed.generation == created.generation
    assert await store.get("k") == (await store.list()).entries[0]


async def test_what_was_lost_is_done_by_repeating_it(proxy: FaultProxy, store: Store) -> None:
    """Blobs of several parts, heartbeats and deletions, of which one answer is lost each."""
    written = await store.put("k", {"n": 1})
    mirror = Mirror(await store.list())
    with proxy.fault(Lose(), method="POST", path="configmaps", times=1) as lost:
        with contextlib.suppress(Unavailable):
            written = await store.put("k", {"n": 2}, blob=LARGE, expect=written.revision)
        if (await store.get("k")).value == {"n": 1}:  # type: ignore[union-attr]
            written = await store.put("k", {"n": 2}, blob=LARGE, expect=written.revision)
    assert lost.met == 1
    assert await store.blob("k", written.generation) == LARGE
    touch = Touch("k", written.generation, Beat(5))
    with proxy.fault(Lose(), method="PATCH", times=1) as lost:
        with contextlib.suppress(Unavailable):
            assert await store.touch([touch]) == [Touched.APPLIED]
        assert await store.touch([touch]) == [Touched.OLDER]
    assert lost.met == 1
    await follow(store, mirror, lambda m: m.entries["k"].beat == Beat(5))
    with proxy.fault(Lose(), method="DELETE", path="peerloadrecords", times=1) as lost:
        assert await store.delete("k", expect=written.revision) > written.revision
    assert lost.met == 1
    with pytest.raises(Conflict):
        await store.delete("k")
    await follow(store, mirror, lambda m: "k" in m.deleted)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_write_of_which_nothing_can_be_learned_is_unavailable(
    proxy: FaultProxy, store: Store, other: Store, method: str
) -> None:
    """And it was done wholly, or not at all; here: wholly."""
    if method == "PATCH":
        await store.put("k", {"n": 1})
    with proxy.fault(Lose(), method=method), proxy.fault(Cut(), method="GET", watching=False):
        with pytest.raises(Unavailable):
            async with asyncio.timeout(PATIENCE):
                await store.put("k", {"n": 2})
    entry = await other.get("k")
    assert entry is not None
    assert entry.value == {"n": 2}
    assert await store.get("k") == entry


async def test_a_deletion_is_learned_of_by_the_watch_alone(proxy: FaultProxy, store: Store, other: Store) -> None:
    """It says whose it was: here ours, and then nobody's, for the watch is silent too."""
    written = [await store.put(key, {"n": 1}) for key in ("told", "not told")]
    with proxy.fault(Lose(), method="DELETE"), proxy.fault(Cut(), method="GET", watching=False):
        async with asyncio.timeout(PATIENCE):
            assert await store.delete("told") > written[0].revision
        assert proxy.hush()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(PATIENCE):
                await store.delete("not told")
    for key in ("told", "not told"):
        assert await other.get(key) is None


async def test_of_many_who_change_one_entry_each_knows_who_did(store: Store, other: Store) -> None:
    """Nobody's change is lost and nobody's is taken for done: as many as were acknowledged are in the entry."""
    await store.put("k", {"n": 0})

    async def count(each: Store) -> int:
        done = 0
        for _ in range(20):
            entry = await each.get("k")
            assert entry is not None
            n = entry.value["n"]
            assert isinstance(n, int)
            with contextlib.suppress(Conflict):
                await each.put("k", {"n": n + 1}, expect=entry.revision)
                done += 1
        return done

    counted = await asyncio.gather(count(store), count(store), count(other), count(other))
    entry = await store.get("k")
    assert entry is not None
    assert entry.value["n"] == sum(counted) > 0


async def test_a_watch_that_no_longer_reaches_back_loses_nothing(proxy: FaultProxy, store: Store, other: Store) -> None:
    """The connection breaks, entries come, change and go, and then the API server has forgotten what happened."""
    for name in ("kept", "changed", "gone", "replaced"):
        await store.put(name, {"n": 1})
    mirror = Mirror(await store.list())
    with contextlib.ExitStack() as away:
        away.enter_context(proxy.fault(Answer(503, "ServiceUnavailable"), watching=True))
        assert proxy.cut(watching=True)
        await other.put("changed", {"n": 2})
        await other.put("new", {"n": 1}, blob=b"blob")
        await other.delete("gone")
        await other.delete("replaced")
        await other.put("replaced", {"n": 2})
        # Of two faults the first counts: no watch gets through between them.
        with proxy.fault(Answer(410, "Expired"), watching=True, times=1) as rule:
            away.close()
            expected = {entry.key: entry for entry in (await other.list()).entries}
            await follow(store, mirror, lambda m: m.entries == expected)
    assert rule.met == 1
    assert "gone" in mirror.deleted


async def test_a_watch_that_is_told_in_its_midst_that_it_is_too_old(
    proxy: FaultProxy, store: Store, other: Store
) -> None:
    await store.put("k", {"n": 1})
    mirror = Mirror(await store.list())
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
    assert proxy.tell({"type": "ERROR", "object": {**status, "message": "too old resource version"}})
    await other.put("k", {"n": 2})
    await follow(store, mirror, lambda m: m.entries["k"].value == {"n": 2})


async def test_a_watch_that_falls_silent_is_noticed(proxy: FaultProxy, store: Store, other: Store) -> None:
    """Its connection stands, and nothing comes: readers are told so, and it is opened anew."""
    written = await store.put("k", {"n": 1})
    mirror = Mirror(await store.list())
    assert proxy.hush()
    await other.put("k", {"n": 2})
    await follow(store, mirror, lambda m: m.entries["k"].value == {"n": 2})
    await watching(proxy)
    assert proxy.hush()
    # What takes the watch to be judged is judged rightly, or not at all.
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(Unavailable):
                assert await store.touch([Touch("k", written.generation, Beat(7))]) == [Touched.APPLIED]
                break


async def test_readers_are_told_of_an_outage_of_the_watch_alone(proxy: FaultProxy, store: Store) -> None:
    position = (await store.list()).position
    with proxy.fault(Hold(), watching=True):
        assert proxy.hush() + proxy.cut(watching=True)
        with pytest.raises(Unavailable):
            async with asyncio.timeout(PATIENCE), contextlib.aclosing(store.watch(position)) as feeds:
                async for _ in feeds:
                    pass
    await recovered(store)
    mirror = Mirror(await store.list())
    await store.put("k", {})
    await follow(store, mirror, lambda m: "k" in m.entries)


async def test_a_token_that_was_rotated_is_read_again(
    kube_namespace: Namespace, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Whether it is the old one that is refused, or one that was late; no call fails of it."""
    path = tmp_path / "token"
    tokens = [kube_namespace.token() for _ in range(2)]
    path.write_text(tokens[0])
    kubeconfig = kube_namespace.kubeconfig(url=proxy.url, token_file=path)

    def old(asked: Asked) -> bool:
        return asked.token == tokens[0]

    async with opened(kube_namespace.store_url(kubeconfig)) as store:
        await store.put("k", {"n": 1})
        with proxy.fault(Answer(401, "Unauthorized"), where=old):
            with pytest.raises(Unavailable, match="credentials"):
                await store.put("k", {"n": 2})
            _replace(path, tokens[1])
            await store.put("k", {"n": 3})
            proxy.cut(watching=True)
            mirror = Mirror(await store.list())
            await store.put("k", {"n": 4})
            await follow(store, mirror, lambda m: m.entries["k"].value == {"n": 4})
        assert proxy.asked[-1].token == tokens[1]


async def test_a_token_that_has_run_out_is_said_to_be(kube_namespace: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(kube_namespace.forged_token(-60))
    url = kube_namespace.store_url(kube_namespace.kubeconfig(token_file=path))
    with pytest.raises(Unavailable, match="credentials"):
        async with opened(url):
            pass
    _replace(path, kube_namespace.forged_token(600))
    async with opened(url) as store:
        await store.put("k", {})


def _replace(path: Path, text: str) -> None:
    """As the kubelet does it: there is the one, and then the other."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


async def test_a_missing_right_is_named(kube_namespace: Namespace) -> None:
    admin = kube_namespace.plane.admin
    role = admin.get(kube_namespace.allowed)
    fewer = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb not in ("create", "patch")]} for rule in role["rules"]
    ]
    async with opened(kube_namespace.store_url()) as store:
        await store.put("k", {"n": 1})
        admin.ask("PUT", kube_namespace.allowed, {**role, "rules": fewer, "metadata": _named(role)})
        await _until_unavailable(store)
        with pytest.raises(
            Unavailable, match=r"to patch peerloadrecords\.peerload\.dev.*peerload kubernetes manifests"
        ):
            await store.put("k", {"n": 2})
        with pytest.raises(Unavailable, match=r"to create peerloadrecords\.peerload\.dev"):
            await store.put("new", {})
        entry = await store.get("k")
        assert entry is not None
        admin.ask("PUT", kube_namespace.allowed, {**role, "metadata": _named(role)})
        await recovered(store)


async def test_sources_go_with_their_pods_again_when_the_right_to_ask_for_these_is_back(
    kube_namespace: Namespace, store: Store
) -> None:
    admin, records = kube_namespace.plane.admin, kube_namespace.records
    pod = await asyncio.to_thread(kube_namespace.pod, "worker")
    value = {"pod.name": "worker", "pod.uid": pod["metadata"]["uid"], "pod.namespace": kube_namespace.name}
    role = admin.get(kube_namespace.allowed)
    fewer = [rule for rule in role["rules"] if "pods" not in rule["resources"]]

    async def until_owned(expected: bool) -> None:
        """The API server goes by a changed Role a moment later."""
        async with asyncio.timeout(PATIENCE):
            while True:
                await store.put("source/1/0/w", {**value}, blob=b"x")
                body = await asyncio.to_thread(admin.get, f"{records}/{entry_name('main', 'source/1/0/w')}")
                if bool(body["metadata"].get("ownerReferences")) is expected:
                    return

    with structlog.testing.capture_logs() as logs:
        await until_owned(True)
        admin.ask("PUT", kube_namespace.allowed, {**role, "rules": fewer, "metadata": _named(role)})
        for _ in range(3):
            await until_owned(False)
        admin.ask("PUT", kube_namespace.allowed, {**role, "metadata": _named(role)})
        await until_owned(True)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "sources are not removed with their Pods"
    ]


def _named(role: dict[str, dict[str, str]]) -> dict[str, str]:
    return {"name": role["metadata"]["name"], "namespace": role["metadata"]["namespace"]}


async def _until_unavailable(store: Store) -> None:
    """The API server goes by a changed Role a moment later."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(Unavailable):
            while True:
                await store.put("until", {})


async def test_a_namespace_that_is_being_deleted_is_read_and_takes_nothing_new(kube_namespace: Namespace) -> None:
    async with opened(kube_namespace.store_url()) as store:
        await store.put("k", {"n": 1})
        listing = await store.list()
        kube_namespace.plane.admin.delete(f"/api/v1/namespaces/{kube_namespace.name}")
        with pytest.raises(Unavailable, match=f"namespace {kube_namespace.name} is being deleted"):
            await store.put("new", {})
        assert (await store.list()).entries == listing.entries
        assert (await next_feed(store.watch(listing.position))).position
