"""Large publications are read in a process of their own, one at a time, and never without bound."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import InvalidArgument, LimitExceeded, MissingField, Unavailable
from peerload.metadata.publications.packed import Reading
from peerload.server.services import parsing, reader
from peerload.server.services.parsing import Parser
from peerload.server.services.reader import ReaderChild
from peerload.wire import p2p_pb2, sources_pb2
from tests.support.live import LiveServer, Rpc, publication, sqlite_url
from tests.support.stopping import stop

STOCK = Reading(v1=False, most_tensors=10_000, hosts=False)
OURS = Reading(v1=True, most_tensors=10_000, hosts=True)
LARGE = publication(tensors=5_000).SerializeToString()
MANIFEST = sources_pb2.Manifest(
    items=[sources_pb2.Item(name=f"layers.{number}.weight", size=4, digest=b"d" * 16) for number in range(5_000)],
    endpoints=[sources_pb2.Endpoint(engine="tcp", address="node:5555")],
)


@pytest.fixture
def parser() -> Iterator[Parser]:
    made = Parser()
    yield made
    made.close()


def child_of(parser: Parser) -> psutil.Process:
    assert parser._child is not None
    return psutil.Process(parser._child.pid)


def outcome(reading: Reading, request: bytes) -> object:
    try:
        return reading.of(request)
    except InvalidArgument as refused:
        return type(refused), str(refused), vars(refused)


async def test_small_messages_are_read_at_once(parser: Parser) -> None:
    request = publication(tensors=3).SerializeToString()
    assert await parser.read(request, STOCK) == STOCK.of(request)
    assert parser._child is None


async def test_many_tensors_are_many_however_small_they_are(parser: Parser) -> None:
    tensors = [p2p_pb2.TensorDescriptor(name=f"{number}") for number in range(parsing._MANY + 1)]
    for most in (parsing._MANY, parsing._MANY + 1):
        request = publication(tensors=0)
        request.worker.tensor_source.tensors.extend(tensors[:most])
        encoded = request.SerializeToString()
        assert len(encoded) < parsing._LARGE_BYTES
        assert await parser.read(encoded, STOCK) == STOCK.of(encoded)
        assert (parser._child is None) == (most == parsing._MANY)
    for most in (100, parsing._MANY):
        with pytest.raises(LimitExceeded, match=f"{len(tensors)} tensors, more than {most} "):
            await parser.read(encoded, STOCK._replace(most_tensors=most))


async def test_large_messages_are_read_by_a_child_that_stays(parser: Parser) -> None:
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    first = child_of(parser)
    ours = sources_pb2.PublishRequest(record=publication(tensors=0), manifest=MANIFEST).SerializeToString()
    packed = await parser.read(ours, OURS)
    assert packed == OURS.of(ours)
    assert ("manifest.endpoints.address", "node") in packed.hosts
    assert child_of(parser) == first


async def test_errors_come_through(parser: Parser) -> None:
    with pytest.raises(LimitExceeded, match="--limit-tensors") as caught:
        await parser.read(LARGE, STOCK._replace(most_tensors=4_999))
    assert caught.value.limit == 4_999
    with pytest.raises(MissingField, match="manifest"):
        record = publication(tensors=5_000)
        await parser.read(sources_pb2.PublishRequest(record=record).SerializeToString(), OURS)


async def test_nothing_refused_is_kept(parser: Parser) -> None:
    """Not even until the garbage collector comes, which may be long: a few of the largest would fill the memory."""

    async def asked() -> None:
        with pytest.raises(LimitExceeded):
            await parser.read(LARGE, STOCK._replace(most_tensors=1))
        await asyncio.sleep(0)  # what has answered is on its way out

    await asked()
    gc.collect()
    before = sys.getrefcount(LARGE)
    gc.disable()
    try:
        for _ in range(3):
            await asked()
        assert sys.getrefcount(LARGE) == before
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def child(runner: asyncio.Runner) -> Iterator[ReaderChild]:
    made = runner.run(ReaderChild.start())
    yield made
    made.end()


@given(
    st.one_of(
        st.binary(max_size=40),
        st.builds(lambda cut, garbage: LARGE[:cut] + garbage, st.integers(0, len(LARGE)), st.binary(max_size=20)),
        st.builds(
            lambda at, garbage: LARGE[:at] + garbage + LARGE[at + len(garbage) :],
            st.integers(0, len(LARGE)),
            st.binary(max_size=4),
        ),
    ),
    st.booleans(),
)
def test_a_child_says_what_would_be_said_here(
    runner: asyncio.Runner, child: ReaderChild, request_: bytes, v1: bool
) -> None:
    reading = Reading(v1, 10_000, hosts=True)

    async def asked() -> object:
        try:
            return await child.read(request_, reading)
        except InvalidArgument as refused:
            return type(refused), str(refused), vars(refused)

    assert runner.run(asked()) == outcome(reading, request_)


async def test_who_gives_up_does_not_confuse_the_others(parser: Parser) -> None:
    requests = [publication(worker_id=f"w{number}", tensors=5_000).SerializeToString() for number in range(4)]
    await parser.read(requests[0], STOCK)
    child = child_of(parser)
    stop(child.pid)
    asking = [asyncio.create_task(parser.read(request, STOCK)) for request in requests]
    await asyncio.sleep(0)
    asking[0].cancel()  # the one that is asked now
    asking[2].cancel()  # and one that waits
    await asyncio.wait([asking[0], asking[2]])
    child.resume()
    assert [(await asking[number]).record.worker_id for number in (1, 3)] == ["w1", "w3"]
    assert child_of(parser) == child


async def test_a_flood_is_turned_away_and_passes(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    await parser.read(LARGE, STOCK)
    monkeypatch.setattr(parsing, "_MAX_WAITING_BYTES", 3 * len(LARGE))
    stop(child_of(parser).pid)
    waiting = [asyncio.create_task(parser.read(LARGE, STOCK)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="try again"):
        await parser.read(LARGE, STOCK)
    small = publication(tensors=1).SerializeToString()
    assert await parser.read(small, STOCK) == STOCK.of(small)
    child_of(parser).resume()
    assert await asyncio.gather(*waiting) == [STOCK.of(LARGE)] * 3
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)


async def test_a_child_that_dies_is_an_outage_for_what_it_was_at_alone(parser: Parser) -> None:
    await parser.read(LARGE, STOCK)
    child = child_of(parser)
    stop(child.pid)
    asking = [asyncio.create_task(parser.read(LARGE, STOCK)) for _ in range(2)]
    while parser._waiting:
        await asyncio.sleep(0)
        if len(parser._waiting) == 1:
            break
    child.send_signal(signal.SIGKILL)
    with pytest.raises(Unavailable, match="try again"):
        await asking[0]
    assert await asking[1] == STOCK.of(LARGE)
    assert child_of(parser) != child


async def test_a_child_that_says_nothing_is_replaced(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    await parser.read(LARGE, STOCK)
    child = child_of(parser)
    stop(child.pid)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_READ_SECONDS", 0)
        with pytest.raises(Unavailable, match="said nothing"):
            await parser.read(LARGE, STOCK)
    assert not child.is_running()
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)


async def test_without_a_child_they_are_read_here(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    with pytest.raises(LimitExceeded):
        await parser.read(LARGE, STOCK._replace(most_tensors=1))
    assert parser._child is None


async def test_what_supervisors_tell_everybody_is_not_for_the_child(parser: Parser) -> None:
    await parser.read(LARGE, STOCK)
    child = child_of(parser)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child.send_signal(number)
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert child_of(parser) == child


async def test_memory_of_the_largest_is_given_back(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_KEPT_BYTES", 4096)
    monkeypatch.setattr(reader, "_PIECE_BYTES", 10_000)
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert parser._child is not None
    assert os.fstat(parser._child._memory).st_size <= 4096


async def test_who_gives_up_leaves_nothing_waiting(parser: Parser) -> None:
    await parser.read(LARGE, STOCK)
    child = child_of(parser)
    stop(child.pid)
    first = asyncio.create_task(parser.read(LARGE, STOCK))
    await asyncio.sleep(0)
    others = [asyncio.create_task(parser.read(LARGE, STOCK)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in others:
        task.cancel()
    await asyncio.wait(others)
    assert not parser._waiting
    child.resume()
    assert await first == STOCK.of(LARGE)


async def test_a_child_that_has_no_memory_left_is_an_outage_for_what_it_was_at_alone(parser: Parser) -> None:
    await parser.read(LARGE, STOCK)
    child = child_of(parser)
    much = publication(tensors=50_000).SerializeToString()
    child.rlimit(psutil.RLIMIT_AS, (child.memory_info().vms + len(much), -1))
    with pytest.raises(Unavailable, match="try again"):
        await parser.read(much, STOCK._replace(most_tensors=50_000))
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert child_of(parser) != child


async def test_a_child_that_died_idle_is_nobodys_outage(parser: Parser) -> None:
    await parser.read(LARGE, STOCK)
    child = child_of(parser)
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.001)
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert child_of(parser) != child


async def test_what_lies_in_the_working_directory_is_not_run(
    parser: Parser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert child_of(parser).is_running()


async def test_a_start_that_fails_is_tried_again_later(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/there/is/no/python")
        assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert parser._child is None
    parser._alone_until -= parsing._ALONE_SECONDS
    assert await parser.read(LARGE, STOCK) == STOCK.of(LARGE)
    assert child_of(parser).is_running()


def descriptors() -> set[int]:
    return {int(each.name) for each in Path("/proc/self/fd").iterdir()}


async def test_a_start_that_fails_leaves_no_descriptor(parser: Parser) -> None:
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before) + 10, hard))
    held: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        os.close(held.pop())  # one is left, and more are needed
        with pytest.raises(OSError, match="open files"):
            await ReaderChild.start()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() == before


async def test_without_child_and_thread_it_is_an_outage(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/there/is/no/python")
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(Unavailable, match="thread"):
            await parser.read(LARGE, STOCK)


async def test_where_memory_runs_out_it_goes_before_its_owner(parser: Parser) -> None:
    await parser.read(LARGE, STOCK)
    assert Path(f"/proc/{child_of(parser).pid}/oom_score_adj").read_text() == "1000\n"


async def test_it_ends_with_its_owner() -> None:
    parser = Parser()
    await parser.read(LARGE, STOCK)
    child = child_of(parser)
    stop(child.pid)
    asking = asyncio.create_task(parser.read(LARGE, STOCK))
    await asyncio.sleep(0)
    parser.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not child.is_running()


def test_it_ends_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with LiveServer(sqlite_url(tmp_path)) as server:
        server.start()
        with Rpc(server.address) as rpc:
            assert rpc.publish(LARGE).success
        (child,) = psutil.Process(server.pid).children()
        server.kill()
        assert psutil.wait_procs([child], timeout=30)[1] == []
