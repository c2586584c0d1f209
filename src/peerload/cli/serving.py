"""What `share` and `pull --share` have in common: a source that serves until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Final, Protocol

from peerload.cli.console import err, print_json, remark, say
from peerload.cli.text import clean, plural, size

if TYPE_CHECKING:
    from peerload.client import AsyncSource, SourceEvent

__all__ = ["StopSignal", "announce", "serve", "state_changed"]

_LOOK_S: Final = 1.0


class StopSignal:
    """SIGINT and SIGTERM, from when this is made: the first asks to stop, a second one ends the process as usual."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._ask)

    def _ask(self) -> None:
        self._asked.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    async def wait(self) -> None:
        """Return once asked to stop."""
        await self._asked.wait()


def announce(source: AsyncSource, as_json: bool) -> None:
    """Say that the source can be read from now."""
    manifest = source.manifest
    files = manifest.checkpoint.files if manifest.checkpoint else ()
    total = manifest.checkpoint.total_size if manifest.checkpoint else manifest.total_size
    if as_json:
        print_json(
            {
                "event": "sharing",
                "model": source.identity.model,
                "revision": source.identity.revision,
                "source_id": source.source_id,
                "worker_id": source.worker_id,
                "addresses": list(source.addresses),
                "content": manifest.checkpoint.content if manifest.checkpoint else "",
                "files": len(files),
                "items": len(manifest.items),
                "bytes": total,
            }
        )
    else:
        say(
            f"Sharing {clean(source.identity.model)}: {size(total)} in {plural(len(files), 'file')}, "
            f"source {source.source_id}, worker {source.worker_id[:8]}, at {', '.join(source.addresses)}.",
            "green",
        )


def state_changed(event: SourceEvent, as_json: bool) -> None:
    """Tell of a server that went away and came back."""
    if as_json:
        print_json({"event": "state", "state": event.state.value, "reason": event.reason})
    elif event.state.value == "starting":
        remark(f"{clean(event.reason)}.", "dim")
    elif event.state.value == "unreachable":
        remark(f"No heartbeat gets through ({clean(event.reason)}); serving on, and trying again.", "yellow")
    elif event.state.value == "live" and event.reason:
        remark(f"Heartbeats get through again: {clean(event.reason)}.", "green")


class _Served(Protocol):
    @property
    def load(self) -> float: ...

    async def close(self) -> None: ...


async def serve(source: _Served, stop: StopSignal, as_json: bool) -> None:
    """Serve until asked to stop, then withdraw. On a terminal, a live line says how busy the source is."""
    waiting = asyncio.ensure_future(stop.wait())
    try:
        if sys.stderr.isatty() and not as_json:
            remark("Ctrl-C stops it.", "dim")
            with err().status("") as status:
                while not waiting.done():
                    busy = f"load {100 * source.load:.0f} %" if source.load else "idle"
                    status.update(f"[dim]serving, {busy}[/dim]")
                    await asyncio.wait([waiting], timeout=_LOOK_S)
        await waiting
    finally:
        waiting.cancel()
        await source.close()
    if as_json:
        print_json({"event": "withdrawn"})
    else:
        say("Withdrawn.")
