"""Replicas of several ranks, as people and programs see them."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from peerload.cli import console
from peerload.cli.records import ranks_text, standing
from peerload.cli.show import _numbers
from peerload.client import SourceInfo
from peerload.wire import p2p_pb2, sources_pb2
from tests.cli.commands import environment, peerload
from tests.support.live import LiveServer, Rpc, eventually, publication

WORKER = """
import asyncio
from peerload import AsyncClient, ClientSettings, Identity

async def main():
    async with AsyncClient(settings=ClientSettings(heartbeat_interval=0.4)) as client:
        identity = Identity(model="org/parallel", tensor_parallel_size=2)
        async with client.publish({"w": bytes(1000)}, model=identity) as source:
            print(source.rank, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def rank(server: LiveServer, number: int) -> Iterator[subprocess.Popen[str]]:
    """A process of a replica of two, as a launcher of torch.distributed starts it."""
    launched = {"RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": 29500}
    settings = {"PEERLOAD_SERVER": server.address, **{name: str(value) for name, value in launched.items()}}
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(settings)
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_replica_that_loses_a_rank_shows_it() -> None:
    with LiveServer("memory:", environment={"PEERLOAD_PROBE_AFTER": "1"}) as server, Rpc(server.start().address) as rpc:
        at = ("--server", server.address)
        with rank(server, 0) as first, rank(server, 1) as second:
            for process, number in ((first, "0"), (second, "1")):
                assert process.stdout is not None
                assert process.stdout.readline().strip() == number
            rpc.publish(publication("stock/known", "a", tensor_parallel_size=2, pipeline_parallel_size=1))
            rpc.publish(publication("stock/unknown", "a"))
            rpc.publish(publication("stock/unknown", "b", rank=1))
            lines = peerload("sources", *at).stdout.splitlines()
            shown = {line.split()[0]: line for line in lines}
            assert " 2/2 ranks " in shown["org/parallel"]
            assert " 1/2 ranks " in shown["stock/known"]
            assert " 2 ranks " in shown["stock/unknown"]
            assert "/2" not in shown["stock/unknown"]
            second.kill()

            def sources() -> list[sources_pb2.Source]:
                request = sources_pb2.ListRequest(selector=sources_pb2.Selector(model_name="org/parallel"))
                return list(rpc.call("/peerload.v1.SourceService/List", request, sources_pb2.ListResponse).sources)

            eventually(
                lambda: (
                    {source.worker_rank for source in sources() if source.status == p2p_pb2.SOURCE_STATUS_STALE} == {1}
                ),
                what="the killed rank to be found out",
            )
            assert " 1/2 ranks " in peerload("sources", "org/parallel", *at).stdout
            told = peerload("show", "org/parallel", *at).stdout
            assert "replica  1/2 ranks  not ready: 1  10.0.0.1:29500\n" in told
            records = json.loads(peerload("sources", "org/parallel", "--json", *at).stdout)
            assert [
                (each["worker_rank"], each["replica"], each["world_size"], each["suspect"]) for each in records
            ] == [
                (0, "10.0.0.1:29500", 2, False),
                (1, "10.0.0.1:29500", 2, False),
            ]


def worker(number: int, replica: str = "", size: int = 0, *, ready: bool = True, copy: int = 0) -> SourceInfo:
    message = sources_pb2.Source(
        source_id="s", worker_id=f"{replica}-{number}-{copy}", worker_rank=number, replica=replica, world_size=size
    )
    message.status = p2p_pb2.SOURCE_STATUS_READY if ready else p2p_pb2.SOURCE_STATUS_STALE
    return SourceInfo.from_wire(message, now=0)


@pytest.mark.parametrize(
    ("workers", "text", "styles"),
    [
        ([worker(0, size=1, copy=copy) for copy in range(3)], "3", []),
        ([worker(0, copy=copy) for copy in range(3)], "3", []),
        ([worker(rank, "a", 8) for rank in range(8)], "8/8 ranks", []),
        ([worker(rank, name, 2) for name in "abc" for rank in range(2)], "3 × 2/2 ranks", []),
        (
            [worker(rank, name, 3, ready=(name, rank) != ("a", 1)) for name in "abc" for rank in range(3)],
            "2 × 3/3 ranks, 2/3 ranks",
            ["yellow"],
        ),
        ([worker(rank, "a", 2, ready=False) for rank in range(2)], "0/2 ranks", ["red"]),
        ([worker(rank, size=8, copy=copy) for copy in range(3) for rank in range(8)], "24 (8/8 ranks)", []),
        ([worker(rank) for rank in range(6)], "6 ranks", []),
        ([worker(0, "a", 8)], "1/8 ranks", ["yellow"]),
    ],
)
def test_how_many_there_are(workers: list[SourceInfo], text: str, styles: list[str]) -> None:
    shown = ranks_text(workers)
    assert shown.plain == text
    assert [str(span.style) for span in shown.spans if span.style] == styles


def test_a_suspect_one_is_named() -> None:
    suspect = SourceInfo.from_wire(sources_pb2.Source(status=p2p_pb2.SOURCE_STATUS_READY, suspect=True), now=0)
    assert standing(suspect).plain == "ready (suspect)"
    assert standing(worker(0)).plain == "ready"


def test_runs_of_numbers() -> None:
    assert _numbers([0, 3, 4, 5, 7]) == "0, 3-5, 7"
    assert _numbers(range(0, 100, 2)) == ", ".join(map(str, range(0, 24, 2))) + ", …"


@pytest.mark.parametrize(
    ("width", "columns"), [(200, ["A", "B", "C", "D"]), (40, ["A", "B", "D"]), (30, ["A", "D"]), (5, ["A"])]
)
def test_a_narrow_terminal_gets_fewer_columns(monkeypatch: pytest.MonkeyPatch, width: int, columns: list[str]) -> None:
    monkeypatch.setattr(console, "out", lambda: Console(file=io.StringIO(), width=width))
    made = console.table("A", "B", "C", "D", right=("D",))
    made.add_row("a" * 10, "b" * 15, "-", "d" * 10)
    made.add_row("a" * 10, "", "-", "d" * 10)
    made = console.fitted(made, "B", "C", "D")
    assert [column.header for column in made.columns] == columns
    if "D" in columns:
        assert (made.columns[-1].justify, list(made.columns[-1].cells)) == ("right", ["d" * 10] * 2)
