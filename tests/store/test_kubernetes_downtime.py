"""The Kubernetes store over an API server and an etcd that are killed, stopped, continued, emptied and left alone.

They have a control plane of their own, which every test leaves as it should be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerload.errors import Compacted, Unavailable
from peerload.store.base import Beat, Store, Touch, Touched
from peerload.testing.store_suite import Mirror
from tests.support.following import PATIENCE, follow, next_feed, opened, recovered, refused
from tests.support.kube import ControlPlane, Namespace

OUTAGE = r"cannot be reached|did not answer in time|not able to serve|failed \(50"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")).running() as running:
        yield running


@pytest.fixture
def namespace(plane: ControlPlane) -> Namespace:
    return plane.fresh_namespace()


async def unavailable(store: Store) -> None:
    """Returns once the store says that it is in trouble."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(Unavailable):
            while True:
                await store.put("until", {})


FAULTS: dict[str, tuple[Callable[[ControlPlane], None], Callable[[ControlPlane], None]]] = {
    "API server stopped": (lambda plane: plane.server.pause(), lambda plane: plane.server.resume()),
    "API server killed": (lambda plane: plane.server.kill(), lambda plane: plane.server.start()),
    "etcd stopped": (lambda plane: plane.etcd[0].pause(), lambda plane: plane.etcd[0].resume()),
    "etcd killed": (lambda plane: plane.etcd[0].kill(), lambda plane: plane.etcd[0].start()),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_is_down_is_unavailable_and_all_goes_on_afterwards(
    plane: ControlPlane, namespace: Namespace, name: str
) -> None:
    harm, mend = FAULTS[name]
    async with opened(namespace.store_url()) as store:
        written = await store.put("k", {"n": 1}, blob=b"x" * 5_000)
        mirror = Mirror(await store.list())
        harm(plane)
        try:
            await refused(store, OUTAGE)
            with pytest.raises(Unavailable, match=OUTAGE):
                await store.get("k")
            assert mirror.position is not None
            with pytest.raises(Unavailable):
                async with asyncio.timeout(PATIENCE), contextlib.aclosing(store.watch(mirror.position)) as feeds:
                    async for feed in feeds:
                        mirror.apply(feed)
        finally:
            mend(plane)
        await recovered(store)
        assert await store.blob("k", written.generation) == b"x" * 5_000
        assert await store.touch([Touch("k", written.generation, Beat(5))]) == [Touched.APPLIED]
        await follow(store, mirror, lambda m: m.entries["k"].beat == Beat(5) and "recovered" in m.entries)
        expected = {entry.key: entry for entry in (await store.list()).entries}
        await follow(store, mirror, lambda m: m.entries == expected)


async def test_a_kind_that_is_not_installed(plane: ControlPlane, namespace: Namespace) -> None:
    """Before and while it is used; what installs it is named, and once that was done all goes on."""
    told = r"peerload kubernetes manifests \| kubectl apply -f -"
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/peerloadrecords.peerload.dev"
    async with opened(namespace.store_url()) as store:
        written = await store.put("k", {"n": 1})
        plane.admin.delete(definition)
        await unavailable(store)
        with pytest.raises(Unavailable, match=told):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await store.get("k")
        with pytest.raises(Unavailable, match=told):
            async with opened(namespace.store_url()):
                pass
        namespace.prepare()
        await recovered(store)
        assert await store.get("k") is None
        assert (await store.put("k", {})).revision > written.revision


async def test_an_etcd_that_comes_back_empty(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> None:
    """Nothing is taken for what it was: revisions go on, positions are refused, heartbeats find nobody."""
    token = tmp_path / "token"
    token.write_text(namespace.token())
    async with opened(namespace.store_url(namespace.kubeconfig(token_file=token))) as store:
        for n in range(3):
            written = await store.put("k", {"n": n}, blob=b"blob", beat=Beat(1))
        listing = await store.list()
        plane.server.kill()
        plane.etcd[0].kill()
        plane.etcd[0].forget()
        plane.start()
        namespace.create()
        token.write_text(namespace.token())
        await recovered(store)
        with pytest.raises(Compacted):
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(Unavailable):
                        await next_feed(store.watch(listing.position))
                    await asyncio.sleep(0.02)
        assert await store.touch([Touch("k", written.generation, Beat(5))]) == [Touched.MISSING]
        assert await store.get("k") is None
        assert {entry.key for entry in (await store.list()).entries} == {"recovered"}
        again = await store.put("k", {"n": 9})
        assert again.revision > written.revision
        mirror = Mirror(listing)
        await follow(store, mirror, lambda m: m.entries["k"].value == {"n": 9})


async def test_an_etcd_without_a_majority(tmp_path: Path) -> None:
    """Two of three members are lost and come back."""
    with ControlPlane(tmp_path, members=3).running() as plane:
        namespace = plane.fresh_namespace()
        async with opened(namespace.store_url()) as store:
            written = await store.put("kept", {"n": 1})
            mirror = Mirror(await store.list())
            for member in plane.etcd[:2]:
                member.kill()
            await refused(store, OUTAGE)
            for member in plane.etcd[:2]:
                member.start(wait=False)
            await recovered(store)
            # One is no loss, whoever led.
            plane.etcd[2].kill()
            await recovered(store)
            changed = await store.put("kept", {"n": 2}, expect=written.revision)
            await follow(store, mirror, lambda m: m.entries["kept"].revision == changed.revision)
