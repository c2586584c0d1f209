"""Engines in children, with a made-up library that does whatever libraries have been seen to do."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from peerload.engines.base import DeviceMemory, Job, JobState, Progress, Publication, Range, Region
from peerload.engines.child import process
from peerload.engines.child.exporter import ChildExporter
from peerload.engines.child.importer import ChildImporter, ChildReader
from peerload.engines.child.inside import ThreadChild, check_device_destinations, poisoned
from peerload.engines.child.settings import ChildSettings
from peerload.engines.shared import seal
from peerload.errors import Fault, InvalidArgument, Unavailable
from peerload.testing.engine_process import until
from peerload.testing.engine_suite.base import end
from peerload.testing.engine_worker import content
from tests.engines.made_up import MadeUp
from tests.support.stopping import stop

ROOT = Path(__file__).resolve().parents[2]
SIZES = [100_000, 0, 3, 40_000_000]
MARK = b"\xa5"


class Pair:
    """A source and a target with the made-up library."""

    def __init__(self, engine: MadeUp, exporter: ChildExporter, importer: ChildImporter) -> None:
        self.engine = engine
        self.exporter = exporter
        self.importer = importer
        self.data = content(1, SIZES)
        self.published: Publication = exporter.publish([Region(memoryview(each)) for each in self.data])
        self.reader: ChildReader = importer.open(self.published.descriptor)

    @property
    def serving(self) -> int:
        pid = self.exporter.serving(self.published)
        assert pid is not None
        return pid

    def start(self, deadline: float = 60) -> tuple[Job, list[memoryview]]:
        into = [self.importer.allocate(size) for size in SIZES]
        return self.reader.read([Range(i, 0, n) for i, n in enumerate(SIZES)], into, deadline=deadline), into

    def read(self) -> Progress:
        job, into = self.start()
        progress = end(job)
        if progress.state is JobState.DONE:
            assert into == self.data
        return progress


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as tidy:

        def make(**settings: Any) -> Pair:
            engine = MadeUp(tmp_path, **settings)
            exporter, importer = engine.exporter(), engine.importer()
            tidy.callback(exporter.close)
            tidy.callback(importer.close)
            return Pair(engine, exporter, importer)

        yield make
    # Nothing is left of whatever was done.
    until(lambda: not children(), "every child being gone")


def children() -> list[int]:
    """Processes below this one that serve or read."""
    servers = [server._process.pid for server in process._servers.values() if server.alive]
    found = [each.pid for pid in servers for each in psutil.Process(pid).children()]
    return [pid for pid in found if not gone(pid)]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_reads_and_keeps_its_child(pair: Callable[..., Pair]) -> None:
    both = pair()
    assert both.read().state is JobState.DONE
    before = children()
    assert len(before) == 2
    assert both.read().state is JobState.DONE
    assert children() == before
    both.reader.close()
    both.reader = both.importer.open(both.published.descriptor)
    assert both.read().state is JobState.DONE
    assert children() == before


def test_a_closed_reader_leaves_no_mapping_of_what_it_wrote_to(pair: Callable[..., Pair]) -> None:
    both = pair()
    into = both.importer.allocate(SIZES[3])
    assert end(both.reader.read([Range(3, 0, SIZES[3])], [into], deadline=60)).state is JobState.DONE
    both.reader.close()

    def mapped() -> bool:
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in children() if pid != both.serving]
        return any(" rw-s " in line and "memfd:" in line for each in maps for line in each.splitlines())

    until(lambda: not mapped(), "the mapping's end")
    # Nothing keeps it from being sealed, as another engine does to serve it.
    seal([into])
    with pytest.raises(InvalidArgument, match="sealed since"):
        both.importer.open(both.published.descriptor).read([Range(3, 0, SIZES[3])], [into], deadline=60)
    # Sealed, it is served where it is; written to after that, a copy of it is.
    for written in (False, True):
        if written:
            into[:5] = b"other"
        published = both.exporter.publish([Region(into[:1000])])
        again = both.importer.allocate(1000)
        job = both.importer.open(published.descriptor).read([Range(0, 0, 1000)], [again], deadline=60)
        assert end(job).state is JobState.DONE
        assert again == into[:1000]


def test_children_without_work_go_after_a_while(pair: Callable[..., Pair]) -> None:
    both = pair(idle_timeout=0.05)
    assert both.read().state is JobState.DONE
    until(lambda: children() == [both.serving], "the reading child's end")
    assert both.read().state is JobState.DONE


def test_what_a_library_prints_is_on_standard_error(
    pair: Callable[..., Pair], capfd: pytest.CaptureFixture[str]
) -> None:
    for server in list(process._servers.values()):
        server.close()  # One that writes where this test listens.
    both = pair()
    both.engine.behave("print", "read")
    assert both.read().state is JobState.DONE
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello" in err
    assert "and writes" in err
    for server in list(process._servers.values()):
        server.close()


@pytest.mark.parametrize("how", ["hang", "sleep"])
@pytest.mark.parametrize("where", ["read", "connect", "hold", "done"])
def test_abandon_ends_a_read_that_never_returns(pair: Callable[..., Pair], how: str, where: str) -> None:
    both = pair()
    both.engine.behave(how, where)
    job, into = both.start()
    until(both.engine.reached, "a child that is stuck")
    job.abandon()
    assert children() == [both.serving]
    for view in into:
        view[:] = MARK * len(view)
    assert job.poll().state is JobState.FAILED
    assert all(bytes(view) == MARK * len(view) for view in into)
    both.engine.behave()
    assert both.read().state is JobState.DONE


def test_a_read_that_never_returns_fails_for_want_of_progress(pair: Callable[..., Pair]) -> None:
    both = pair(progress_timeout=0.3)
    both.engine.behave("hang", "read")
    progress = both.read()
    assert (progress.state, progress.retryable, progress.fault) == (JobState.FAILED, True, Fault.STALLED)
    assert "nothing came from 127.0.0.1" in progress.reason


@pytest.mark.parametrize("where", ["read", "connect", "hold", "done"])
def test_a_reading_child_that_crashes_fails_its_job(pair: Callable[..., Pair], where: str) -> None:
    both = pair()
    both.engine.behave("crash", where)
    progress = both.read()
    assert (progress.state, progress.retryable) == (JobState.FAILED, True)
    assert progress.reason == "the process that reads with made-up was ended by SIGSEGV"
    both.engine.behave()
    assert both.read().state is JobState.DONE


@pytest.mark.parametrize(
    ("how", "said"), [("fail", "does not feel like it"), ("raise", "ZeroDivisionError: in a library")]
)
def test_what_a_library_says_no_to_is_told_in_one_line(pair: Callable[..., Pair], how: str, said: str) -> None:
    both = pair()
    both.engine.behave(how, "read")
    progress = both.read()
    assert progress.state is JobState.FAILED
    assert said in progress.reason
    assert "\n" not in progress.reason
    # A library that has failed is not asked again: the next read has a fresh one.
    both.engine.behave()
    assert both.read().state is JobState.DONE


def test_a_serving_child_that_died_is_replaced_under_the_same_descriptor(pair: Callable[..., Pair]) -> None:
    both = pair()
    assert both.read().state is JobState.DONE
    first = both.serving
    os.kill(first, signal.SIGKILL)
    assert both.read().state is JobState.DONE
    assert both.serving != first
    assert gone(first)


@pytest.mark.parametrize("how", ["crash", "hang"])
def test_a_serving_child_that_misbehaves_while_it_serves_is_replaced(pair: Callable[..., Pair], how: str) -> None:
    both = pair(answer_timeout=0.3)
    first = both.serving
    both.engine.behave(how, "progress")
    both.read()  # Whether this one fails or not is up to the library.
    both.engine.behave()
    assert both.read().state is JobState.DONE
    assert both.serving != first


def test_a_serving_child_that_is_stopped_is_replaced(pair: Callable[..., Pair]) -> None:
    both = pair(answer_timeout=0.3)
    first = both.serving
    stop(first)
    assert both.read().state is JobState.DONE
    assert gone(first)


def test_a_serving_child_is_recycled_when_nobody_reads(pair: Callable[..., Pair]) -> None:
    both = pair(recycle_after=2)
    both.engine.behave("leak", "progress")
    served = []
    for _ in range(5):
        assert both.read().state is JobState.DONE
        served.append(both.serving)
        until(lambda: both.exporter.load() == 0, "the lease's end")
    assert len(set(served)) == 3


@pytest.mark.parametrize("how", ["fail", "crash", "hang"])
def test_a_publication_that_cannot_be_served_is_none(tmp_path: Path, how: str) -> None:
    engine = MadeUp(tmp_path, **({"start_timeout": 0.3} if how == "hang" else {}))
    engine.behave(how, "offer")
    exporter = engine.exporter()
    with pytest.raises(Unavailable, match="the process that serves with made-up"):
        exporter.publish([Region(memoryview(b"x"))])
    assert children() == []
    exporter.close()
    # With all the time that a child may need.
    exporter = MadeUp(tmp_path).exporter()
    exporter.retire(exporter.publish([Region(memoryview(b"x"))]))
    exporter.close()


def test_retire_ends_the_serving_child(pair: Callable[..., Pair]) -> None:
    both = pair()
    pid = both.serving
    both.engine.behave("hang", "progress")
    both.start()
    until(lambda: both.exporter.load() > 0, "a lease")
    both.exporter.retire(both.published, grace=0.1)
    assert gone(pid)
    progress = both.read()
    assert (progress.state, progress.retryable) == (JobState.FAILED, False)


def test_a_killed_owner_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.engines.made_up", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            assert json.loads(owner.stdout.readline()) == []
            assert owner.stdout.readline() == "ready\n"
            family = psutil.Process(owner.pid).children(recursive=True)
            # The server, who serves and who reads: all as before, whatever became of the forked child.
            until(lambda: len(psutil.Process(owner.pid).children(recursive=True)) == 3, "the reading child")
        finally:
            owner.kill()
    until(lambda: all(gone(each.pid) for each in family), "every process of a killed owner being gone")


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path) -> None:
    """It may be somebody else's model that is to be shared."""
    (tmp_path / "socket.py").write_text("raise SystemExit('not this one')")
    command = [sys.executable, "-P", "-m", "tests.engines.made_up", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        try:
            assert json.loads(owner.stdout.readline()) == []
            assert owner.stdout.readline() == "ready\n"
        finally:
            owner.kill()


def test_a_killed_fork_server_is_replaced(pair: Callable[..., Pair]) -> None:
    both = pair()
    assert both.read().state is JobState.DONE
    family = children()
    for server in process._servers.values():
        server._process.kill()
        server._process.wait()
    until(lambda: all(gone(pid) for pid in family), "its children going with it")
    assert both.read().state is JobState.DONE


def test_a_child_has_nothing_of_its_owner(pair: Callable[..., Pair], tmp_path: Path) -> None:
    secret = os.open(tmp_path / "secret", os.O_CREAT | os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        both = pair()
        assert both.read().state is JobState.DONE
        for pid in children():
            opened = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
            assert not [each for each in opened if "secret" in each]
            # Its own end, and nobody else's.
            assert sum("socket" in each for each in opened) == 1
    finally:
        os.close(secret)


def test_memory_in_memfds_is_served_where_it_is(pair: Callable[..., Pair]) -> None:
    both = pair()
    arena = both.importer.allocate(1_000_000)
    arena[:] = b"1" * len(arena)
    foreign = bytearray(b"1" * 10)
    regions = [arena[500_000:], memoryview(foreign), arena[:10]]
    published = both.exporter.publish([Region(each) for each in regions])
    arena[:] = b"2" * len(arena)
    foreign[:] = b"2" * 10
    into = [both.importer.allocate(each.nbytes) for each in regions]
    reader = both.importer.open(published.descriptor)
    job = reader.read([Range(i, 0, each.nbytes) for i, each in enumerate(regions)], into, deadline=60)
    assert end(job).state is JobState.DONE
    assert [set(each) for each in into] == [{ord("2")}, {ord("1")}, {ord("2")}]


def test_only_memory_that_was_allocated_is_read_into(pair: Callable[..., Pair]) -> None:
    both = pair()
    with pytest.raises(InvalidArgument, match=r"^destinations\[0\]: is not memory that"):
        both.reader.read([Range(0, 0, 3)], [memoryview(bytearray(3))], deadline=60)
    with pytest.raises(InvalidArgument, match=r"^destinations\[0\].device"):
        both.reader.read([Range(0, 0, 3)], [DeviceMemory(4096, 3, 0, None)], deadline=60)


@pytest.mark.parametrize(
    "field", ["port", "max_connections", "recycle_after", "progress_timeout", "max_bytes_per_second"]
)
def test_settings_are_checked(field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{field}:"):
        ChildSettings(**{field: -1})


def test_device_memory_that_may_still_be_written_to_is_refused_until_it_is_not() -> None:
    reading, release = socket.socketpair()
    memory = DeviceMemory(0x1000, 100, 0, object())

    def stuck(sock: socket.socket) -> None:
        reading.recv(1)

    child = ThreadChild("a thread", stuck, [memory])
    child.end()
    assert poisoned() == [memory]
    for address, nbytes, device, refused in (
        (0x1050, 10, 0, True),
        (0x0FFF, 2, 0, True),
        (0x1064, 1, 0, False),
        (0x1000, 9, 1, False),
    ):
        wanted = [Range(0, 0, nbytes)]
        if refused:
            with pytest.raises(InvalidArgument, match=r"^destinations\[0\]: an earlier read that was given up"):
                check_device_destinations(wanted, [DeviceMemory(address, nbytes, device, None)])
        else:
            check_device_destinations(wanted, [DeviceMemory(address, nbytes, device, None)])
    release.send(b"x")
    until(lambda: not poisoned(), "the end of the read")
    reading.close()
    release.close()


def test_device_memory_whose_read_is_over_is_not_refused() -> None:
    child = ThreadChild("a thread", lambda sock: None, [DeviceMemory(0x1000, 100, 0, None)])
    child.end()
    child.end()
    assert poisoned() == []


@pytest.mark.parametrize("lacking", ["pair", "Popen"])
def test_what_cannot_be_started_is_said_in_the_engines_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def lack(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    exporter = MadeUp(tmp_path).exporter()
    owner = process.message if lacking == "pair" else subprocess
    with monkeypatch.context() as patch:
        patch.setattr(process, "_servers", {})
        patch.setattr(owner, lacking, lack)
        with pytest.raises(Unavailable, match="could not be started: Too many open files"):
            exporter.publish([Region(memoryview(b"x"))])
    exporter.close()
