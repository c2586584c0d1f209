"""A store that comes back without its data: nobody is told that the sources have left."""

from __future__ import annotations

import asyncio

import pytest

from peerload.errors import Unavailable
from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import publication

READY = Query(status=Status.READY)


async def test_watches_begin_anew_and_are_held() -> None:
    async with FakeMetadataBackend() as backend:
        await backend.publish(publication())
        waiting, slow = backend.watch(READY), backend.watch(READY)
        token = (await anext(waiting)).resume_token
        assert (await anext(slow)).complete
        hears = asyncio.ensure_future(anext(waiting))
        await backend.clock.settle()
        backend.store.fail()
        await backend.clock.advance(5)
        for entry in (await backend.store.store.list()).entries:
            await backend.store.store.delete(entry.key)
        backend.store.heal()
        backend.store.compact_feed()
        await backend.clock.advance(3)
        assert backend.serving
        with pytest.raises(Unavailable, match="without its data"):
            await hears
        with pytest.raises(Unavailable, match="without its data"):
            await anext(slow)
        resumed = backend.watch(READY, token)
        first = asyncio.ensure_future(anext(resumed))
        await backend.clock.advance(5)
        assert not first.done()
        await backend.publish(publication())
        event = await first
        assert (event.complete, [record.worker_id for record in event.present], event.gone) == (True, ["w1"], ())
        await resumed.aclose()
