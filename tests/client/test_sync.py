"""The synchronous client: the same, without an event loop."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import peerload
from peerload import AsyncClient, Client, ClientSettings, Selector
from peerload.client import PullProgress, SourceState
from peerload.errors import InvalidArgument, NoSource
from tests.support.server import LiveServer

QUICK = ClientSettings(patience=0.2, retry_delay=0.01, retire_grace=0.2)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("memory:") as live:
        live.start()
        yield live


def test_publish_pull_and_publish_on(server: LiveServer) -> None:
    mine = {"w": np.arange(1000.0)}
    steps: list[PullProgress] = []
    with Client(server.address, settings=QUICK) as one, Client(server.address, settings=QUICK) as two:
        with one.publish(mine, model="sync/a") as source:
            assert source.state is SourceState.LIVE
            assert source.addresses
            source.beat()
            weights = two.pull("sync/a", publish=True, progress=steps.append)
            assert np.array_equal(weights["w"].numpy(), mine["w"])
            (info, _) = two.find(Selector(model="sync/a"))
            found = two.manifest(info)
            assert (
                bytes(one.read(two.manifest(weights.source.key))["w"]) == mine["w"].tobytes() if weights.source else 0
            )
            assert found.manifest.items[0].name == "w"
        assert source.state is SourceState.CLOSED
        assert weights.source is not None
        with weights.source:
            assert [each.key for each in one.find("sync/a")] == [weights.source.key]
        assert one.find("sync/a") == []
    assert steps[-1].bytes_done == 8000


def test_folders(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with Client(server.address, settings=QUICK) as one, Client(server.address, settings=QUICK) as two:
        with one.share(tmp_path / "model", model="sync/b"):
            folder = two.pull_folder("sync/b", tmp_path / "copy", share=True)
        assert (tmp_path / "copy" / "config.json").read_text() == "{}"
        assert folder.source is not None
        assert folder.source.state is SourceState.LIVE
    assert folder.source.state is SourceState.CLOSED, "the client ends its sources"


def test_watching_and_waiting_in_threads(server: LiveServer) -> None:
    with Client(server.address, settings=QUICK) as client, ThreadPoolExecutor(4) as pool:
        waiting = threading.Semaphore(0)
        other = Client(server.address, settings=QUICK)
        pulls = [pool.submit(other.pull, "sync/c", wait=60, progress=lambda step: waiting.release()) for _ in range(3)]
        for _ in pulls:
            assert waiting.acquire(timeout=30)
        changes = client.watch("sync/c")
        assert next(changes).complete
        with client.publish({"w": b"x"}, model="sync/c") as source:
            assert [bytes(pull.result(30)["w"].memory) for pull in pulls] == [b"x"] * 3
            assert next(changes).present[0].key == source.key
        assert next(changes).gone == (source.key,)
        changes.close()  # type: ignore[attr-defined]
        other.close()


def test_errors_arrive_as_they_are(server: LiveServer) -> None:
    with Client(server.address, settings=QUICK) as client:
        with pytest.raises(NoSource):
            client.pull("sync/none")
        with pytest.raises(InvalidArgument):
            client.publish({}, model="m")

        def calls_back(step: PullProgress) -> None:
            with pytest.raises(RuntimeError, match="callback"):
                client.find()

        with Client(server.address) as other, other.publish({"w": b"x"}, model="sync/d"):
            client.pull("sync/d", progress=calls_back)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.find()


def test_nothing_is_missing_and_nothing_is_written_twice() -> None:
    for name, method in inspect.getmembers(AsyncClient, callable):
        if name.startswith("_"):
            continue
        derived = getattr(Client, name)
        assert derived.__doc__ == method.__doc__ or name == "close"
        assert inspect.signature(derived).parameters.keys() == inspect.signature(method).parameters.keys(), name
    assert "PEERLOAD_SERVER" in (AsyncClient.__doc__ or "")


def test_the_package_gives_the_client_lazily() -> None:
    code = "import sys, peerload; assert 'grpc' not in sys.modules; peerload.Client; assert 'grpc' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert set(peerload.__all__) <= set(dir(peerload))
    with pytest.raises(AttributeError):
        peerload.nothing  # noqa: B018


@pytest.mark.parametrize("closes", [True, False])
def test_a_process_ends_cleanly(server: LiveServer, closes: bool) -> None:
    code = f"""
from peerload import Client
client = Client({server.address!r})
source = client.publish({{"w": b"x"}}, model="sync/e")
client.find()
{"client.close()" if closes else ""}
"""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")


def test_an_interrupted_wait_ends_at_once(server: LiveServer) -> None:
    code = f"""
from peerload import Client
with Client({server.address!r}) as client:
    client.pull("sync/none", wait=600, progress=lambda step: print(step.phase, flush=True))
"""
    waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=30)
    finally:
        waiting.kill()
        waiting.wait()
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert waiting.returncode != 0


def test_a_killed_pull_is_finished_by_the_next(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for index in range(8):
        (tmp_path / "model" / f"part-{index}.txt").write_bytes(bytes([index]) * (1 << 20))
    code = f"""
from peerload import Client
with Client({server.address!r}) as client:
    client.pull_folder("sync/f", {str(tmp_path / "copy")!r}, progress=lambda step: print(step.bytes_done, flush=True))
"""
    slow = {engine: {"max_bytes_per_second": 8 << 20} for engine in ("memfd", "tcp")}
    with Client(server.address, settings=QUICK, engine_settings=slow) as client:
        with client.share(tmp_path / "model", model="sync/f"):
            pulling = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            assert pulling.stdout is not None
            with pulling:
                for line in pulling.stdout:
                    if int(line) >= 3 << 20:
                        pulling.kill()
                        break
            assert [path.name for path in (tmp_path / "copy").iterdir()] == [".peerload"], "no file looks complete"
            with Client(server.address, settings=QUICK) as other:
                folder = other.pull_folder("sync/f", tmp_path / "copy")
    assert 2 << 20 <= folder.bytes_reused < 8 << 20
    assert folder.bytes_moved == (8 << 20) - folder.bytes_reused
    for path in (tmp_path / "model").iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()


def test_what_a_client_gave_may_be_closed_after_it(server: LiveServer) -> None:
    client = Client(server.address, settings=QUICK)
    source = client.publish({"w": b"x"}, model="sync/late")
    changes = client.watch("sync/late")
    assert next(changes).present
    weights = client.iter_weights("sync/late")
    client.close()
    source.close()
    weights.close()
    changes.close()  # type: ignore[attr-defined]
    assert source.state is SourceState.CLOSED


_FORKED = """
import os, sys
from peerload import Client

with Client(sys.argv[1]) as client, client.publish({"w": b"x"}, model="sync/forked") as source:
    own, = client.find("sync/forked")
    if not (pid := os.fork()):
        try:
            client.find()
        except RuntimeError as error:
            print(error)
        source.close()
        client.close()
        print("closed", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    assert [each.key for each in client.find("sync/forked")] == [own.key], "the child has ended nothing of its parent's"
    print("live")
"""


def test_a_forked_child_is_told_that_the_client_is_not_its_own(server: LiveServer) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _FORKED, server.address], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said, *rest = ended.stdout.splitlines()
    assert "forked" in said
    assert rest == ["closed", "live"]
