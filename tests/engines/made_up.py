"""A driver whose library is made up: it reads another process's memory through /proc, and misbehaves as it is told.

`settings["mode"]` is a file with one word, looked at before everything that it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peerload.clock import SystemClock
from peerload.engines.child.driver import ChildError, Span
from peerload.engines.child.exporter import ChildExporter
from peerload.engines.child.importer import ChildImporter
from peerload.engines.child.settings import ChildSettings

RECIPE = ("tests.engines.made_up", ())


def preload() -> None:
    print("the made-up library says hello")


class _Library:
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._mode = Path(settings["mode"])

    def misbehave(self, where: str) -> None:
        mode, _, place = self._mode.read_text().partition(" ")
        if place != where:
            return
        self._mode.with_suffix(".reached").touch()
        if mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif mode == "hang":
            ctypes.PyDLL(None).pause()  # In C, and with the interpreter's lock.
        elif mode == "sleep":
            time.sleep(1000)
        elif mode == "fail":
            raise ChildError("the made-up library\ndoes not feel like it")
        elif mode == "raise":
            raise ZeroDivisionError("in a library")
        elif mode == "print":
            print("a library prints")
            os.write(1, b"and writes\n")
        elif mode == "leak":
            os.pipe()


class _Source(_Library):
    writes = False

    def offer(self, places: Sequence[Span]) -> bytes:
        self.misbehave("offer")
        return json.dumps({"pid": os.getpid()}).encode()

    def progress(self) -> bool:
        self.misbehave("progress")
        return False


class _Target(_Library):
    def connect(self, reach: bytes) -> None:
        self.misbehave("connect")
        self._pid = json.loads(reach)["pid"]

    def hold(self, span: Span) -> None:
        self.misbehave("hold")

    def drop(self, span: Span) -> None:
        self.misbehave("drop")

    def begin(self, rows: memoryview) -> None:
        self.misbehave("read")
        fd = os.open(f"/proc/{self._pid}/mem", os.O_RDONLY)
        try:
            for at in range(0, len(rows), 5):
                source, _, destination, _, nbytes = rows[at : at + 5]
                into = (ctypes.c_char * nbytes).from_address(destination)
                assert os.preadv(fd, [into], source) == nbytes
        except OSError as error:
            raise ChildError(f"the source's memory: {error.strerror}") from None
        finally:
            os.close(fd)
        self.misbehave("done")


def source(settings: Mapping[str, Any]) -> _Source:
    return _Source(settings)


def target(settings: Mapping[str, Any]) -> _Target:
    return _Target(settings)


class MadeUp:
    """The engine of that library."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._mode = folder / "mode"
        self._settings = ChildSettings(**settings)
        self.behave()

    def behave(self, mode: str = "well", where: str = "") -> None:
        """From now on, at this place."""
        self._mode.write_text(f"{mode} {where}")
        self._mode.with_suffix(".reached").unlink(missing_ok=True)

    def reached(self) -> bool:
        """Whether it has misbehaved."""
        return self._mode.with_suffix(".reached").exists()

    def exporter(self) -> ChildExporter:
        return ChildExporter("made-up", "127.0.0.1", RECIPE, {"mode": str(self._mode)}, self._settings, SystemClock())

    def importer(self) -> ChildImporter:
        words = {"mode": str(self._mode)}
        return ChildImporter("made-up", lambda host: RECIPE, words, self._settings, SystemClock())


def owner() -> None:
    """A process that serves and reads in the middle of a read that never ends, for others to kill."""
    from peerload.engines.base import Range, Region

    engine = MadeUp(Path(sys.argv[1]))
    exporter, importer = engine.exporter(), engine.importer()
    into = importer.allocate(1000)
    published = exporter.publish([Region(memoryview(bytes(1000)))])
    engine.behave("hang", "read")
    importer.open(published.descriptor).read([Range(0, 0, 1000)], [into], deadline=1000)
    while not engine.reached():
        time.sleep(0.01)
    if not os.fork():
        # What a forked child has of its parent's: none of its sockets. It may leave as it likes.
        opened = []
        for each in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(FileNotFoundError):  # The listing's own.
                opened.append(str(each.readlink()))
        print(json.dumps([kind for kind in opened if "socket" in kind or "pidfd" in kind]), flush=True)
        exporter.retire(published)
        sys.exit(0)
    os.wait()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    owner()
