"""Several servers: calls and watches go on at the next one, and stay where it works."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from peerload import AsyncClient, ClientSettings
from peerload.client.addresses import Place, servers
from peerload.client.connection import Connection
from peerload.client.route import Link, Route
from peerload.client.status import Stopping, to_error
from peerload.clock import SystemClock
from peerload.errors import DeadlineExceeded, NotFound, Unavailable
from peerload.server import calls
from peerload.server.app import Server
from peerload.server.fronts.grpc import GrpcFront
from peerload.server.rpc import Code, Context, RpcError, StreamMethod, UnaryMethod
from peerload.wire import sources_pb2
from tests.support.live import free_port
from tests.support.server import serving, sqlite_url

AT_ONCE = ClientSettings(patience=0.0, retry_delay=0.01, retire_grace=0.1)
"""Nothing is tried again: what succeeds did so at the first round over the servers."""
LIST = "/peerload.v1.SourceService/List"
WATCH = "/peerload.v1.SourceService/Watch"


class Names:
    """A resolver whose answers a test changes."""

    def __init__(self, **known: list[str]) -> None:
        self.known: dict[str, list[str]] = known
        self.asked = 0

    async def __call__(self, address: str) -> list[list[Place]]:
        self.asked += 1
        name = address.partition(":")[0]
        if not self.known.get(name):
            raise Unavailable(f"no server answers at {address}: its name cannot be resolved")
        return [[Place(address, target) for target in self.known[name]]]


class First(random.Random):
    """Leaves everything in its order."""

    def shuffle(self, x: object) -> None:
        pass


def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    """Two servers on one store."""
    url = sqlite_url(tmp_path)
    async with serving(url) as first, serving(url) as second:
        yield first, second


def connection(*addresses: str, settings: ClientSettings = AT_ONCE, **more: object) -> Connection:
    return Connection(servers(",".join(addresses)), settings, clock=SystemClock(), rng=First(), **more)  # type: ignore[arg-type]


async def test_a_call_goes_to_the_next_server_at_once_and_stays_there(pair: tuple[Server, Server]) -> None:
    gone, there = nobody(), pair[0].address
    to = connection(gone, there, pair[1].address)
    assert not (await to.list(sources_pb2.ListRequest())).sources
    assert [place.name for place in to._route._places] == [there, pair[1].address, gone]
    assert [link.place.name for link in to._route._open] == [there], "what does not answer is let go of"
    await to.list(sources_pb2.ListRequest())
    assert to._route._places[0].name == there
    await to.close()


async def test_a_server_that_is_stopped_under_a_client(pair: tuple[Server, Server]) -> None:
    outages: list[Unavailable] = []
    first, second = pair
    client = AsyncClient(f"{first.address},{second.address}", settings=AT_ONCE, rng=First())
    async with client:
        async with client.publish({"w": b"x"}, model="m") as source:
            async with aclosing(client.watch(on_outage=outages.append)) as changes:
                assert [info.key for info in (await anext(changes)).present] == [source.key]
                await first.stop()
                await source.beat()
                assert [info.key for info in await client.find("m")] == [source.key]
                # Of the other server's everything is told anew.
                assert [info.key for info in (await anext(changes)).present] == [source.key]
                async with client.publish({"w": b"x"}, model="n"):
                    assert [info.model for info in (await anext(changes)).present] == ["n"]
    assert outages == []


async def test_what_is_no_outage_is_not_asked_elsewhere(pair: tuple[Server, Server]) -> None:
    to = connection(pair[0].address, pair[1].address)
    with pytest.raises(NotFound):
        await to.manifest(sources_pb2.GetManifestRequest(source_id="0" * 16, worker_id="w"))
    assert to._route._places[0].name == pair[0].address
    await to.close()


async def test_when_none_answers_each_is_named_once() -> None:
    names = Names(fleet=[nobody(), nobody()])
    to = connection("fleet:1", nobody(), resolve=names)
    names.known["127.0.0.1"] = [nobody()]
    with pytest.raises(Unavailable) as error:
        await to.list(sources_pb2.ListRequest())
    lines = str(error.value).split("; ")
    assert len(lines) == 2
    assert all(line.startswith("no server answers at ") and line.endswith("connection refused") for line in lines)
    await to.close()


async def test_servers_behind_one_name(pair: tuple[Server, Server]) -> None:
    """As a headless Service has them: its Pods come and go, and one name leads to all of them."""
    names = Names(fleet=[nobody(), pair[0].address])
    to = connection("fleet:8001", resolve=names)
    await to.list(sources_pb2.ListRequest())
    await to.list(sources_pb2.ListRequest())
    assert names.asked == 1
    await pair[0].stop()
    with pytest.raises(Unavailable, match="no server answers at fleet:8001: "):
        await to.list(sources_pb2.ListRequest())
    names.known["fleet"] = [pair[1].address]
    await to.list(sources_pb2.ListRequest())
    assert names.asked == 2
    assert [link.place for link in to._route._open] == [Place("fleet:8001", pair[1].address)]
    # Names that cannot be resolved for a while are believed to lead where they led.
    names.known.clear()
    to._route._stale = True
    await to.list(sources_pb2.ListRequest())
    assert names.asked == 3
    await to.close()


async def test_a_name_that_is_not_known_yet(pair: tuple[Server, Server]) -> None:
    names = Names()
    to = connection("fleet:1", resolve=names, settings=replace(AT_ONCE, patience=30.0))
    call = asyncio.ensure_future(to.list(sources_pb2.ListRequest()))
    while names.asked < 3:
        await asyncio.sleep(0)
    names.known["fleet"] = [pair[0].address]
    await call
    await to.close()


async def test_clients_of_a_fleet_spread() -> None:
    names = Names(fleet=[f"192.0.2.{i}:1" for i in range(8)], box=["192.0.2.100:1"])
    seen = set()
    for seed in range(40):
        route = Route(("box:1", "fleet:1"), None, rng=random.Random(seed), resolve=names)
        link = await route.link()
        assert link is not None
        seen.add(link.place.target)
        await route.close()
    assert len(seen) == 9


class Answers:
    """A server that answers lists as it is told, and says nothing to watchers."""

    def __init__(self, code: Code | None, text: str = "") -> None:
        self._code = code
        self._text = text
        self.calls = 0
        self.front = GrpcFront({LIST: UnaryMethod(self._list), WATCH: StreamMethod(self._watch)})

    async def _list(self, request: bytes, context: Context) -> bytes:
        self.calls += 1
        if self._code is not None:
            raise RpcError(self._code, self._text)
        return b""

    async def _watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        self.calls += 1
        await asyncio.Event().wait()
        yield b""

    async def __aenter__(self) -> Answers:
        self.address = await self.front.start("127.0.0.1:0")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.front.stop(0)


async def test_a_server_without_its_store_is_passed_over() -> None:
    async with Answers(Code.UNAVAILABLE, "the store is away") as away, Answers(None) as well:
        to = connection(away.address, well.address)
        for _ in range(3):
            await to.list(sources_pb2.ListRequest())
        assert (away.calls, well.calls) == (1, 3)
        await to.close()


@pytest.mark.parametrize(
    "code", [Code.RESOURCE_EXHAUSTED, Code.PERMISSION_DENIED, Code.INTERNAL, Code.DEADLINE_EXCEEDED]
)
async def test_only_outages_are_tried_elsewhere(code: Code) -> None:
    async with Answers(code, "no") as first, Answers(None) as second:
        to = connection(first.address, second.address)
        with pytest.raises(Exception, match=r"no|in time"):
            await to.list(sources_pb2.ListRequest())
        assert (first.calls, second.calls) == (1, 0)
        await to.close()


async def test_a_connection_to_a_server_that_stops_is_not_used_again() -> None:
    """Behind one address of a Service another server may answer, to another connection."""
    async with Answers(Code.UNAVAILABLE, "the server is stopping") as stopping:
        to = connection(stopping.address)
        links = set()
        for _ in range(3):
            with pytest.raises(Unavailable, match="is stopping"):
                await to.list(sources_pb2.ListRequest())
            link = await to._route.link()
            assert link is not None
            links.add(link)
        assert len(links) == 3
        await to.close()
    # Both sides must mean the same.
    assert isinstance(to_error(grpc.StatusCode.UNAVAILABLE, calls._stopping().message, "a", "/b/C"), Stopping)


async def test_the_first_answer_of_a_watch_has_a_deadline() -> None:
    async with Answers(None) as silent, serving() as well:
        to = connection(silent.address, settings=replace(AT_ONCE, call_timeout=0.2))
        with pytest.raises(DeadlineExceeded, match="did not answer Watch in time"):
            await anext(to.watch(sources_pb2.WatchRequest()))
        await to.close()
        # The next server is asked instead, where there is one.
        to = connection(silent.address, well.address, settings=replace(AT_ONCE, call_timeout=1.0))
        async with aclosing(to.watch(sources_pb2.WatchRequest())) as changes:
            assert (await anext(changes)).complete
        await to.close()


async def test_a_watch_that_ends_at_once_everywhere_is_left_to_its_follower(pair: tuple[Server, Server]) -> None:
    """Servers that begin a watch and end it again must not be asked without a pause."""
    to = connection(pair[0].address, pair[1].address)
    async with aclosing(to.watch(sources_pb2.WatchRequest())) as changes:
        await anext(changes)
        for server in pair:
            await server.stop()
        with pytest.raises(Unavailable):
            async for _ in changes:
                pass
    await to.close()


async def test_a_watch_whose_connection_was_let_go_of_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server does with those that have grown old; a watch that has worked until then hears of no outage."""
    monkeypatch.setattr("peerload.client.connection._SETTLED_S", 0.0)
    ended: list[bytes] = []

    async def watch(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield sources_pb2.WatchResponse(complete=True, resume_token=f"{len(ended)}").SerializeToString()
        ended.append(request)
        raise RpcError(Code.UNAVAILABLE, "max connection age")

    front = GrpcFront({WATCH: StreamMethod(watch)})
    address = await front.start("127.0.0.1:0")
    to = connection(address)
    async with aclosing(to.watch(sources_pb2.WatchRequest())) as changes:
        assert [(await anext(changes)).resume_token for _ in range(3)] == ["0", "1", "2"]
        assert [sources_pb2.WatchRequest.FromString(each).resume_token for each in ended[:2]] == ["", "0"]
        await front.stop(0)
        with pytest.raises(Unavailable):
            async for _ in changes:
                pass
    await to.close()


async def test_calls_that_are_on_their_way_keep_a_link_open() -> None:
    closing: list[Link] = []
    link = Link(Place("a:1", "192.0.2.1:1"), None, closing.append)
    with link.calling():
        with link.calling():
            link.give_up()
        assert closing == []
    assert closing == [link]
    await link.channel.close()


async def test_a_token_that_goes_out_in_plaintext_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "token").write_text("secret-token")
    settings = ClientSettings(token_path=str(tmp_path / "token"))
    header = (("authorization", "Bearer secret-token"),)
    caplog.set_level(logging.WARNING, logger="peerload.client")
    for name, target, warned in (("box:1", "127.0.0.1:1", 0), ("box:1", "192.0.2.1:1", 1)):
        to = connection(name, settings=settings)
        link = Link(Place(name, target), None, lambda link: None)
        for _ in range(2):
            assert to._metadata(link) == header
        assert len(caplog.records) == warned
        await link.channel.close()
        await to.close()
    assert "in plaintext" in caplog.text
    assert "secret-token" not in caplog.text
