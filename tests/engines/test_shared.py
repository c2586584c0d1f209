"""Memory in memfds: found again from any view, sealed, freed, and a forked child's own."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from peerload.engines import shared
from peerload.engines.shared import address_of, allocate_arena, allocate_shared, map_sealed, seal, shared_place
from peerload.errors import InvalidArgument

MIB = 1024 * 1024
PAGE = mmap.PAGESIZE


def descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def in_child(does: Callable[[], None]) -> None:
    """Run it in a forked child, which must come to its end."""
    pid = os.fork()
    if not pid:
        try:
            does()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("nbytes", [1, PAGE, 256 * 1024, 256 * 1024 + 1, 3 * MIB + 5])
def test_memory_is_zero_aligned_and_found_again(nbytes: int) -> None:
    view = allocate_shared(nbytes, "weights")
    assert view.nbytes == nbytes
    assert not view.readonly
    assert not any(view)
    assert address_of(view) % PAGE == 0
    view[-1:] = b"x"
    place = shared_place(view)
    assert place is not None
    assert os.pread(place.fd, nbytes, place.offset) == view
    last = shared_place(view[-1:].toreadonly())
    assert last == (place.fd, place.offset + nbytes - 1)


def test_other_memory_is_nowhere() -> None:
    view = allocate_shared(MIB)
    private = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for other in (bytearray(10), b"read only", private):
        assert shared_place(memoryview(other)) is None
    assert shared_place(view[:0]) is None
    assert shared_place(allocate_shared(0)) is None
    with pytest.raises(InvalidArgument, match="nbytes"):
        allocate_shared(-1)


def test_small_pieces_lie_together_and_apart_from_each_other() -> None:
    before = descriptors()
    pieces = [allocate_shared(1 + index * 1009 % 20_000) for index in range(3_000)]
    for index, piece in enumerate(pieces):
        piece[:] = bytes([index % 251]) * len(piece)
    assert all(piece == bytes([index % 251]) * len(piece) for index, piece in enumerate(pieces))
    assert descriptors() < before + 20
    assert len({shared_place(piece) for piece in pieces}) == len(pieces)


def test_the_size_is_sealed_and_the_bytes_are_not() -> None:
    view = allocate_shared(MIB)
    place = shared_place(view)
    assert place is not None
    seals = fcntl.fcntl(place.fd, fcntl.F_GET_SEALS)
    assert seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    for size in (0, 2 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(place.fd, size)
    os.pwrite(place.fd, b"told", 5)
    assert view[5:9] == b"told"
    assert not os.get_inheritable(place.fd)


def test_it_is_freed_with_the_last_view() -> None:
    before = descriptors()
    view = allocate_shared(MIB)
    part = view[7:9]
    place = shared_place(part)
    assert place is not None
    del view
    assert os.fstat(place.fd).st_size == MIB
    del part
    assert descriptors() == before


def test_addresses_that_are_used_again_are_not_taken_for_what_was_there() -> None:
    for _ in range(50):
        view = allocate_shared(MIB)
        address = address_of(view)
        del view
        other = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        assert shared_place(memoryview(other)) is None
        if address_of(memoryview(other)) == address:
            break
    else:
        pytest.skip("the kernel never gave the same addresses again")


def test_sealed_memory_is_immutable_to_everybody_and_goes_on_here() -> None:
    view = allocate_shared(3 * MIB)
    view[:4] = b"kept"
    place = shared_place(view)
    assert place is not None
    before = mmap.mmap(place.fd, 3 * MIB, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    assert seal([view[MIB : 2 * MIB], view[:0], view[:4]]) == [(place.fd, MIB), None, (place.fd, 0)]
    for flags in (os.O_RDWR, os.O_WRONLY):
        with pytest.raises(PermissionError):
            os.pwrite(os.open(f"/proc/self/fd/{place.fd}", flags), b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(place.fd, 3 * MIB)
    assert view[:4] == b"kept"
    assert seal([view]) == [place]
    view[:4] = b"mine"
    assert view[:4] == b"mine"
    assert before[:4] == os.pread(place.fd, 4, 0) == b"kept"
    with pytest.raises(InvalidArgument, match=r"regions\[0\].* written to"):
        seal([view[2 * MIB :]])


def test_a_mapping_of_sealed_memory_is_ones_own_where_one_writes() -> None:
    view = allocate_arena(MIB - 1)
    view[:4] = b"same"
    [place] = seal([view])
    assert place is not None
    before = descriptors()
    mapped = map_sealed(os.dup(place.fd))
    assert (mapped[:4], mapped.nbytes) == (b"same", MIB - 1)
    found = shared_place(mapped)
    assert found is not None
    assert os.path.sameopenfile(found.fd, place.fd)
    assert seal([mapped]) == [found]
    mapped[-1:] = b"x"
    assert view[-1:] == b"\0"
    with pytest.raises(InvalidArgument, match="written to"):
        seal([mapped])
    del mapped
    assert descriptors() == before


def test_only_what_is_sealed_is_mapped() -> None:
    before = descriptors()
    place = shared_place(view := allocate_arena(MIB))
    assert place is not None
    with pytest.raises(InvalidArgument, match="could change"):
        map_sealed(os.dup(place.fd))
    with pytest.raises(InvalidArgument, match="could change"):
        map_sealed(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    empty = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(empty, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    with pytest.raises(OSError, match="cannot be mapped"):
        map_sealed(empty)
    del view
    assert descriptors() == before


def test_what_cannot_be_sealed_is_refused() -> None:
    good, small = allocate_arena(10), allocate_shared(10)
    for other in (memoryview(b"read only"), small, memoryview(bytearray(10))):
        with pytest.raises(InvalidArgument, match=r"regions\[1\].* shared memory"):
            seal([good, other])
    good[:1] = b"x"
    place = shared_place(good)
    assert place is not None
    assert os.pread(place.fd, 1, 0) == b"x"  # A refusal has sealed nothing.


def test_what_another_process_may_write_to_is_refused_and_no_longer_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_SEAL_TRIES", 3)
    view = allocate_arena(MIB)
    view[:4] = b"kept"
    place = shared_place(view)
    assert place is not None
    other = mmap.mmap(place.fd, MIB)
    with pytest.raises(InvalidArgument, match="another process"):
        seal([view])
    other[:4] = b"lost"
    assert view[4:8] == bytes(4)
    view[:4] = b"mine"
    assert other[:4] == b"lost"
    assert shared_place(view) is None


def test_sealing_waits_for_a_program_that_is_being_started() -> None:
    view = allocate_arena(MIB)
    place = shared_place(view)
    assert place is not None
    other = mmap.mmap(place.fd, MIB)
    timer = threading.Timer(0.1, other.close)
    timer.start()
    assert seal([view]) == [place]
    timer.join()


def test_a_forked_child_writes_to_memory_of_its_own() -> None:
    view, small = allocate_shared(MIB), allocate_shared(10)
    view[:6] = small[:6] = b"parent"

    def child() -> None:
        assert (view[:6], small[:6]) == (b"parent", b"parent")
        assert shared_place(view) is None
        view[:6] = small[:6] = b"child."
        fresh = allocate_shared(10)
        fresh[:6] = b"child."
        assert shared_place(fresh) is not None

    in_child(child)
    assert (view[:6], small[:6]) == (b"parent", b"parent")
    assert allocate_shared(10)[:6] == bytes(6)


def test_a_fork_while_others_allocate_leaves_the_child_able_to() -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            shared_place(allocate_shared(512 * 1024))
            allocate_shared(10)

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            in_child(lambda: [shared_place(allocate_shared(size)) for size in (10, MIB)].clear())
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_where_there_are_no_more_descriptors_it_is_said() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many"):
            allocate_shared(MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_memory_is_accounted_strictly_it_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "is_accounted_strictly", lambda: True)
    place = shared_place(allocated := allocate_shared(3 * MIB))
    assert place is not None
    assert os.fstat(place.fd).st_blocks * 512 >= allocated.nbytes


def test_it_has_its_name_and_goes_without_a_word_at_exit() -> None:
    code = (
        "from pathlib import Path\n"
        "from peerload.engines.shared import allocate_shared\n"
        "kept = [allocate_shared(1 << 20, 'peerload weights'), allocate_shared(10)]\n"
        "assert 'memfd:peerload weights' in Path('/proc/self/maps').read_text()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_counted_only_once_touched() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    before = resident()
    view = allocate_shared(64 * MIB)
    assert resident() < before + 8 * MIB
    view[: 32 * MIB] = bytes(32 * MIB)
    assert resident() >= before + 30 * MIB
