"""Children, as their owner holds them."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeAlias

from peerload.engines.child import message
from peerload.engines.child.message import Message
from peerload.errors import TransferFailed

__all__ = ["Child", "ChildDied", "Recipe", "spawn"]

_SPAWN_S: Final = 60.0
"""For a fork server to import its library, on a machine that is busy."""
_STATUS_S: Final = 2.0


class ChildDied(TransferFailed):
    """The child ended, or had to be ended, while something was asked of it."""


Recipe: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""What children of one fork server have in common: the driver's module, and what is changed in their environment."""


class Child:
    """Who does an engine's work, on the other end of a socket. `kill` may be called from any thread; the rest by one at a time."""

    def __init__(self, what: str, sock: socket.socket) -> None:
        self._what = what
        self.sock = sock
        """To wait on for answers."""

    @property
    def pid(self) -> int:
        """The process that it is in."""
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        raise NotImplementedError

    def kill(self) -> None:
        """Have it end, without waiting. Nothing if it has ended."""
        raise NotImplementedError

    def end(self) -> None:
        """Have it end and wait until it is gone: nothing that it did goes on. Twice is allowed."""
        raise NotImplementedError

    def order(self, do: str, payload: bytes = b"", fds: Sequence[int] = (), **words: Any) -> None:
        """Tell it something. Raises `ChildDied`, or what it answered last."""
        try:
            message.send(self.sock, {"do": do, **words}, payload, fds)
        except ConnectionError:
            # What it had to say before it went is in the answers to what it was told before.
            while True:
                self.answer()

    def answer(self) -> Message:
        """Its next answer. Blocks; raises `ChildDied` where there will be none, `TransferFailed` for a no."""
        try:
            found = message.receive(self.sock)
        except OSError as error:
            # What the library or its peers made of the child is not to be trusted further.
            self.kill()
            raise ChildDied(f"{self._what} talks nonsense: {error}") from error
        if found is None:
            raise self._died()
        if "error" in found.words:
            raise TransferFailed(f"{self._what}: {found.words['error']}", retryable=bool(found.words.get("retryable")))
        return found

    def ask(self, do: str, payload: bytes = b"", fds: Sequence[int] = (), *, patience: float, **words: Any) -> Message:
        """Tell it something and wait for the answer. Where none comes within `patience` seconds it is killed, `ChildDied`."""
        self.order(do, payload, fds, **words)
        if not _readable(self.sock, patience):
            self.kill()
            raise ChildDied(f"{self._what} did not answer for {patience:g} s")
        return self.answer()

    def _died(self) -> ChildDied:
        return ChildDied(f"{self._what} is gone")


class _Process(Child):
    """A child process."""

    def __init__(self, server: _ForkServer, what: str, pid: int, pidfd: int, sock: socket.socket) -> None:
        super().__init__(what, sock)
        self._server = server
        self._pid = pid
        self._pidfd = pidfd
        self._lock = threading.Lock()
        self._closed = False
        _open.add(self)

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def alive(self) -> bool:
        return not self._closed and not _readable(self._pidfd, 0)

    def kill(self) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._closed:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # Its mappings are gone when this returns. Without a time limit on purpose: a killed process ends, and to return
            # earlier would be a lie.
            _readable(self._pidfd, None)
        self._server.bury(self._pid)
        self.forget()

    def forget(self) -> None:
        """Let go of it without a word: in a forked child of the owner, whose it is not."""
        self._closed = True
        _open.discard(self)
        self.sock.close()
        os.close(self._pidfd)

    def _died(self) -> ChildDied:
        _readable(self._pidfd, _STATUS_S)
        status = None if self.alive else self._server.status(self._pid)
        if status is None:
            how = "is gone"
        elif status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        return ChildDied(f"{self._what} {how}")


def spawn(recipe: Recipe, role: str, what: str, settings: Mapping[str, Any]) -> Child:
    """A new child that is a "source" or a "target"; `what` it is, for people. Raises `ChildDied`."""
    try:
        server = _server_for(recipe)
    except OSError as error:
        raise ChildDied(f"{what} could not be started: {error.strerror}") from None
    return server.spawn(role, what, settings)


class _ForkServer:
    """The owner's side of `peerload.engines.child.forkserver`."""

    def __init__(self, recipe: Recipe) -> None:
        self._lock = threading.Lock()
        self._number = 0
        """Of the last question."""
        self._sock, other = message.pair()
        module, environment = recipe
        command = [
            sys.executable,
            "-P",
            "-m",
            "peerload.engines.child.forkserver",
            module,
            str(other.fileno()),
            str(os.getpid()),
        ]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=2,  # Ours, wherever that leads: libraries print.
                pass_fds=[other.fileno()],
                # It imports from where this process does, and not from the working directory: that may be a folder of somebody else's
                # that is to be shared.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **dict(environment)},
            )

        try:
            self._process = _from_lasting_thread(start)
        except OSError:
            self._sock.close()
            raise
        finally:
            other.close()
        try:
            self._hear(0, _SPAWN_S)
        except ChildDied:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def spawn(self, role: str, what: str, settings: Mapping[str, Any]) -> Child:
        try:
            ours, theirs = message.pair()
        except OSError as error:
            raise ChildDied(f"{what} could not be started: {error.strerror}") from None
        try:
            with self._lock:
                born = self._ask(_SPAWN_S, [theirs.fileno()], do="fork", role=role, settings=dict(settings))
            return _Process(self, what, born.words["pid"], born.fds[0], ours)
        except (ChildDied, OSError):
            ours.close()
            self.close()  # The next one gets a new server.
            raise ChildDied(f"{what} could not be started") from None
        finally:
            theirs.close()

    def status(self, pid: int) -> int | None:
        """How a child that has ended did, asked once; None where that is not to be had in a moment."""
        if not self._lock.acquire(timeout=_STATUS_S):
            return None
        try:
            status: int | None = self._ask(_STATUS_S, do="wait", pid=pid).words["status"]
        except (ChildDied, OSError):
            return None
        finally:
            self._lock.release()
        return status

    def bury(self, pid: int) -> None:
        """Have a child that has ended reaped, some time. Never waits: whoever abandons a read is here."""
        with contextlib.suppress(OSError):
            message.send(self._sock, {"do": "bury", "pid": pid}, wait=False)

    def close(self) -> None:
        """End it, and with it all its children."""
        self._process.kill()
        self._process.wait()
        self._sock.close()

    def forget(self) -> None:
        """In a forked child, whose it is not."""
        self._sock.close()
        self._process.returncode = 0  # Not this process's child: nothing to wait for, nothing to warn of.

    def _ask(self, patience: float, fds: Sequence[int] = (), **words: Any) -> Message:
        """With the lock held."""
        self._number += 1
        message.send(self._sock, {"number": self._number, **words}, fds=fds)
        return self._hear(self._number, patience)

    def _hear(self, number: int, patience: float) -> Message:
        """The answer to that question. Late ones to others, which nobody waits for any more, are dropped."""
        while True:
            found = message.receive(self._sock) if _readable(self._sock, patience) else None
            if found is None:
                raise ChildDied("the process that starts children is gone; what it had to say is on standard error")
            if found.words["number"] == number:
                return found
            for fd in found.fds:
                os.close(fd)


def _readable(what: socket.socket | int, seconds: float | None) -> bool:
    waiting = select.poll()
    waiting.register(what, select.POLLIN)
    return bool(waiting.poll(None if seconds is None else max(0.0, seconds) * 1000))


_lock = threading.Lock()
_servers: dict[Recipe, _ForkServer] = {}
_open: weakref.WeakSet[_Process] = weakref.WeakSet()
_wishes: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
_lasting: threading.Thread | None = None


def _server_for(recipe: Recipe) -> _ForkServer:
    with _lock:
        server = _servers.get(recipe)
        if server is None or not server.alive:
            if server is not None:
                server.close()
            server = _servers[recipe] = _ForkServer(recipe)
        return server


def _from_lasting_thread(call: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Run it on a thread that lives as long as this process: what is started dies with the thread that started it."""
    global _lasting
    if _lasting is None:
        _lasting = threading.Thread(target=_grant, name="peerload-children", daemon=True)
        _lasting.start()
    done: Future[Any] = Future()
    _wishes.put((call, done))
    process: subprocess.Popen[bytes] = done.result()
    return process


def _grant() -> None:
    while True:
        call, done = _wishes.get()
        try:
            done.set_result(call())
        except OSError as error:
            done.set_exception(error)


def _own_nothing() -> None:
    # A forked child has neither the threads nor the right; it must not keep the parent's children from noticing its death.
    global _lasting, _lock, _wishes
    _lasting, _lock, _wishes = None, threading.Lock(), queue.SimpleQueue()
    for child in list(_open):
        child.forget()
    for server in _servers.values():
        server.forget()
    _servers.clear()


os.register_at_fork(after_in_child=_own_nothing)
