"""What the figures of the bench rest on: its load asks what it says, and its tables say what was measured."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.figures import Figure, percentiles
from bench.generator import Load, generate
from bench.http2 import Connection, Done, head_of
from bench.messages import P2P, Fleet
from bench.processes import Process, bare, spawned
from bench.report import write
from bench.rows import ROWS, Row, engines
from bench.run import main
from bench.seeding import fleets, seed
from bench.setting import Setting
from peerload.clock import SystemClock
from peerload.metadata.publications.publication import Publication
from peerload.plugins import open_store
from peerload.store.values import encode_value
from peerload.wire import p2p_pb2

ABOUT = {"processor": "one", "cores": 2, "load average": 0.1, "python": "3", "kernel": "6", "seconds": 1}
SMALL, LARGE = f"{P2P}UpdateStatus", f"{P2P}PublishMetadata"


@pytest.fixture(scope="module", params=["grpc", "h2corn"])
def handler(request: pytest.FixtureRequest):
    if request.param == "h2corn":
        pytest.importorskip("h2corn")
    with bare(request.param, {SMALL: b"small", LARGE: bytes(700_000)}) as process:
        yield process


def test_a_fleet_makes_each_call_once_over_its_own_connection(handler: Process) -> None:
    # More than a window of HTTP/2 both ways: nothing of it may get stuck.
    calls = [call for _ in range(12) for call in ((SMALL, b"x"), (LARGE, bytes(200_000)), (SMALL, b"y"))]
    (told,) = generate(handler.address, 0, Load(calls, connections=12, each=3, processes=2))
    assert told.failed == 0
    assert {path: len(times) for path, times in told.times.items()} == {SMALL: 24, LARGE: 12}
    assert told.size > 12 * 700_000


def test_more_calls_than_a_connection_may_have_wait_for_their_streams(handler: Process) -> None:
    connection = Connection(handler.address)
    with connection.socket:
        for call in range(1_000):
            connection.begin(call, head_of(SMALL), b"x")
        assert connection.in_flight == 1_000
        ended: list[Done] = []
        while connection.in_flight:
            left = connection.send()
            select.select([connection.socket], [connection.socket] if left else [], [], 30)
            ended += connection.receive()
    assert sorted(each.call for each in ended) == list(range(1_000))
    assert all(each.size for each in ended)


def test_loads_beside_each_other_and_calls_that_fail(handler: Process) -> None:
    closed = Load([(SMALL, bytes(size)) for size in range(50)], connections=2, streams=4)
    timed = Load([(SMALL, b"x")], connections=2, rate=100)
    wrong = Load([(f"{P2P}Nothing", b"")], connections=1, streams=1)
    answered, paced, refused = generate(handler.address, 0.5, closed, timed, wrong)
    assert answered.failed == paced.failed == 0
    assert answered.rate > 0
    assert 0 < paced.made <= 0.8 * 100
    assert refused.failed > 0
    assert refused.rate == 0


async def test_a_bare_handler_that_keeps_publications_does_what_nobody_can_do_without(tmp_path: Path) -> None:
    fleet = Fleet(7)
    url = f"sqlite:{tmp_path}/peerload.sqlite"
    with bare("grpc", {LARGE: b"kept"}, url) as process:
        load = Load([(LARGE, fleet.request(number)) for number in range(8)], connections=2, each=4)
        (told,) = await asyncio.to_thread(generate, process.address, 0, load)
    assert told.failed == 0
    store = open_store(url, SystemClock())
    await store.open()
    try:
        entries = [entry for entry in (await store.list()).entries if entry.key.startswith("source/")]
        assert len(entries) == 8
        assert all(entry.blob_size for entry in entries)
        # About as much as a server keeps in a value.
        ours = len(encode_value(Publication.from_p2p(fleet.request(0)).record.to_value()))
        assert all(0.6 * ours <= len(encode_value(entry.value)) <= 1.2 * ours for entry in entries)
    finally:
        await store.close()


def test_a_fleet_is_what_a_server_takes() -> None:
    for tensors in (0, 7):
        fleet = Fleet(tensors)
        found = Publication.from_p2p(fleet.request(70))
        assert (found.key.worker_id, found.key.worker_rank) == (fleet.worker_id(70), 70 % 64)
        assert found.record.item_count == tensors
        assert p2p_pb2.UpdateStatusRequest.FromString(fleet.update("s", 70)).worker_id == fleet.worker_id(70)


async def test_a_seeded_store_has_what_is_asked_for(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'seeded.sqlite'}"
    await asyncio.to_thread(seed, url, 300)
    store = open_store(url, SystemClock())
    await store.open()
    assert len((await store.list("source/")).entries) == 300
    await store.close()
    assert [len(workers) for _, workers in fleets(100_000)][:3] == [64, 1_024, 10_000]
    assert sum(len(workers) for _, workers in fleets(100_000)) == 100_000


def test_figures_say_how_near_they_are_to_their_bound(tmp_path: Path) -> None:
    rate = Figure(row="r", case="c", unit="/s", value=80.0, bound=100.0, goal=0.8, rounds=(70.0, 80.0, 90.0))
    late = Figure(row="r", case="c", unit="ms", value=20.0, bound=10.0, less=True, goal=0.8)
    alone = Figure(row="r", case="c", unit="ms", value=0.0, less=True, goal=0, curve="size", at=10.0)
    assert (rate.fraction, rate.met, rate.spread) == (0.8, True, 0.25)
    assert (late.fraction, late.met) == (0.5, False)
    assert (alone.fraction, alone.met) == (None, True)
    assert percentiles([0.001 * number for number in range(1, 101)])["99"] == pytest.approx(100.0)
    write(tmp_path, [rate, late, alone], ABOUT, {})
    assert [each["met"] for each in json.loads((tmp_path / "figures.json").read_text())["figures"]] == [
        True,
        False,
        True,
    ]
    assert "| 80 /s | 100 () | 0.80 | ≥ 0.8 ✓ |" in (tmp_path / "figures.md").read_text()


def test_every_row_stands_in_the_readme() -> None:
    page = (Path(__file__).parents[2] / "bench" / "README.md").read_text()
    assert all(f"\n| `{name}`{'' if row.plain else '*'} |" in page for name, row in ROWS.items())


def test_a_process_that_ends_early_is_noticed() -> None:
    with spawned(engines.serve, "tcp", 1 << 20) as source, pytest.raises(EOFError):
        os.kill(source.pid, signal.SIGKILL)
        while True:
            source.pipe.recv()


def test_a_row_that_hangs_is_ended_and_what_was_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(setting: Setting) -> Iterator[Figure]:
        yield Figure(row="update", case="before", unit="/s", value=1.0)
        # What the timer does when the time is over; asyncio must not keep it to itself.
        asyncio.run(ring())

    async def ring() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGALRM)
        await asyncio.Event().wait()

    def after(setting: Setting) -> Iterator[Figure]:
        yield Figure(row="list", case="after", unit="/s", value=1.0)

    monkeypatch.setitem(ROWS, "update", Row("hangs", measure, 3600))
    monkeypatch.setitem(ROWS, "list", Row("does not", after, 3600))
    with pytest.raises(SystemExit, match="not measured to their end: update"):
        main(["list", "update", "--rounds", "6", "--out", str(tmp_path)])
    assert "==> update: hangs (at most 7200 s)" in capsys.readouterr().out
    told = json.loads((tmp_path / "figures.json").read_text())
    assert [each["case"] for each in told["figures"]] == ["before", "after"]
    assert told["ended"] == {"update": "not done within 7200 s"}
    assert "`update` ended early: not done within 7200 s." in (tmp_path / "figures.md").read_text()
