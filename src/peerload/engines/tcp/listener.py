"""The one thread that accepts connections, hears their greetings, and watches those on which nothing is under way.

A connection costs a thread only while a read is under way on it. Strangers who connect and say nothing, or the wrong
thing, cost a descriptor for a few seconds, and there is a bound to how many of them there are.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from peerload.clock import Clock
from peerload.engines.tcp import protocol, sockets
from peerload.engines.tcp.protocol import Refusal

__all__ = ["Limits", "Listener", "Served"]

_SWEEP: Final = 0.5
_BREATHER: Final = 0.1
"""Seconds without accepting after the system had no descriptor or memory for one more connection."""
_ACCEPTS: Final = 64
"""Connections accepted before others get their turn."""
_WORDS: Final = {
    Refusal.RETIRED: "these weights are no longer offered",
    Refusal.FORBIDDEN: "it gives its memory to its own user's processes only, and to those of users that it was told of",
}


class Limits(Protocol):
    """What a listener asks of its engine's settings; `peerload.engines.tcp.settings.LineSettings` has the meanings."""

    @property
    def max_connections(self) -> int: ...

    @property
    def max_pending(self) -> int: ...

    @property
    def handshake_timeout(self) -> float: ...

    @property
    def idle_timeout(self) -> float: ...


class Served(Protocol):
    """A connection that has been greeted. `peerload.engines.tcp.serving.Serving` is one."""

    sock: socket.socket

    def run(self) -> bool: ...

    def stop(self) -> None: ...


class _Pending:
    """A connection that has not said yet what it wants."""

    __slots__ = ("heard", "since")

    def __init__(self, since: float) -> None:
        self.heard = b""
        self.since = since


class Listener:
    """Accepts on a listening socket and runs what `welcome` makes of a greeting."""

    def __init__(
        self,
        sock: socket.socket,
        welcome: Callable[[socket.socket, bytes, bytes], Served | Refusal],
        settings: Limits,
        clock: Clock,
    ) -> None:
        self._listening = sock
        self._welcome = welcome
        self._settings = settings
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            sockets.track(end)
            end.setblocking(False)
        self._pending: dict[socket.socket, _Pending] = {}
        self._parked: dict[socket.socket, tuple[Served, float]] = {}
        self._lock = threading.Lock()
        self._serving: dict[Served, threading.Thread] = {}
        self._returned: deque[Served] = deque()
        self._resume_at: float | None = None
        self._closing = False
        self._selector.register(sock, selectors.EVENT_READ)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="peerload-tcp-accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more, end every connection, and wait for the threads. Twice is allowed."""
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join()
        # The thread that could have started others is over.
        with self._lock:
            for served in self._serving:
                served.stop()
            threads = list(self._serving.values())
        for thread in threads:
            thread.join()

    # The thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                for key, _ in self._selector.select(self._patience()):
                    sock = key.fileobj
                    if sock is self._listening:
                        self._accept()
                    elif sock is self._wake_out:
                        self._collect()
                    elif isinstance(sock, socket.socket):
                        self._heard_from(sock)
                self.sweep()
        finally:
            self._selector.close()
            with self._lock:
                # From here on connections that come back are closed where they are.
                self._closing = True
                returned = [served.sock for served in self._returned]
            for sock in (self._listening, *self._pending, *self._parked, *returned):
                sock.close()
            self._wake_in.close()
            self._wake_out.close()

    def sweep(self) -> None:
        """Drop whoever has been silent for too long. (The listener's own thread calls it.)"""
        now = self._clock.monotonic()
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
            self._selector.register(self._listening, selectors.EVENT_READ)
        # Both tables are in the order of time, so the first that may stay ends the search.
        while self._pending:
            sock, pending = next(iter(self._pending.items()))
            if now - pending.since < self._settings.handshake_timeout:
                break
            self._drop(sock)
        while self._parked:
            sock, (_, since) = next(iter(self._parked.items()))
            if now - since < self._settings.idle_timeout:
                break
            self._drop(sock)

    def _patience(self) -> float | None:
        if self._resume_at is not None:
            return _BREATHER
        return _SWEEP if self._pending or self._parked else None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # Gone again before it was accepted.
            except OSError:
                # No descriptor or no memory for one more. It stays in the queue; make room and come back to it.
                self._make_room()
                self._selector.unregister(self._listening)
                self._resume_at = self._clock.monotonic() + _BREATHER
                return
            sockets.track(sock)
            sock.setblocking(False)
            if len(self._pending) >= self._settings.max_pending:
                self._drop(next(iter(self._pending)))
            self._pending[sock] = _Pending(self._clock.monotonic())
            self._selector.register(sock, selectors.EVENT_READ)

    def _make_room(self) -> None:
        for table in (self._pending, self._parked):
            oldest = next(iter(table), None)
            if oldest is not None:
                self._drop(oldest)
                return

    def _drop(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        self._pending.pop(sock, None)
        self._parked.pop(sock, None)
        sock.close()

    def _heard_from(self, sock: socket.socket) -> None:
        parked = self._parked.pop(sock, None)
        if parked is not None:
            self._selector.unregister(sock)
            self._serve(parked[0])
            return
        pending = self._pending.get(sock)
        if pending is None:
            return  # Dropped since the selector saw it.
        try:
            heard = sock.recv(protocol.GREETING.size - len(pending.heard))
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        pending.heard += heard
        if not heard or not protocol.is_greeting(pending.heard):
            self._drop(sock)
        elif len(pending.heard) == protocol.GREETING.size:
            self._greeted(sock, pending.heard)

    def _greeted(self, sock: socket.socket, said: bytes) -> None:
        _, version, _, publication, secret = protocol.GREETING.unpack(said)
        if version != protocol.VERSION:
            self._refuse(sock, Refusal.VERSION, f"this source speaks version {protocol.VERSION}, not {version}")
            return
        with self._lock:
            serving = len(self._serving)
        if serving + len(self._parked) + len(self._returned) >= self._settings.max_connections:
            # Connections kept for later make room for one that wants something now.
            if not self._parked:
                self._refuse(sock, Refusal.BUSY, "it serves as many readers as it takes, try again later")
                return
            self._drop(next(iter(self._parked)))
        served = self._welcome(sock, publication, secret)
        if isinstance(served, Refusal):
            self._refuse(sock, served, _WORDS.get(served, "it offers no such weights"))
            return
        self._pending.pop(sock)
        self._selector.unregister(sock)
        self._serve(served)

    def _refuse(self, sock: socket.socket, refusal: Refusal, text: str) -> None:
        with contextlib.suppress(OSError):  # Nothing was sent before, so it fits; else the other side is gone.
            sock.send(protocol.refused(refusal, text), socket.MSG_NOSIGNAL)
        self._drop(sock)

    # Threads that serve.

    def _serve(self, served: Served) -> None:
        thread = threading.Thread(target=self._serve_one, args=(served,), name="peerload-tcp-serve", daemon=True)
        with self._lock:
            self._serving[served] = thread
        try:
            sockets.adopt(served.sock)
            thread.start()
        except (OSError, RuntimeError):
            # The other side is gone, or there are no threads to be had: it looks like a lost connection over there.
            with self._lock:
                del self._serving[served]
            served.sock.close()

    def _serve_one(self, served: Served) -> None:
        kept = False
        try:
            kept = served.run()
        finally:
            with self._lock:
                del self._serving[served]
                if kept and not self._closing:
                    self._returned.append(served)
                    self._wake()
                else:
                    # With the lock held, so that `close` has not gone on to believe that this one is over.
                    served.sock.close()

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_out.recv(4096):
                pass
        with self._lock:
            returned, self._returned = self._returned, deque()
        for served in returned:
            served.sock.setblocking(False)
            self._parked[served.sock] = (served, self._clock.monotonic())
            self._selector.register(served.sock, selectors.EVENT_READ)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # Full of wake-ups already, or closed.
            self._wake_in.send(b"w")
