"""Memory that other processes of this host can be given: arenas, each a memfd that is mapped here.

A target publishes on what it pulled, and a child process may have to fill it, so engines allocate memory of which both can be
given by passing a descriptor. `shared_place` finds the descriptor again, from any view of such memory.

- One arena is one memfd and one mapping, two descriptors in all; small pieces lie in one arena together. It goes with the
  last view of it.
- Its size is sealed when it is made: nobody who is given the descriptor can truncate it under those who map it.
- `seal` makes its bytes immutable for everybody and for good. This process may go on writing to its memory all the same: what it
  writes to becomes its own, page by page, and is no longer what the memfd holds. `map_sealed` is the same at the other end.
- It counts as memory of this process as anonymous memory does (of the cgroup that touched it first, as shared memory). Where
  the kernel accounts strictly it is reserved at once, since touching it would else end in SIGBUS where a private mapping is
  refused.
- A forked child's writes stay its own, as with any other memory: the parent may have published it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from peerload.engines.pages import (
    address_of,
    addresses_of,
    is_accounted_strictly,
    make_memfd,
    make_private,
    was_written_to,
)
from peerload.errors import InvalidArgument

__all__ = [
    "SharedPlace",
    "address_of",
    "allocate_arena",
    "allocate_shared",
    "is_current",
    "is_sealable",
    "is_sealed",
    "is_writable",
    "map_sealed",
    "seal",
    "shared_place",
    "shared_places",
]

_SMALL: Final = 256 * 1024
"""Bytes up to which pieces are put together."""
_TOGETHER: Final = 64 * _SMALL
"""Bytes of an arena of small pieces. Those that nobody asks for take no memory."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SEAL_TRIES: Final = 100
_SEAL_PAUSE_S: Final = 0.01
"""A program that another thread starts shares this process's writable mappings until it is executed."""


class SharedPlace(NamedTuple):
    """Where a view of host memory lies: in which memfd, and how many bytes from its beginning."""

    fd: int
    """Open as long as the memory is referenced; who needs it longer duplicates it."""
    offset: int


@dataclass(slots=True)
class _Arena:
    """Where a memfd is mapped whole."""

    start: int
    end: int
    fd: int
    together: bool = False
    """Whether it holds small pieces of several owners."""
    sealed: bool = False
    """Whether its bytes are immutable, and the mapping private."""


_lock = threading.Lock()
_arenas: list[_Arena] = []
"""Those of this process, by address, with some that have gone."""
_gone: deque[int] = deque()
"""Where arenas began that are still to be struck off."""


class _Mapping(mmap.mmap):
    arena: _Arena | None = None

    # At exit modules lose their names before this is called for the last time.
    def __del__(self, *, gone: deque[int] = _gone, close: Callable[[int], None] = os.close) -> None:
        if self.arena is not None:
            # Before it is unmapped: nothing that is put at these addresses next is taken for it. Without the lock, for a
            # garbage collection may come here on a thread that holds it.
            gone.append(self.arena.start)
            close(self.arena.fd)


_together, _sealing = threading.Lock(), threading.Lock()
_rest = memoryview(bytearray())
"""What is left of the arena in which small pieces are put."""


def allocate_shared(nbytes: int, name: str = "peerload") -> memoryview:
    """Zero-filled writable memory in a memfd, page-aligned; freed with its last reference.

    `name` is for people, who find it in /proc/PID/maps; small pieces share one. Raises OSError where the kernel has no memfds,
    or this process is allowed no more descriptors or memory.
    """
    global _rest
    if nbytes < 0:
        raise InvalidArgument("nbytes", "must not be negative")
    if not nbytes:
        return memoryview(bytearray())
    if nbytes > _SMALL:
        return allocate_arena(nbytes, name)
    room = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    with _together:
        if len(_rest) < room:
            _rest = _allocate(_TOGETHER, "peerload", together=True)
        piece, _rest = _rest[:nbytes], _rest[room:]
    return piece


def allocate_arena(nbytes: int, name: str = "peerload") -> memoryview:
    """The same in an arena of its own, however small, as `seal` needs it; at least 1 byte."""
    return _allocate(nbytes, name, together=False)


def map_sealed(fd: int) -> memoryview:
    """All of somebody's memfd that nobody can change any more.

    It can be written to: what is written to becomes this process's own, page by page. The descriptor is taken over, also
    if this raises: OSError where it cannot be mapped, `InvalidArgument` where it is not a memfd so sealed.
    """
    nbytes = os.fstat(fd).st_size
    if not is_sealed(fd, nbytes):
        os.close(fd)
        raise InvalidArgument("fd", "is of memory that could change or shrink under those who map it")
    return _map(fd, nbytes, flags=mmap.MAP_PRIVATE, sealed=True)


def is_sealed(fd: int, nbytes: int) -> bool:
    """Whether it is a memfd of that size that nobody can change any more."""
    try:
        return os.fstat(fd).st_size == nbytes and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False


def shared_place(view: memoryview) -> SharedPlace | None:
    """In which memfd the bytes of a contiguous view lie; None for other memory, and for no bytes.

    Of memory that was written to after it was sealed, the memfd holds what was there before.
    """
    if not view.nbytes:
        return None
    start = address_of(view)
    arena = _find(start, view.nbytes)
    return None if arena is None else SharedPlace(arena.fd, start - arena.start)


def shared_places(views: Iterable[memoryview]) -> list[SharedPlace | None]:
    """`shared_place` of each, in a fraction of the time where they are many."""
    views = list(views)
    places: list[SharedPlace | None] = []
    fd = begin = end = 0
    for view, start in zip(views, addresses_of(views), strict=True):
        if not view.nbytes:
            places.append(None)
            continue
        if not begin <= start < end or start + view.nbytes > end:
            arena = _find(start, view.nbytes)
            if arena is None:
                places.append(None)
                continue
            fd, begin, end = arena.fd, arena.start, arena.end
        places.append(SharedPlace(fd, start - begin))
    return places


def is_writable(view: memoryview) -> bool:
    """Whether what another process writes to the memfd is seen in this view: it was not sealed."""
    arena = _find(address_of(view), view.nbytes) if view.nbytes else None
    return arena is not None and not arena.sealed


def is_current(view: memoryview) -> bool:
    """Whether the memfd in which a view lies has what this process sees: not so of memory written to after it was sealed."""
    arena = _find(address_of(view), view.nbytes) if view.nbytes else None
    return arena is not None and not (arena.sealed and was_written_to(arena.start, arena.end))


def is_sealable(view: memoryview) -> bool:
    """Whether the bytes of a view are in an arena of their own, which `seal` may do something about."""
    arena = _find(address_of(view), view.nbytes) if view.nbytes else None
    return arena is not None and not arena.together


def seal(views: Sequence[memoryview]) -> list[SharedPlace | None]:
    """Make the memfds in which these views lie immutable; where each lies (None: no bytes).

    What this process has in memory stays as it is, may be written to, and is no longer shared once it is. Raises `InvalidArgument`
    naming the first of the `regions` whose bytes are in no memfd that can be sealed: ordinary memory, small pieces put
    together, memory that was written to since it was sealed, and memory that another process has mapped to write to.
    """
    places: list[SharedPlace | None] = []
    wanted: dict[int, _Arena] = {}
    with _sealing:
        for index, view in enumerate(views):
            if not view.nbytes:
                places.append(None)
                continue
            start = address_of(view)
            arena = _find(start, view.nbytes)
            if arena is None or arena.together:
                raise InvalidArgument(f"regions[{index}].buffer", "is not in shared memory that can be sealed")
            if arena.start not in wanted:
                wanted[arena.start] = arena
                if arena.sealed and was_written_to(arena.start, arena.end):
                    raise InvalidArgument(f"regions[{index}].buffer", "was written to since it was first published")
            places.append(SharedPlace(arena.fd, start - arena.start))
        for arena in wanted.values():
            _seal(arena)
    return places


def _allocate(nbytes: int, name: str, *, together: bool) -> memoryview:
    fd = make_memfd(name)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        if is_accounted_strictly():
            os.posix_fallocate(fd, 0, nbytes)
    except OSError:
        os.close(fd)
        raise
    return _map(fd, nbytes, flags=mmap.MAP_SHARED, together=together)


def _map(fd: int, nbytes: int, *, flags: int, together: bool = False, sealed: bool = False) -> memoryview:
    try:
        mapping = _Mapping(fd, nbytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        os.close(fd)
        raise OSError(f"{nbytes} bytes cannot be mapped: {error}") from error
    view = memoryview(mapping)
    start = address_of(view)
    mapping.arena = _Arena(start, start + nbytes, fd, together, sealed)
    with contextlib.suppress(
        OSError
    ):  # Kernels decide by a setting of their own whether shared memory gets huge pages.
        mapping.madvise(mmap.MADV_HUGEPAGE)
    with _lock:
        _strike_off()
        insort(_arenas, mapping.arena, key=_start)
    return view


def _find(start: int, nbytes: int) -> _Arena | None:
    with _lock:
        _strike_off()
        at = bisect_right(_arenas, start, key=_start) - 1
        return _arenas[at] if at >= 0 and start + nbytes <= _arenas[at].end else None


def _seal(arena: _Arena) -> None:
    if arena.sealed:
        return
    # In place, so that every view stays good: from here on what is written goes to pages of this process's own, and there is
    # no writable mapping left that would forbid the seal.
    try:
        make_private(arena.start, arena.end, arena.fd)
    except OSError as error:
        raise InvalidArgument("regions", f"cannot be made private: {error.strerror}") from error
    arena.sealed = True
    for left in reversed(range(_SEAL_TRIES)):
        try:
            fcntl.fcntl(arena.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        except OSError as error:
            if left:
                threading.Event().wait(_SEAL_PAUSE_S)
                continue
            # Whoever can write to it may do so whenever he likes: it is no longer what this process has in memory.
            with _lock:
                _arenas.remove(arena)
            text = f"another process has mapped it to write to it ({error.strerror})"
            raise InvalidArgument("regions", text) from error
        return


def _strike_off() -> None:
    while _gone:
        start = _gone.popleft()
        at = bisect_left(_arenas, start, key=_start)
        if at < len(_arenas) and _arenas[at].start == start:
            del _arenas[at]


def _start(arena: _Arena) -> int:
    return arena.start


def _keep_to_itself() -> None:
    """In a forked child: what it writes is neither the parent's memory nor what a descriptor leads to any more."""
    global _lock, _together, _sealing, _rest
    # Another thread of the parent's may have held them.
    _lock, _together, _sealing = threading.Lock(), threading.Lock(), threading.Lock()
    _rest = memoryview(bytearray())
    _strike_off()
    for arena in _arenas:
        if not arena.sealed:
            make_private(arena.start, arena.end, arena.fd)
    _arenas[:] = [arena for arena in _arenas if arena.sealed]


os.register_at_fork(after_in_child=_keep_to_itself)
