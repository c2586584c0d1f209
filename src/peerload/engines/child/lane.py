"""The one thread of a read: holds the lease, tells the child what to copy, digests what has arrived, and watches the time."""

from __future__ import annotations

import select
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import xxhash

from peerload.clock import Clock
from peerload.engines.child import leases
from peerload.engines.child.leases import request
from peerload.engines.child.message import MAX_FDS
from peerload.engines.child.nursery import Reading
from peerload.engines.child.plan import Plan
from peerload.engines.child.settings import ChildSettings
from peerload.engines.job import LaneJob
from peerload.engines.tcp import sockets
from peerload.engines.tcp.lane import SourceBusy, read_reply
from peerload.engines.tcp.sockets import ConnectionLost
from peerload.errors import Fault, TransferFailed

__all__ = ["Lane"]

_AHEAD: Final = 3
"""Windows that a child has to do at a time: while it copies two, so that there is something on the way at any time, the one before is
digested here."""
_TICK_MS: Final = 250
_STILL_S: Final = 2.0
"""Between two signs of life to the source, while it has nothing to be asked."""


class _Stopped(Exception):
    """The job is over."""


class Lane:
    """A read's work, from its lease to its end. `take` and `give` are where children come from and go to."""

    def __init__(
        self,
        job: LaneJob,
        plan: Plan,
        address: str,
        connect: Callable[[], socket.socket],
        take: Callable[[], Reading],
        give: Callable[[Reading], None],
        settings: ChildSettings,
        clock: Clock,
    ) -> None:
        self._job = job
        self._plan = plan
        self._address = address
        self._connect = connect
        self._take = take
        self._give = give
        self._settings = settings
        self._clock = clock
        self._moved = 0.0
        self._said = 0.0
        self._granted = 0
        """Bytes that may be asked of the child."""
        self._asked = 0
        """Bytes that the source was asked for and has not granted yet."""
        self._index = 0
        """The first range that is not whole."""
        self._start = 0
        """Its bytes that have arrived."""
        self._hasher: Any = None

    def run(self) -> None:
        """Work until everything has arrived or the job is over. Raises nothing: what fails, fails the job."""
        reason = ""
        try:
            sock = self._connect()
            try:
                self._use(sock, self._take())
            finally:
                sock.close()
        except SourceBusy as error:
            reason = str(error)
        except TransferFailed as error:
            self._job.fail(str(error), retryable=error.retryable, fault=error.fault)
        finally:
            self._job.lane_ended(reason, busy=bool(reason))

    def _use(self, sock: socket.socket, reading: Reading) -> None:
        def stop() -> None:
            reading.child.kill()
            sockets.shut(sock)

        destinations = self._job.enter(stop)
        if destinations is None:
            self._give(reading)
            return
        whole = False
        try:
            self._transfer(sock, reading, destinations)
            whole = True
        except _Stopped:
            pass
        except ConnectionLost as error:
            self._job.fail(f"lost the connection to {self._address}: {error}", fault=Fault.LOST)
        except TransferFailed as error:
            busy = isinstance(error, SourceBusy)
            self._job.fail(str(error), retryable=error.retryable, busy=busy, fault=error.fault)
        finally:
            del destinations
            if not whole:
                # Whatever went wrong: what this child has begun is over now, and it begins nothing more.
                reading.child.end()
            self._job.leave(stop)
        if whole:
            self._give(reading)

    def _transfer(self, sock: socket.socket, reading: Reading, destinations: Sequence[memoryview]) -> None:
        self._moved = self._said = self._clock.monotonic()
        reach, addresses, devices = self._look(sock)
        windows = self._plan.windows(addresses, devices, self._prepare(reading, reach))
        left = self._plan.total
        ahead: deque[int] = deque()
        waiting = select.poll()
        waiting.register(sock, select.POLLIN)
        waiting.register(reading.child.sock, select.POLLIN)
        self._moved = self._clock.monotonic()
        while left:
            self._ask(sock, left - sum(ahead) - self._granted)
            while self._granted and len(ahead) < _AHEAD:
                rows, size = windows.take(self._granted)
                if not size:
                    break
                reading.child.order("read", rows)
                self._granted -= size
                ahead.append(size)
            ready = {fd for fd, _ in waiting.poll(_TICK_MS)}
            self._still_wanted()
            # First what the source says: what arrived after it has withdrawn the memory does not count.
            if sock.fileno() in ready:
                granted = read_reply(sock, leases.GRANTED, self._address, self._patient)
                if not 0 < granted <= self._asked:
                    raise TransferFailed(f"{self._address} does not speak this engine's protocol", retryable=False)
                self._asked = 0
                self._granted += granted
                self._moved = self._clock.monotonic()
            if reading.child.sock.fileno() in ready:
                reading.child.answer()
                size = ahead.popleft()
                self._moved = self._clock.monotonic()
                self._arrived(size, destinations)
                left -= size
            if left:
                self._patient()
        # The job is over now, which is no reason not to say so.
        sockets.send_all(sock, request(leases.END), lambda: None)

    def _look(self, sock: socket.socket) -> tuple[bytes, Sequence[int], Sequence[int]]:
        """How the serving child is reached, and the address and the device of each region in it."""
        self._say(sock, leases.LOOK)
        length = read_reply(sock, leases.LOOKED, self._address, self._patient)
        if not leases.LENGTH.size <= length <= leases.MAX_LOOKED:
            raise TransferFailed(f"{self._address} does not speak this engine's protocol", retryable=False)
        body = sockets.receive_exactly(sock, length, self._patient)
        (size,) = leases.LENGTH.unpack_from(body)
        said, rest = body[leases.LENGTH.size : leases.LENGTH.size + size], body[leases.LENGTH.size + size :]
        count = self._plan.regions
        if len(said) != size or len(rest) != (8 + 2) * count:
            raise TransferFailed(f"{self._address} says of other regions than its descriptor", retryable=False)
        return said, array("Q", rest[: 8 * count]), array("H", rest[8 * count :])

    def _prepare(self, reading: Reading, reach: bytes) -> list[int]:
        """Have the child connected to the source and the destinations mapped there. Returns the child's number for each arena."""
        new = [arena for arena in self._plan.arenas if arena.name not in reading.held]
        keep = [arena.name for arena in self._plan.arenas if arena.name in reading.held]
        orders = 0
        if reading.reach != reach:
            reading.child.order("connect", reach)
            reading.reach = reach
            orders += 1
        for at in range(0, max(1, len(new)), MAX_FDS):
            some = new[at : at + MAX_FDS]
            told: dict[str, Any] = {"new": [[arena.name, arena.address, arena.nbytes, arena.device] for arena in some]}
            if not at:
                told["keep"] = keep
            reading.child.order("hold", fds=[arena.fd for arena in some if arena.fd >= 0], **told)
            orders += 1
        # Empty memory of a device has one name, however much there is of it.
        numbers = {name: number for number, name in enumerate(dict.fromkeys([*keep, *(arena.name for arena in new)]))}
        reading.held = frozenset(numbers)
        self._moved = self._clock.monotonic()
        while orders:
            self._still_wanted()
            if self._clock.monotonic() - self._moved > self._settings.start_timeout:
                raise TransferFailed(f"no connection to {self._address} within {self._settings.start_timeout:g} s")
            if _readable(reading.child.sock):
                reading.child.answer()
                orders -= 1
        return [numbers[arena.name] for arena in self._plan.arenas]

    def _ask(self, sock: socket.socket, wanted: int) -> None:
        """Ask the source for what is still to be granted; or just tell it that this reader is alive."""
        if wanted > 0 and not self._asked:
            self._asked = wanted
            self._say(sock, leases.WANT, wanted)
        elif self._clock.monotonic() - self._said > _STILL_S:
            self._say(sock, leases.STILL)

    def _say(self, sock: socket.socket, kind: int, amount: int = 0) -> None:
        self._said = self._clock.monotonic()
        sockets.send_all(sock, request(kind, amount), self._patient)

    def _arrived(self, size: int, destinations: Sequence[memoryview]) -> None:
        """So many bytes more are in place: in the order of the ranges."""
        left = size
        whole: list[tuple[int, bytes | None]] = []
        while left:
            view = destinations[self._index]
            begin = self._start
            now = min(left, view.nbytes - begin)
            left -= now
            if self._plan.on_device:
                # Nobody here can look at it; whoever needs its digest has the means.
                if begin + now < view.nbytes:
                    self._start = begin + now
                    break
                if view.nbytes:
                    whole.append((self._index, None))
                self._index, self._start = self._index + 1, 0
                continue
            if begin or begin + now < view.nbytes:
                if self._hasher is None:
                    self._hasher = xxhash.xxh3_128()
                with view[begin : begin + now] as piece:
                    self._hasher.update(piece)
                if begin + now < view.nbytes:
                    self._start = begin + now
                    break
            if view.nbytes:
                digest = xxhash.xxh3_128_digest(view) if self._hasher is None else self._hasher.digest()
                whole.append((self._index, digest))
            self._index, self._start, self._hasher = self._index + 1, 0, None
        del view
        self._job.arrived(size, whole)

    def _still_wanted(self) -> None:
        if self._job.over:
            raise _Stopped
        if self._job.seconds_left <= 0:
            self._job.poll()  # Finds the deadline passed and fails the job.

    def _patient(self) -> None:
        self._still_wanted()
        if self._clock.monotonic() - self._moved > self._settings.progress_timeout:
            text = f"nothing came from {self._address} for {self._settings.progress_timeout:g} s"
            raise TransferFailed(text, fault=Fault.STALLED)


def _readable(sock: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(_TICK_MS))
