"""What may go wrong between two processes that share memory: users, descriptors, forks, files that shrink, sources that lie."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from peerload.engines.base import Descriptor, JobState, MappingReader, Progress, Range, Region
from peerload.engines.memfd import MemfdEngine, MemfdExporter, MemfdImporter, MemfdSettings, host, open_memfd
from peerload.engines.memfd.protocol import Endpoint, Layout
from peerload.engines.shared import allocate_arena, shared_place
from peerload.errors import Fault, InvalidArgument, TransferFailed
from peerload.testing.engine_process import EngineProcess
from peerload.testing.engine_suite.base import digest, end, whole
from peerload.testing.engine_worker import content, undescribe
from tests.engines.memfd_peers import answer_pages, fake_source, one_region
from tests.engines.test_shared import descriptors, in_child
from tests.support.live import eventually

MIB = 1 << 20
NOBODY = 65_534
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def tidy() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def exporter(tidy: ExitStack, **settings: object) -> MemfdExporter:
    side = open_memfd(**settings).exporter("127.0.0.1")
    tidy.callback(side.close)
    return side


def importer(tidy: ExitStack, **settings: object) -> MemfdImporter:
    side = open_memfd(**settings).importer()
    tidy.callback(side.close)
    return side


def arena(seed: int, *sizes: int) -> list[Region]:
    """Regions in shared memory, each in an arena of its own."""
    regions = []
    for data in content(seed, sizes):
        view = allocate_arena(len(data))
        view[:] = data
        regions.append(Region(view))
    return regions


def read(side: MemfdImporter, descriptor: Descriptor, size: int) -> Progress:
    """Read all of the first region."""
    into = side.allocate(size)
    return end(side.open(descriptor).read([Range(0, 0, size)], [into], deadline=60))


def map_all(side: MemfdImporter, descriptor: Descriptor) -> list[memoryview] | None:
    reader = side.open(descriptor)
    assert isinstance(reader, MappingReader)
    try:
        mapped = reader.map(deadline=60)
        return None if mapped is None else list(mapped)
    finally:
        reader.close()


@root
def test_another_users_process_is_refused_and_no_fault_of_the_sources(tidy: ExitStack) -> None:
    published = exporter(tidy).publish(arena(1, MIB))

    def child() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with ExitStack() as own:
            side = importer(own, allow_uids=(0,))
            progress = read(side, published.descriptor, MIB)
            assert (progress.state, progress.fault) == (JobState.FAILED, Fault.OURS)
            assert "user" in progress.reason
            with pytest.raises(TransferFailed, match="user") as refused:
                map_all(side, published.descriptor)
            assert refused.value.fault is Fault.OURS

    in_child(child)


@root
def test_users_that_a_source_was_told_of_are_let_in(tidy: ExitStack) -> None:
    published = exporter(tidy, allow_uids=(NOBODY,)).publish(arena(2, MIB))

    def child() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with ExitStack() as own:
            # Nor does a target take memory from just anybody.
            progress = read(importer(own), published.descriptor, MIB)
            assert (progress.state, progress.fault) == (JobState.FAILED, Fault.OURS)
            assert map_all(importer(own, allow_uids=(0,)), published.descriptor) == content(2, [MIB])

    in_child(child)


def test_users_that_have_no_number_here_are_nobody(
    tidy: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert host.is_trusted(one, ())
        overflow, mapped = tmp_path / "overflowuid", tmp_path / "uid_map"
        overflow.write_text(f"{os.geteuid()}\n")
        mapped.write_text("         0       1000          1\n")
        monkeypatch.setattr(host, "_OVERFLOW", overflow)
        assert host.is_trusted(one, ())  # All users have their numbers here.
        monkeypatch.setattr(host, "_UID_MAP", mapped)
        assert not host.is_trusted(one, ())


@pytest.mark.parametrize("uid", [-1, 2**32 - 1, "root"])
def test_settings_that_cannot_be(uid: object) -> None:
    with pytest.raises(InvalidArgument, match="allow_uids"):
        open_memfd(allow_uids=[uid])
    with pytest.raises(InvalidArgument, match="copy_limit"):
        MemfdSettings(copy_limit=-1)


def test_a_host_that_cannot_be_told(tidy: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published = exporter(tidy).publish(arena(3, MIB))
    monkeypatch.setattr(host, "_BOOT", tmp_path / "missing")
    with pytest.raises(InvalidArgument, match="/proc"):
        exporter(tidy).publish(arena(3, MIB))
    with pytest.raises(TransferFailed, match="another host") as failure:
        importer(tidy).open(published.descriptor)
    assert failure.value.fault is Fault.OURS


def test_a_source_that_is_gone_says_nothing_about_other_ways(tidy: ExitStack) -> None:
    side = exporter(tidy)
    published = side.publish(arena(4, MIB))
    side.close()
    progress = read(importer(tidy), published.descriptor, MIB)
    assert (progress.state, progress.fault) == (JobState.FAILED, Fault.OURS)


def test_no_room_for_descriptors_at_the_target(tidy: ExitStack) -> None:
    published = exporter(tidy).publish(arena(5, MIB, MIB, MIB))
    side = importer(tidy)
    into = side.allocate(MIB)
    gc.collect()  # what an earlier test left would give its descriptors back in the middle
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Enough for the connection's two ends, and not for what comes with it. Numbers that were given back below the highest
    # are taken first.
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    taken = [os.dup(0)]
    while taken[-1] <= highest:
        taken.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 3, hard))
    os.close(taken.pop())
    try:
        for _ in range(50):
            reader = side.open(published.descriptor)
            progress = end(reader.read([Range(0, 0, MIB)], [into], deadline=60))
            # Both ends look for a moment who the other is, and one may find the number taken; then it hangs up, and is asked again.
            if progress.fault is not Fault.LOST:
                break
            assert progress.retryable
            reader.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    assert (progress.state, progress.fault) == (JobState.FAILED, Fault.OURS), progress
    assert "descriptors" in progress.reason or "open files" in progress.reason
    reader.close()
    assert read(side, published.descriptor, MIB).state is JobState.DONE


def test_a_fork_of_either_side_disturbs_nobody(tidy: ExitStack) -> None:
    regions = arena(6, 4 * MIB)
    published = exporter(tidy).publish(regions)
    views = map_all(importer(tidy), published.descriptor)
    assert views is not None
    source = regions[0].buffer
    assert isinstance(source, memoryview)

    def child() -> None:
        assert views == content(6, [4 * MIB])
        views[0][:4] = source[:4] = b"self"
        with ExitStack() as own:
            assert map_all(importer(own), published.descriptor) == content(6, [4 * MIB])

    in_child(child)
    assert views == content(6, [4 * MIB])
    assert source == content(6, [4 * MIB])[0]
    assert read(importer(tidy), published.descriptor, MIB).state is JobState.DONE


def test_a_file_that_shrinks_fails_the_read_and_kills_nobody(tidy: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    worker = tidy.enter_context(EngineProcess("memfd", {}))
    published = worker.ask("publish", seed=7, sizes=[8 * MIB], path=str(path))
    descriptor = undescribe(published["descriptor"])
    os.truncate(path, 3 * MIB)
    progress = read(importer(tidy), descriptor, 8 * MIB)
    assert (progress.state, progress.retryable) == (JobState.FAILED, False)
    assert "ends too early" in progress.reason
    # The source lets go of the reader in a thread of its own.
    eventually(lambda: worker.ask("load") == 0.0, what="the reader to be let go")
    assert worker.leave() == 0


def test_a_file_that_was_replaced_is_not_taken_for_the_one_that_is_mapped(tidy: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content(8, [MIB])[0])
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    moved = tmp_path / "moved"
    path.rename(moved)
    view = memoryview(mapping)
    exporter(tidy).publish([Region(view)])  # A file that was renamed is found under its new name.
    path.write_bytes(bytes(MIB))
    moved.unlink()
    with pytest.raises(InvalidArgument, match=r"regions\[0\]"):
        exporter(tidy).publish([Region(view)])


def test_files_that_can_be_written_to_through_the_mapping_are_refused(tidy: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(MIB))
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with pytest.raises(InvalidArgument, match=r"regions\[0\]"):
        exporter(tidy).publish([Region(memoryview(mapping))])


def test_a_trainer_that_goes_on_writing_is_not_seen(tidy: ExitStack) -> None:
    regions = arena(9, 2 * MIB)
    source = regions[0].buffer
    assert isinstance(source, memoryview)
    side = exporter(tidy)
    published = side.publish(regions)
    early = map_all(importer(tidy), published.descriptor)
    source[:] = bytes(2 * MIB)
    late = map_all(importer(tidy), published.descriptor)
    assert early == late == content(9, [2 * MIB])
    side.retire(published)
    source[:] = b"x" * (2 * MIB)
    assert early == late == content(9, [2 * MIB])
    with pytest.raises(InvalidArgument, match="written to since"):
        side.publish(regions)


def test_little_ordinary_memory_goes_along_and_much_does_not(tidy: ExitStack) -> None:
    little, much = bytearray(content(10, [1000])[0]), memoryview(bytes(MIB))
    side = exporter(tidy)
    published = side.publish([*arena(10, MIB), Region(memoryview(little))])
    mapped = map_all(importer(tidy), published.descriptor)
    assert mapped is not None
    assert mapped[1] == little
    side.retire(published)
    little.clear()
    for regions in ([*arena(10, MIB), Region(much)], [Region(memoryview(bytearray(10)))]):
        with pytest.raises(InvalidArgument, match=r"regions\[.\].*shared memory"):
            side.publish(regions)
    with pytest.raises(InvalidArgument, match=r"regions\[1\]"):
        exporter(tidy, copy_limit=0).publish([*arena(10, MIB), Region(memoryview(b"x"))])


def test_publications_end_with_their_descriptors(tidy: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(MIB))
    with path.open("rb") as file:
        mapping = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    side, regions = exporter(tidy), arena(11, MIB)
    before = descriptors()
    for _ in range(20):
        side.retire(side.publish([*regions, Region(mapping)]))
        with suppress(InvalidArgument):
            side.publish([Region(mapping), Region(memoryview(bytearray(MIB)))])
    assert descriptors() == before


def test_too_many_arenas_are_left_to_other_engines(tidy: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.engines.memfd.exporter.MAX_ARENAS", 3)
    with pytest.raises(InvalidArgument, match="4 pieces"):
        exporter(tidy).publish(arena(12, 1000, 1000, 1000, 1000))


def memfd(size: int, seals: int = 0) -> int:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE])
def test_memory_that_could_change_or_shrink_is_read_and_never_mapped(tidy: ExitStack, seals: int) -> None:
    fd = memfd(MIB, seals)
    tidy.callback(os.close, fd)
    with fake_source(lambda sock: answer_pages(sock, one_region(MIB), [fd]), (MIB,)) as descriptor:
        assert map_all(importer(tidy), descriptor) is None


def _with_pipe(act: Callable[[int], None]) -> None:
    reading, writing = os.pipe()
    try:
        act(reading)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    "answer",
    [
        lambda sock: answer_pages(sock, one_region(MIB), []),
        lambda sock: answer_pages(sock, one_region(MIB), [0, 1, 2]),
        lambda sock: _with_pipe(lambda fd: answer_pages(sock, one_region(MIB), [fd])),
        lambda sock: answer_pages(sock, b""),
        lambda sock: answer_pages(sock, bytes(10)),
        lambda sock: answer_pages(sock, Layout((MIB,), ((0, 1),)).encode(), [0]),
        lambda sock: answer_pages(sock, Layout((MIB,), ((1, 0),)).encode(), [0]),
        lambda sock: answer_pages(sock, Layout((MIB,), (None,)).encode(), [0]),
        lambda sock: answer_pages(sock, Layout((MIB,), ((0, 0), (0, 0))).encode(), [0]),
        lambda sock: answer_pages(sock, Layout((2**63,) * 2_000, ((0, 0),)).encode()),
    ],
    ids=["none", "three", "pipe", "empty", "short", "beyond", "nowhere", "nothing", "two", "many"],
)
def test_sources_that_lie_are_found_out(tidy: ExitStack, answer: Callable[[socket.socket], None]) -> None:
    before = descriptors()
    with fake_source(answer, (MIB,)) as descriptor:
        side = importer(tidy, progress_timeout=2.0)
        with pytest.raises(TransferFailed):
            map_all(side, descriptor)
        progress = read(side, descriptor, MIB)
        assert progress.state is JobState.FAILED
    side.close()
    assert descriptors() <= before


def test_nobody_can_make_what_was_given_away_change(tidy: ExitStack) -> None:
    published = exporter(tidy).publish(arena(13, MIB))
    views = map_all(importer(tidy), published.descriptor)
    assert views is not None
    place = shared_place(views[0])
    assert place is not None
    with pytest.raises(OSError, match="not permitted") as refused:
        os.pwrite(place.fd, b"x", 0)
    assert refused.value.errno == errno.EPERM
    for size in (0, 2 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(place.fd, size)
    with pytest.raises(PermissionError):
        mmap.mmap(place.fd, MIB)
    assert digest(views[0]) == digest(content(13, [MIB])[0])


def test_addresses_tell_sources_apart() -> None:
    first, second = MemfdEngine().exporter("127.0.0.1"), MemfdEngine().exporter("127.0.0.1")
    try:
        one, other = (side.publish(arena(14, 10)).descriptor for side in (first, second))
        assert one.address != other.address
        endpoint = Endpoint.decode(one)
        assert repr(endpoint.secret)[2:-1] not in repr(endpoint)
        with pytest.raises(TransferFailed, match="contradicts"):
            Endpoint.decode(Descriptor("memfd", other.address, one.data))
    finally:
        first.close()
        second.close()


def test_whole_reads_of_several_arenas(tidy: ExitStack) -> None:
    sizes = [MIB, 1, 3 * MIB + 7]
    published = exporter(tidy).publish(arena(15, *sizes))
    side = importer(tidy)
    into = [side.allocate(size) for size in sizes]
    job = side.open(published.descriptor).read(whole(sizes), into, deadline=60)
    assert end(job).state is JobState.DONE
    assert into == content(15, sizes)
