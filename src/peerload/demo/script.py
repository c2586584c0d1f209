"""What happens in the demo, scene by scene, and what it must have shown at the end.

Every actor is a process of its own that runs a `peerload` command as a user would; the demo follows their JSON lines,
kills two of them with SIGKILL on the way, and judges by the files alone.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from peerload.cli.text import duration, plural, rate, size
from peerload.client import AsyncClient, ClientSettings, Selector
from peerload.clock import Clock
from peerload.demo.child import Child, ChildFailed, Event
from peerload.demo.compare import FileCheck, ForwardCheck, compare_files, compare_forward
from peerload.demo.stage import Stage
from peerload.demo.weights import MODEL_NAME

__all__ = ["Outcome", "Pull", "Script"]

SERVER: Final = "server"
FIRST: Final = "replica-0"
TARGETS: Final = ("replica-1", "replica-2", "replica-3")

# Two zones, so that it is not left to chance who reads from whom: a target prefers a source of its own zone and rack.
_PLACES: Final[Mapping[str, str]] = {
    FIRST: "zone=east,host=east-0",
    "replica-1": "zone=west,host=west-1",
    "replica-2": "zone=east,rack=r2,host=east-2",
    "replica-3": "zone=east,rack=r2,host=east-3",
}
_SERVER_PATIENCE_S: Final = 60.0
"""As long as for anything else that a process is to do here."""


@dataclass(frozen=True, slots=True)
class Pull:
    """What one replica's pull came to: bytes by the name of the source that they came from, and what was checked."""

    replica: str
    sources: Mapping[str, int]
    moved: int
    seconds: float
    verified: str


@dataclass(slots=True)
class Outcome:
    """What the demo has shown. `problems` are sentences; it succeeded if there is none."""

    pulls: list[Pull] = field(default_factory=list)
    files: list[FileCheck] = field(default_factory=list)
    forward: list[ForwardCheck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Script:
    """One run of the demo, over the model's files in `original`.

    `throttle` is the rate, in bytes a second, to which the first two sources are held, so that there is a middle
    to kill them in. `engine` is the one by which all of them read, "" for whichever they choose.
    """

    def __init__(self, original: Path, stage: Stage, clock: Clock, *, throttle: int, engine: str = "") -> None:
        self._original = original
        self._stage = stage
        self._clock = clock
        self._throttle = throttle
        self._engine = engine
        self.outcome = Outcome()
        self._children: list[Child] = []
        self._names: dict[str, str] = {}
        self._listen = f"127.0.0.1:{_free_port()}"

    async def play(self) -> Outcome:
        """Run every scene. Raises `ChildFailed` where a process does not do its part; ends every process either way."""
        with tempfile.TemporaryDirectory(prefix="peerload-demo-") as scratch:
            try:
                await self._scenes(Path(scratch))
            finally:
                # Whatever happened, and also while being cancelled, no process outlives the demo.
                await asyncio.gather(*(child.kill() for child in self._children))
        return self.outcome

    async def _scenes(self, scratch: Path) -> None:
        settings = ClientSettings(patience=_SERVER_PATIENCE_S, call_timeout=_SERVER_PATIENCE_S)
        async with AsyncClient(self._listen, settings=settings) as client:
            self._stage.scene("A server, and a replica that starts before anybody has the weights")
            server = await self._serve(scratch, client)
            early = await self._pull("replica-1", scratch, throttled=True)
            await early.until(_is("waiting"), "waiting")
            self._stage.say("replica-1 asks for the weights: nobody has them, so it waits to be told")

            self._stage.scene("The first source appears; the waiting replica is told, pulls, and becomes a source")
            first = await self._share(scratch)
            await self._finished(early)

            self._stage.scene("The source is killed in the middle of a pull, then the server too")
            second = await self._pull("replica-2", scratch)
            await second.until(self._has_read(FIRST, 0.3), f"30 % read from {FIRST}")
            await first.kill()
            self._stage.say(f"{FIRST} is killed (SIGKILL, pid {first.pid}) while replica-2 reads from it", "red")
            await second.until(self._has_read("replica-1", 0.6), "60 % read, on from replica-1")
            before = await self._listed(client)
            await server.kill()
            self._stage.say(f"the server is killed (SIGKILL, pid {server.pid}); replica-2 reads on", "red")
            await self._serve(scratch, client)
            await self._still_listed(client, before)
            await self._finished(second)

            self._stage.scene("The last replica has only peers to pull from")
            await self._finished(await self._pull("replica-3", scratch))
            await self._judge_engines(client)

            self.judge_pulls()
            self._stage.scene("Are they the files, and do they compute the same?")
            copies = {name: self._folder(scratch, name) for name in TARGETS}
            self.outcome.files = await asyncio.to_thread(compare_files, self._original, copies)
            self.outcome.forward = await asyncio.to_thread(compare_forward, self._original, copies["replica-3"])
            self.judge_copies()
            await self._leave(client)

    async def _serve(self, scratch: Path, client: AsyncClient) -> Child:
        store = scratch / "peerload.sqlite"
        begun = self._clock.monotonic()
        again = store.exists()
        command = ["serve", "--listen", self._listen, "--store", f"sqlite:{store}", "--metrics", "off"]
        server = await self._start(SERVER, command, scratch)
        answered = asyncio.ensure_future(client.find(Selector()))
        ended = asyncio.ensure_future(server.ended())
        await asyncio.wait([answered, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not answered.done():
            answered.cancel()
            raise ChildFailed(f"the server ended{server.last_words()}")
        await answered
        took = duration(self._clock.monotonic() - begun)
        how = "is back, on the same file" if again else f"listens on {self._listen}, its records in a file (sqlite)"
        self._stage.say(f"the server {how} (pid {server.pid}, {took})", "green" if again else "")
        return server

    async def _share(self, scratch: Path) -> Child:
        command = ["share", str(self._original), "--model", MODEL_NAME, "--limit-rate", str(self._throttle)]
        source = await self._start(FIRST, command, scratch)
        sharing = await source.until(_is("sharing"), "sharing")
        self._stage.say(
            f"{FIRST} shares {plural(sharing['files'], 'file')}, {size(sharing['bytes'])} (pid {source.pid}), held to "
            f"{rate(self._throttle, 1)} for you to see something"
        )
        return source

    async def _pull(self, name: str, scratch: Path, *, throttled: bool = False) -> Child:
        command = ["pull", MODEL_NAME, "--local-dir", str(self._folder(scratch, name)), "--share", "--wait", "60"]
        if throttled:
            command += ["--limit-rate", str(self._throttle)]
        return await self._start(name, command, scratch)

    async def _finished(self, target: Child) -> None:
        """Wait until a target has pulled, verified, and is a source itself; remember what it says of that."""
        pulled = await target.until(_is("pulled"), "pulled")
        self._stage.settled(target.name)
        sources = {self._name_of(source["worker_id"]): int(source["bytes"]) for source in pulled["sources"]}
        verified = pulled["verified"]
        if verified["unchecked_items"] or verified["bytes"] != pulled["bytes_total"]:
            self.outcome.problems.append(f"{target.name} did not verify everything: {verified}")
        text = f"{verified['items']} items by {verified['algorithm']}"
        pull = Pull(target.name, sources, pulled["bytes_moved"], pulled["seconds"], text)
        self.outcome.pulls.append(pull)
        parts = " and ".join(f"{size(count)} from {name}" for name, count in sources.items())
        self._stage.say(
            f"{pull.replica} has the weights: {parts}, in {duration(pull.seconds)} "
            f"({rate(pull.moved, pull.seconds)}), all verified",
            "green",
        )
        await target.until(_is("sharing"), "a source itself")
        self._stage.say(f"{target.name} is a source now")

    async def _listed(self, client: AsyncClient) -> set[str]:
        return {self._name_of(record.worker_id) for record in await client.find(Selector(model=MODEL_NAME))}

    async def _still_listed(self, client: AsyncClient, before: set[str]) -> None:
        after = await self._listed(client)
        if lost := before - after:
            self.outcome.problems.append(f"after the server's restart it no longer lists {', '.join(sorted(lost))}")
        self._stage.say(f"listed before: {', '.join(sorted(before))}; after: {', '.join(sorted(after))}")
        if FIRST in after:
            self._stage.say(
                f"({FIRST} is listed until its heartbeat runs out; who tries it moves on to the next)", "dim"
            )

    def judge_pulls(self) -> None:
        """Whether the scenes were what they were meant to be: who read from whom."""
        for pull in self.outcome.pulls:
            expected = {"replica-1": {FIRST}, "replica-2": {FIRST, "replica-1"}}.get(pull.replica)
            names = {name for name, count in pull.sources.items() if count}
            if expected is not None and names != expected:
                self.outcome.problems.append(
                    f"{pull.replica} read from {', '.join(sorted(names))} and not from {', '.join(sorted(expected))}"
                )
            elif expected is None and (FIRST in names or not names):
                self.outcome.problems.append(f"{pull.replica} did not read from peers alone")

    async def _judge_engines(self, client: AsyncClient) -> None:
        """Whether everybody serves by the engine that was asked for, and so nobody read by another."""
        for record in await client.find(Selector(model=MODEL_NAME)):
            if self._engine and record.engines != (self._engine,):
                self.outcome.problems.append(f"{self._name_of(record.worker_id)} serves by {', '.join(record.engines)}")

    def judge_copies(self) -> None:
        self.outcome.problems += [
            f"{check.path} differs in {', '.join(check.differing)}" for check in self.outcome.files if check.differing
        ]
        self.outcome.problems += [
            f"the forward pass differs for {check.first!r}" for check in self.outcome.forward if not check.identical
        ]

    async def _leave(self, client: AsyncClient) -> None:
        """Everybody leaves in good order: SIGTERM, exit status 0, and their records withdrawn."""
        replicas = [child for child in self._children if child.name != SERVER and child.running]
        gone = {child.name for child in replicas}
        statuses = await asyncio.gather(*(child.stop() for child in replicas))
        left = await self._listed(client) & gone
        for child, status in zip(replicas, statuses, strict=True):
            if status or child.name in left:
                self.outcome.problems.append(
                    f"{child.name} left with status {status}{' and is still listed' * (child.name in left)}"
                    f"{child.last_words()}"
                )
        for server in [child for child in self._children if child.name == SERVER and child.running]:
            if status := await server.stop():
                self.outcome.problems.append(f"the server left with status {status}{server.last_words()}")

    async def _start(self, name: str, command: list[str], scratch: Path) -> Child:
        settings = {"MX_HEARTBEAT_INTERVAL_SECS": "1", "PEERLOAD_TOPOLOGY": _PLACES.get(name, "")}
        if self._engine:
            settings["PEERLOAD_ENGINES"] = self._engine
        if name != SERVER:
            command = [*command, "--json", "--server", self._listen]
        child = await Child.start(name, command, cwd=scratch, settings=settings, on_event=self._on_event)
        self._children.append(child)
        return child

    def _on_event(self, child: Child, event: Event) -> None:
        match event.get("event"):
            case "sharing":
                self._names[event["worker_id"]] = child.name
            case "progress":
                source = self._name_of(event["worker_id"])
                self._stage.moving(child.name, source, event["bytes_done"], event["bytes_total"])
            case "attempt":
                source = self._name_of(event["worker_id"])
                self._stage.say(f"{child.name} moved on from {source}: {event['error']}", "yellow")

    def _has_read(self, source: str, part: float) -> Any:
        """Accepts progress beyond `part` of all bytes, the last of them from `source`."""

        def accepts(event: Event) -> bool:
            return (
                event.get("event") == "progress"
                and self._name_of(event["worker_id"]) == source
                and event["bytes_done"] >= part * event["bytes_total"]
            )

        return accepts

    def _name_of(self, worker_id: str) -> str:
        return self._names.get(worker_id, worker_id[:8])

    def _folder(self, scratch: Path, name: str) -> Path:
        return scratch / name


def _is(kind: str) -> Any:
    return lambda event: event.get("event") == kind


def _free_port() -> int:
    """A port that was free a moment ago: the server must come back on the same one, so the system cannot choose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
