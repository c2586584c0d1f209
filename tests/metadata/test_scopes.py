"""What a principal may see: sources of its models, and of others not even that they are there."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import NotAllowed
from peerload.metadata.principals import ANYONE, Principal, Role
from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.metadata.transfers import Outcome, Transfer
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id
from tests.metadata.publications import identity, publication

TEAM = Principal("token:team", Role.PUBLISH, ("team/*", "shared"))


def asking(**fields: object) -> Query:
    return Query.from_list_request(p2p_pb2.ListSourcesRequest(**fields).SerializeToString())  # type: ignore[arg-type]


def selecting(**fields: object) -> Query:
    return Query.from_selector(sources_pb2.Selector(**fields))  # type: ignore[arg-type]


@pytest.fixture
async def mixed(backend: FakeMetadataBackend) -> FakeMetadataBackend:
    for model in ("team/a", "other/b", "shared", "Team/a2"):
        await backend.publish(publication(f"w-{model}", model=model))
    return backend


async def seen(backend: FakeMetadataBackend, query: Query, principal: Principal = TEAM) -> list[str]:
    asked = backend.scoped(query, principal)
    records = [record.model_name for record in await backend.select(asked)]
    listed = p2p_pb2.ListSourcesResponse.FromString(await backend.list_refs(asked)).instances
    assert sorted(records) == sorted(ref.model_name for ref in listed)
    return sorted(records)


async def test_of_all_sources_those_in_scope_are_listed(mixed: FakeMetadataBackend) -> None:
    for query in (asking(), selecting(), asking(status_filter=2), asking(limit=10)):
        assert await seen(mixed, query) == ["shared", "team/a"]
        assert len(await seen(mixed, query, ANYONE)) == 4, (
            "who comes afterwards is not answered with what others may see"
        )
        assert await seen(mixed, query) == ["shared", "team/a"]


async def test_what_is_named_and_out_of_scope_is_refused(mixed: FakeMetadataBackend) -> None:
    for query in (
        asking(identity=identity("other/b")),
        asking(model_name_filter="other/b"),
        asking(identity=identity("none/there")),
        selecting(identity=identity("other/b")),
        selecting(model_name="other/b"),
        selecting(source_id=source_id(identity("other/b"))),
    ):
        with pytest.raises(NotAllowed, match="token:team may"):
            mixed.scoped(query, TEAM)
        assert mixed.scoped(query, ANYONE) is query, "who may see everything costs nothing"


async def test_case_does_not_lead_around_it(mixed: FakeMetadataBackend) -> None:
    # A source id ignores case, a pattern does not.
    assert await seen(mixed, asking(identity=identity("team/A2"))) == []
    assert await seen(mixed, asking(identity=identity("team/A"))) == ["team/a"]


async def test_publishing_out_of_scope_is_refused(backend: FakeMetadataBackend) -> None:
    with pytest.raises(NotAllowed, match=r"model 'other/b' is not among those that token:team may use"):
        await backend.publish(publication(model="other/b"), principal=TEAM)
    assert await backend.select(Query()) == []
    await backend.publish(publication(model="team/b"), principal=TEAM)


async def test_a_watch_tells_of_what_is_in_scope_only(mixed: FakeMetadataBackend) -> None:
    async def told(principal: Principal, token: str = "") -> tuple[list[str], str]:
        """What a watch tells first, of present and gone, and where it goes on."""
        async with contextlib.aclosing(mixed.watch(mixed.scoped(Query(), principal), token)) as events:
            async for event in events:
                names = [record.model_name for record in event.present] + [key.worker_id for key in event.gone]
                return sorted(names), event.resume_token
        raise AssertionError

    names, token = await told(TEAM)
    assert names == ["shared", "team/a"]
    _, everything = await told(ANYONE)
    await mixed.publish(publication("new", model="other/c"))
    await mixed.publish(publication("w-other/b", status=Status.STALE, model="other/b"))
    await mixed.withdraw(source_id(identity("other/b")), "w-other/b")
    waiting = asyncio.ensure_future(told(TEAM, token))
    # A token of somebody who sees more leads to no more.
    other = asyncio.ensure_future(told(TEAM, everything))
    await mixed.settle()
    assert not waiting.done()
    assert not other.done()
    await mixed.publish(publication("w-team/d", model="team/d"))
    assert (await waiting)[0] == (await other)[0] == ["team/d"]


async def test_reports_about_what_cannot_be_seen_are_not_heeded(mixed: FakeMetadataBackend) -> None:
    for model in ("other/b", "team/a"):
        key = publication(f"w-{model}", model=model).key
        mixed.report(Transfer(key, Outcome.CORRUPT, 0, 0.0, "tcp", "t", 0, "h"), TEAM)
    assert [record.model_name for record in await mixed.select(Query()) if record.suspect] == ["team/a"]


@given(st.lists(st.text(max_size=6), max_size=4), st.text(max_size=12))
def test_what_an_unbounded_principal_covers_is_everything(patterns: list[str], model: str) -> None:
    assert Principal("p", Role.READ, ("*", *patterns)).covers(model)
    assert not Principal("p", Role.READ, ()).covers(model)
    assert (
        Principal("p", Role.READ, tuple(patterns)).covers(model)
        or model not in patterns
        or any(set(pattern) & set("*?[") for pattern in patterns)
    )
