"""One source and several readers of an engine, all of them killed, stopped and let go on at random, and what must hold meanwhile.

- A read that is called done has the source's bytes, every one of them.
- Nothing is written into a destination after its read was abandoned.
- A source that was killed is replaced within seconds, and one that goes on is as good as before.
- No process is left behind, and no process gathers descriptors.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil
import xxhash

from peerload.testing.engine_process import EngineProcess, until
from peerload.testing.engine_worker import content

MIB = 1 << 20
SIZES = [6 * MIB, 0, 1, *([4_999] * 200), 3 * MIB]
PATIENCE = 2.0
"""Seconds after which an engine is to give a silent peer up."""
_ROOM = 12
"""Descriptors that a reader may hold more at one time than at another: connections, and what it was passed or has mapped."""


@dataclass
class Chaos:
    """One run. `settings` are the engine's, under which it gives up after `PATIENCE`; `shared` where it serves only memory that
    can be shared; `maps` where it maps; `children` where it works in child processes, which are then killed and stopped as well."""

    engine: str
    seconds: float
    seed: int
    settings: dict[str, Any]
    shared: bool = False
    maps: bool = False
    children: bool = False
    readers: int = 6
    seen: Counter[str] = field(default_factory=Counter)
    """How often what happened."""
    slowest: float = 0.0
    """Seconds that a source took at most until it had published."""
    wrong: list[str] = field(default_factory=list)
    """What must not happen, and did."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _offered: tuple[list[str], int] | None = None
    _pids: set[psutil.Process] = field(default_factory=set)

    def run(self) -> None:
        """Until the time is up; every process has ended then."""
        threads = [threading.Thread(target=self._guard, args=(self._source,))]
        threads += [threading.Thread(target=self._guard, args=(self._reader, number)) for number in range(self.readers)]
        for thread in threads:
            thread.start()
        self._over.wait(self.seconds)
        self._over.set()
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                self.wrong.append(f"{thread.name} does not come to an end")
        with contextlib.suppress(AssertionError):
            until(lambda: not self._left(), "every process ending", 20)
        self.wrong += [f"{process.pid} was left behind" for process in self._left()]

    def _left(self) -> list[psutil.Process]:
        return [process for process in self._pids if _runs(process)]

    def _guard(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:
            self.wrong.append(f"{act.__name__}{arguments}: {type(error).__name__}: {error}")
            self._over.set()

    def _note(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def _known(self, worker: EngineProcess) -> None:
        """Remember a process and those that it started, which may be orphans by the end."""
        with contextlib.suppress(psutil.NoSuchProcess):
            this = psutil.Process(worker.pid)
            with self._lock:
                self._pids |= {this, *this.children(recursive=True)}

    # The source.

    def _source(self) -> None:
        rng = random.Random(f"{self.seed} source")
        seed = 0
        while not self._over.is_set():
            with EngineProcess(self.engine, self.settings) as worker:
                seed += 1
                begun = time.monotonic()
                found = worker.ask("publish", seed=seed, sizes=SIZES, shared=self.shared)
                # (Who is asked and does not answer for a minute fails the run.)
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self._offered = found["descriptor"], seed
                self._note("sources")
                self._known(worker)
                self._live(worker, rng)
                self._known(worker)
                if self._over.is_set():
                    worker.resume()
                    until(lambda worker=worker: worker.ask("load") == 0, "the source being idle")  # type: ignore[misc]
                    status = worker.leave()
                    if status:
                        self.wrong.append(f"the source left with {status}")
                else:
                    worker.kill()
                    self._note("sources killed")

    def _live(self, worker: EngineProcess, rng: random.Random) -> None:
        for _ in range(rng.randint(1, 4)):
            if self._over.wait(rng.uniform(0.2, 2.0)):
                return
            if self.children and rng.random() < 0.4:
                self._harm_child(worker, rng)
            if rng.random() < 0.6:
                worker.stop()
                self._note("sources stopped")
                self._over.wait(rng.choice((0.1, 0.5, PATIENCE + 1)))
                if rng.random() < 0.3:
                    return  # Killed while it stands still.
                worker.resume()

    def _harm_child(self, worker: EngineProcess, rng: random.Random) -> None:
        """Kill or stop one that serves or reads. It is below the process that starts them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            servers = psutil.Process(worker.pid).children()
            found = [each for server in servers for each in server.children()]
            if found:
                how = rng.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP))
                rng.choice(found).send_signal(how)
                self._note("children stopped" if how == signal.SIGSTOP else "children killed")

    # A reader.

    def _reader(self, number: int) -> None:
        rng = random.Random(f"{self.seed} reader {number}")
        while not self._over.is_set():
            with EngineProcess(self.engine, self.settings) as worker:
                self._read_on(worker, rng)
                self._known(worker)
                if not self._over.is_set():
                    worker.kill()
                    self._note("readers killed")
                    continue
                status = worker.leave()
                if status:
                    self.wrong.append(f"a reader left with {status}")

    def _read_on(self, worker: EngineProcess, rng: random.Random) -> None:
        held: int | None = None
        aside: list[int] = []
        for turn in range(rng.randint(2, 30)):
            while self._offered is None and not self._over.wait(0.02):
                pass
            if self._over.is_set() or self._offered is None:
                return
            descriptor, seed = self._offered
            if self.children and rng.random() < 0.1:
                self._harm_child(worker, rng)
            if self.maps and rng.random() < 0.3:
                self._judge("map", worker.ask("try_map", descriptor=descriptor, deadline=10), seed)
            else:
                aside += self._one_read(worker, rng, descriptor, seed)
            if turn == 1:
                self._known(worker)
            if rng.random() < 0.2:
                for job in aside:
                    worker.ask("abandon", job=job)
                    worker.ask("forget", job=job)
                aside = []
                now = worker.ask("usage")["descriptors"]
                held = now if held is None else held
                if now > held + (3 * _ROOM if self.children else _ROOM):
                    self.wrong.append(f"a reader that held {held} descriptors holds {now}")

    def _one_read(self, worker: EngineProcess, rng: random.Random, descriptor: list[str], seed: int) -> list[int]:
        """Start a read, and see it to one of several ends; the jobs that are left to run beside others."""
        ranges = [[index, 0, size] for index, size in enumerate(SIZES)]
        answer = worker.ask("try_read", descriptor=descriptor, ranges=ranges, deadline=10)
        if "refused" in answer:
            self._note("reads refused")
            return []
        job = answer["job"]
        what = rng.random()
        if what < 0.1:
            return [job]  # To be killed in the middle, or to go on beside the next one.
        if what < 0.3:
            self._over.wait(rng.uniform(0, 0.1))
            worker.ask("abandon", job=job)
            self._note("reads abandoned")
            self._over.wait(rng.uniform(0, 0.3))
            if not worker.ask("untouched", job=job):
                self.wrong.append("a destination was written to after its read was abandoned")
        elif what < 0.4:
            worker.stop()
            self._note("readers stopped")
            self._over.wait(rng.choice((0.1, 0.5, PATIENCE + 1)))
            worker.resume()
            self._judge("read", worker.ask("ended", job=job), seed)
        else:
            self._judge("read", worker.ask("ended", job=job), seed)
        worker.ask("forget", job=job)
        return []

    def _judge(self, what: str, result: dict[str, Any], seed: int) -> None:
        if result["state"] != "done":
            self._note(f"{what}s failed")
            return
        self._note(f"{what}s done")
        if result["found"] != expected(seed):
            self.wrong.append(f"a {what} that was called done has other bytes than source {seed}")


_expected: dict[int, list[str]] = {}


def expected(seed: int) -> list[str]:
    """The digests of what the source of that seed publishes."""
    if seed not in _expected:
        _expected[seed] = [xxhash.xxh3_128_hexdigest(data) for data in content(seed, SIZES)]
    return _expected[seed]


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
