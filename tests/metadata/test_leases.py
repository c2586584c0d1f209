"""Claims: one holder at a time, late renewals win, and an outage makes nobody lose his."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.errors import InvalidArgument, LimitExceeded, MissingField, Unavailable
from peerload.metadata.leases import MAX_LEASE_MS, Leases
from peerload.store.base import Beat
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import publication

NAME = "download/org/model@main"
LEASE = 20_000


async def take(backend: FakeMetadataBackend, holder: str, length: int = LEASE, name: str = NAME) -> bool:
    return (await backend.claims.acquire(name, holder, length))[0]


async def test_one_holds_it_and_the_others_hear_who_and_for_how_long(backend: FakeMetadataBackend) -> None:
    acquired, lease = await backend.claims.acquire(NAME, "a", LEASE, "host a")
    assert acquired
    assert (lease.name, lease.holder, lease.note, lease.length, lease.left) == (NAME, "a", "host a", LEASE, LEASE)
    await backend.clock.advance(5)
    acquired, held = await backend.claims.acquire(NAME, "b", LEASE, "host b")
    assert not acquired
    assert (held.holder, held.note, held.token, held.left) == ("a", "host a", lease.token, 15_000)
    assert (await backend.claims.renew(NAME, "b"))[0] is False
    assert not await backend.claims.release(NAME, "b")
    # Asking again is renewing.
    assert await take(backend, "a")
    await backend.clock.advance(15)
    assert (await backend.claims.renew(NAME, "a"))[0]
    await backend.clock.advance(19)
    assert not await take(backend, "b")
    assert await backend.claims.release(NAME, "a")
    assert await take(backend, "b")
    assert await backend.claims.renew(NAME, "a") == (False, (await backend.claims.renew(NAME, "b"))[1])


async def test_a_lease_that_ran_out_is_taken_over_and_tokens_grow(backend: FakeMetadataBackend) -> None:
    _, first = await backend.claims.acquire(NAME, "a", LEASE)
    await backend.clock.advance(20.001)
    # Late, but before anybody else.
    assert (await backend.claims.renew(NAME, "a"))[0]
    await backend.clock.advance(20.001)
    acquired, second = await backend.claims.acquire(NAME, "b", LEASE)
    assert acquired
    assert second.token > first.token
    assert (await backend.claims.renew(NAME, "a"))[0] is False
    assert not await backend.claims.release(NAME, "a")
    assert not await take(backend, "a")


async def test_of_many_at_once_one_gets_it(backend: FakeMetadataBackend) -> None:
    await take(backend, "dead")
    await backend.clock.advance(21)
    taken = await asyncio.gather(*(take(backend, f"holder{number}") for number in range(50)))
    assert sum(taken) == 1


async def test_a_renewal_that_comes_between_judging_and_taking_over_wins(backend: FakeMetadataBackend) -> None:
    await take(backend, "a")
    await backend.clock.advance(21)
    real = backend.store.store.delete

    async def slow(key: str, **expected: Any) -> int:
        backend.store.store.delete = real  # type: ignore[method-assign]
        assert (await backend.claims.renew(NAME, "a"))[0]
        return await real(key, **expected)

    backend.store.store.delete = slow  # type: ignore[method-assign]
    assert not await take(backend, "b")


@pytest.mark.parametrize("down", [1.0, 60.0, 86_400.0])
async def test_time_without_a_server_does_not_count(backend: FakeMetadataBackend, down: float) -> None:
    await take(backend, "a")
    await backend.clock.advance(19)
    await backend.close()
    await backend.clock.advance(down)
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as again:
        # A second was left; and so much more that its holder can find the server again.
        await again.clock.advance(4)
        assert not await take(again, "b")
        assert (await again.claims.renew(NAME, "a"))[0]
        await again.clock.advance(20.001)
        assert await take(again, "b")


async def test_what_had_run_out_before_an_outage_is_free_after_it(backend: FakeMetadataBackend) -> None:
    await take(backend, "a")
    await backend.clock.advance(25)
    await backend.close()
    await backend.clock.advance(60)
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as again:
        await again.clock.advance(0.5)
        assert await take(again, "b")


async def test_an_outage_of_the_store_is_no_answer(backend: FakeMetadataBackend) -> None:
    await take(backend, "a")
    backend.store.fail()
    await backend.clock.advance(1)
    for call in (
        backend.claims.acquire(NAME, "b", LEASE),
        backend.claims.renew(NAME, "a"),
        backend.claims.release(NAME, "a"),
    ):
        task = asyncio.ensure_future(call)
        await backend.clock.settle()
        await backend.clock.advance(100)
        with pytest.raises(Unavailable):
            await task
    backend.store.heal()
    await backend.clock.advance(3)
    assert not await take(backend, "b")
    assert (await backend.claims.renew(NAME, "a"))[0]


async def test_an_answer_that_was_lost_is_asked_for_again(backend: FakeMetadataBackend) -> None:
    backend.store.lose_answers("put")
    with pytest.raises(Unavailable):
        await take(backend, "a")
    backend.store.heal()
    # It was taken, or was not; the same holder has it now, and nobody else.
    assert await take(backend, "a")
    assert not await take(backend, "b")


async def test_what_ran_out_is_tidied_in_time_and_sources_are_none_of_it(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await take(backend, "a", 1_000, "one")
    await take(backend, "a", MAX_LEASE_MS, "long")
    await backend.settle()
    assert len(backend.claims) == 2
    assert len(backend.directory) == 1
    await backend.clock.advance(31)
    await backend.settle()
    assert {entry.key for entry in (await backend.store.list("claim/")).entries} == {"claim/long"}
    assert len(backend.claims) == 1
    assert await backend.claims.sweep() == 0
    assert len(await backend.list_sources()) == 1
    await backend.claims.release("long", "a")
    await backend.settle()
    assert len(backend.claims) == 0


async def test_claims_are_bounded_and_so_is_what_they_are_called(
    backend: FakeMetadataBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.claims, "_most", 3)
    for number in range(3):
        assert await take(backend, "a", name=f"name{number}")
    await backend.settle()
    with pytest.raises(LimitExceeded, match="3 names are claimed"):
        await take(backend, "a", name="name3")
    assert not await take(backend, "b", name="name1")
    for name, holder, length, field in (
        ("", "a", LEASE, "name"),
        ("n" * 1025, "a", LEASE, "name"),
        ("n", "", LEASE, "holder"),
        ("n", "ä" * 129, LEASE, "holder"),
        ("n", "a", 999, "lease_ms"),
        ("n", "a", MAX_LEASE_MS + 1, "lease_ms"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await backend.claims.acquire(name, holder, length)
        assert refused.value.field == field
    with pytest.raises(LimitExceeded, match=r"^note"):
        await backend.claims.acquire("n", "a", LEASE, "x" * 1025)
    with pytest.raises(MissingField):
        await backend.claims.renew("", "a")


async def test_an_entry_of_another_make_is_one_that_ran_out(backend: FakeMetadataBackend) -> None:
    await backend.store.put(f"claim/{NAME}", {"of a later version": 7})
    await backend.settle()
    assert await take(backend, "a")


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["acquire", "renew", "release"]), st.sampled_from("abc")),
        st.tuples(st.just("advance"), st.sampled_from([1.0, 3.0, 6.0, 11.0, 40.0])),
        st.tuples(st.just("restart"), st.sampled_from([0.5, 30.0])),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=40)
def test_nobody_takes_what_another_holds(steps: list[tuple[str, Any]]) -> None:
    """Against a model: who holds it, and how much living time has passed since the last renewal."""

    async def run() -> None:
        backend = FakeMetadataBackend()
        await backend.connect()
        await backend.clock.advance(1)
        holder, age, tokens = "", 0.0, [0]
        try:
            for step, what in steps:
                claims: Leases = backend.claims
                if step == "advance":
                    await backend.clock.advance(what)
                    age += what
                elif step == "restart":
                    await backend.close()
                    await backend.clock.advance(what)
                    backend = FakeMetadataBackend(store=backend.store, clock=backend.clock)
                    await backend.connect()
                    # What follows the outage may come with up to five seconds of grace: let them pass.
                    await backend.clock.advance(5)
                    age += 5
                elif step == "acquire":
                    acquired, lease = await claims.acquire("n", what, 10_000)
                    assert lease.token >= tokens[-1]
                    if acquired:
                        assert holder in ("", what) or age >= 9.9
                        holder, age = what, 0.0
                        tokens.append(lease.token)
                    else:
                        assert lease.holder == holder != what
                        assert age <= 10.1
                elif step == "renew":
                    held, _ = await claims.renew("n", what)
                    if held:
                        assert holder == what
                        age = 0.0
                    else:
                        # Tidied, at the earliest when it had run out.
                        assert holder != what or age >= 9.9
                elif await claims.release("n", what):
                    assert holder == what
                    holder = ""
        finally:
            await backend.close()

    asyncio.run(run())


async def test_a_stored_lease_of_nonsense_has_run_out(backend: FakeMetadataBackend) -> None:
    """Whoever wrote it: it holds nobody up, and answers can say what it is."""
    for number, length in enumerate((2**70, MAX_LEASE_MS + 1, -5, "x", True)):
        name = f"n{number}"
        value = {"holder": None, "note": 5, "lease_ms": length, "since": 2**63}
        await backend.store.put(f"claim/{name}", value, beat=Beat(backend.store.now()))
        await backend.settle()
        acquired, lease = await backend.claims.acquire(name, "a", LEASE)
        assert (acquired, lease.holder, lease.length) == (True, "a", LEASE)
