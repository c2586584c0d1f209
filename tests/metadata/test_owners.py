"""Whose a source is: what others may do with it, decided by what the store holds and not by what a server has heard of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from peerload.errors import LimitExceeded, NotAllowed
from peerload.metadata.principals import ANYONE, Principal, Role
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, SourceRecord, Status
from peerload.metadata.settings import MetadataSettings
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from tests.metadata.publications import SOURCE, publication

ALICE = Principal("token:alice", Role.PUBLISH)
BOB = Principal("token:bob", Role.PUBLISH)
ADMIN = Principal("token:admin", Role.ADMIN)
KEY = SourceKey(SOURCE, 0, "w1").encode()


async def owner(backend: FakeMetadataBackend, key: str = KEY) -> str | None:
    """Whose it is in the store; None where there is no such source."""
    entry = await backend.store.get(key)
    return None if entry is None else SourceRecord.from_entry(entry).owner


async def update(backend: FakeMetadataBackend, principal: Principal, status: Status = Status.READY) -> bool:
    return await backend.update_status(SOURCE, "w1", 0, status, principal=principal)


@pytest.fixture
async def late(backend: FakeMetadataBackend) -> AsyncIterator[FakeMetadataBackend]:
    """A second server over the same store; a test stops it from hearing of anything new."""
    async with FakeMetadataBackend(store=FaultyStore(backend.store.store), clock=backend.clock) as fake:
        yield fake


async def test_nobody_else_replaces_updates_or_withdraws_it(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication(tensors=1), principal=ALICE)
    before = await backend.store.get(KEY)
    with pytest.raises(NotAllowed, match="another principal than token:bob") as refused:
        await backend.publish(publication(tensors=2), principal=BOB)
    assert "alice" not in str(refused.value)
    for status in (Status.READY, Status.STALE):
        with pytest.raises(NotAllowed):
            await update(backend, BOB, status)
    with pytest.raises(NotAllowed):
        await backend.withdraw(SOURCE, "w1", 0, principal=BOB)
    with pytest.raises(NotAllowed):
        await backend.withdraw(SOURCE, "w1", principal=BOB)
    await backend.settle()
    assert await backend.store.get(KEY) == before
    assert await update(backend, ALICE)
    await backend.publish(publication(tensors=3), principal=ALICE)
    assert await backend.withdraw(SOURCE, "w1", principal=ALICE)
    assert not await backend.withdraw(SOURCE, "w1", 0, principal=BOB), "there is nothing any more, which is no secret"
    await backend.publish(publication(), principal=BOB)
    assert await owner(backend) == BOB.name


async def test_an_admin_may_do_everything_with_it(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication(), principal=ALICE)
    assert await update(backend, ADMIN, Status.STALE)
    assert await owner(backend) == ALICE.name, "whose it is, a status does not change"
    assert await update(backend, ALICE)
    assert await backend.withdraw(SOURCE, "w1", principal=ADMIN)
    await backend.publish(publication(), principal=ADMIN)
    with pytest.raises(NotAllowed):
        await update(backend, ALICE)


async def test_an_admin_of_some_models_is_none_of_others(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication(), principal=ALICE)
    for models, allowed in ((("team/*",), False), (("team/*", "org/*"), True)):
        admin = Principal("token:some", Role.ADMIN, models)
        if allowed:
            assert await update(backend, admin, Status.STALE)
        else:
            with pytest.raises(NotAllowed):
                await update(backend, admin, Status.STALE)


async def test_what_belongs_to_nobody_may_be_kept_alive_and_taken(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    assert await owner(backend) == ""
    assert await update(backend, BOB)
    assert await update(backend, BOB, Status.STALE)
    assert await owner(backend) == ""
    with pytest.raises(NotAllowed):
        await update(backend, Principal("token:far", Role.PUBLISH, ("far/*",)))
    await backend.publish(publication(), principal=ALICE)
    assert await owner(backend) == ALICE.name
    with pytest.raises(NotAllowed):
        await update(backend, BOB)


async def test_without_authentication_nothing_is_checked(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication(), principal=ALICE)
    assert await update(backend, ANYONE)
    await backend.publish(publication())
    assert await owner(backend) == ""
    assert await backend.withdraw(SOURCE, "w1")


async def test_the_reaper_and_those_who_undo_it_leave_it_whose_it_is(backend: FakeMetadataBackend) -> None:
    await backend.clock.advance(300)
    await backend.publish(publication(), principal=ALICE)
    await backend.clock.advance(130)
    await backend.reaper.sweep()
    await backend.settle()
    (record,) = await backend.select(Query())
    assert record.mark is not None
    assert await owner(backend) == ALICE.name
    with pytest.raises(NotAllowed):
        await update(backend, BOB)
    assert await update(backend, ALICE)
    assert await owner(backend) == ALICE.name


async def test_one_rank_of_another_does_not_go_with_the_others(backend: FakeMetadataBackend) -> None:
    for rank, principal in ((0, ALICE), (1, BOB), (2, ALICE)):
        await backend.publish(publication(rank=rank), principal=principal)
    with pytest.raises(NotAllowed):
        await backend.withdraw(SOURCE, "w1", principal=ALICE)
    assert [record.worker_rank for record in await backend.select(Query())] == [1]


# Two servers, one of which has not heard


async def test_of_two_principals_at_two_servers_one_wins(
    backend: FakeMetadataBackend, late: FakeMetadataBackend
) -> None:
    late.store.hang("watch")
    results = await asyncio.gather(
        backend.publish(publication(tensors=1), principal=ALICE),
        late.publish(publication(tensors=2), principal=BOB, deadline=late.clock.monotonic() + 5),
        backend.clock.advance(2),
        return_exceptions=True,
    )
    assert sum(isinstance(result, NotAllowed) for result in results) == 1, results
    won = ALICE if isinstance(results[1], NotAllowed) else BOB
    assert await owner(backend) == won.name


async def test_a_server_that_has_not_heard_overwrites_nothing(
    backend: FakeMetadataBackend, late: FakeMetadataBackend
) -> None:
    late.store.hang("watch")
    await backend.publish(publication(), principal=ALICE)
    before = await backend.store.get(KEY)
    for refused in (
        late.publish(publication(tensors=2), principal=BOB),
        late.update_status(SOURCE, "w1", 0, Status.STALE, principal=BOB),
        late.withdraw(SOURCE, "w1", 0, principal=BOB),
    ):
        with pytest.raises(NotAllowed):
            await refused
    assert await backend.store.get(KEY) == before


async def test_a_server_that_has_not_heard_refuses_nobody_wrongly(
    backend: FakeMetadataBackend, late: FakeMetadataBackend
) -> None:
    await backend.publish(publication(), principal=ALICE)
    await backend.settle()
    late.store.hang("watch")
    assert await backend.withdraw(SOURCE, "w1", principal=ALICE)
    await backend.publish(publication(), principal=BOB)
    # The second server takes it for Alice's; the store knows better.
    assert await update(late, BOB)
    with pytest.raises(NotAllowed):
        await update(late, ALICE, Status.STALE)
    await asyncio.gather(
        late.publish(publication(tensors=2), principal=BOB), late.clock.advance(2), return_exceptions=True
    )
    assert await owner(backend) == BOB.name


async def test_a_late_heartbeat_changes_nothing_of_its_successors(
    backend: FakeMetadataBackend, late: FakeMetadataBackend
) -> None:
    """The second server takes it for a mere refresh of Alice's, and is told by the store that it was none."""
    await backend.publish(publication(), principal=ALICE)
    await backend.settle()
    late.store.hang("watch")
    assert await backend.withdraw(SOURCE, "w1", principal=ALICE)
    await backend.publish(publication(status=Status.INITIALIZING), principal=BOB)
    assert await update(late, ALICE)
    await backend.settle()
    entry = await backend.store.get(KEY)
    assert entry is not None
    assert SourceRecord.from_entry(entry).status is Status.INITIALIZING


async def test_a_stranger_does_not_undo_what_a_heartbeat_meant(
    backend: FakeMetadataBackend, late: FakeMetadataBackend
) -> None:
    await backend.publish(publication(), principal=ALICE)
    await backend.settle()
    late.store.hang("watch")
    assert await update(backend, ALICE, Status.STALE)
    await backend.clock.advance(0.001)
    assert await update(late, ALICE)  # taken for a refresh; it means READY
    with pytest.raises(NotAllowed):
        await update(late, BOB, Status.STALE)
    await backend.settle()
    entry = await backend.store.get(KEY)
    assert entry is not None
    assert SourceRecord.from_entry(entry).status is Status.READY


async def test_what_may_have_been_written_may_be_written_again(backend: FakeMetadataBackend) -> None:
    backend.store.lose_answers("put")
    publishing = asyncio.ensure_future(
        backend.publish(publication(), principal=ALICE, deadline=backend.clock.monotonic() + 30)
    )
    await backend.clock.advance(0.2)
    backend.store.heal()
    await backend.clock.advance(3)
    await publishing
    assert await owner(backend) == ALICE.name


async def test_strangers_do_not_stand_in_line_before_the_owner(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication(), principal=ALICE)
    await backend.settle()
    calls = backend.store.calls.copy()
    async with backend._writes._locks.hold(KEY):  # as while the owner writes
        strangers = [
            asked
            for _ in range(50)
            for asked in (
                backend.publish(publication(tensors=2), principal=BOB),
                update(backend, BOB, Status.STALE),
                backend.withdraw(SOURCE, "w1", 0, principal=BOB),
            )
        ]
        results = await asyncio.gather(*strangers, return_exceptions=True)
    assert {type(result) for result in results} == {NotAllowed}
    assert (backend.store.calls - calls)["get"] < 10, "many questions about one source are one"


async def test_a_publication_costs_one_write_whoever_it_is(backend: FakeMetadataBackend) -> None:
    for principal in (ANYONE, ADMIN, ALICE):
        for _ in range(2):
            await backend.settle()
            calls = backend.store.calls.copy()
            await backend.publish(publication(f"w-{principal.name}"), principal=principal)
            asked = backend.store.calls - calls
            assert (asked["put"], asked["get"]) == (1, 0)


# How many


async def test_a_principal_has_as_many_records_as_it_may() -> None:
    async with FakeMetadataBackend(settings=MetadataSettings(limit_principal_records=2)) as backend:
        for worker_id in ("w1", "w2"):
            await backend.publish(publication(worker_id), principal=ALICE)
        with pytest.raises(LimitExceeded, match="--limit-principal-records: token:alice has 2 records already"):
            await backend.publish(publication("w3"), principal=ALICE)
        await backend.publish(publication("w2"), principal=ALICE)
        await backend.publish(publication("w3"), principal=BOB)
        await backend.publish(publication("w4"))
        await backend.publish(publication("w5"))
        await backend.publish(publication("w6"))
        assert await backend.withdraw(SOURCE, "w1", principal=ALICE)
        await backend.publish(publication("w1"), principal=ALICE)


# Claims


async def test_a_claim_is_its_principals(backend: FakeMetadataBackend) -> None:
    claims = backend.claims
    assert (await claims.acquire("name", "holder", 20_000, principal=ALICE))[0]
    acquired, lease = await claims.acquire("name", "holder", 20_000, principal=BOB)
    assert not acquired
    assert lease.left
    assert not (await claims.renew("name", "holder", principal=BOB))[0]
    assert not await claims.release("name", "holder", principal=BOB)
    assert (await claims.acquire("name", "holder", 20_000, principal=ALICE))[0]
    assert (await claims.renew("name", "holder", principal=ALICE))[0]
    assert await claims.release("name", "holder", principal=ADMIN)
    assert (await claims.acquire("name", "holder", 20_000))[0]
    assert (await claims.renew("name", "holder", principal=BOB))[0], "it belongs to nobody in particular"
