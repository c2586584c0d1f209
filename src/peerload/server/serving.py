"""A server as a process: until a signal, and then to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from peerload.heap import keep_freed_memory
from peerload.server import logs
from peerload.server.app import Server
from peerload.server.listening import SharedPort
from peerload.server.settings import Settings

__all__ = ["Membership", "serve"]

_log = structlog.get_logger("peerload.server")

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_MAX_DESCRIPTORS: Final = 1 << 20
_SWITCH_SECONDS: Final = 0.0002
"""How long a thread that wants the interpreter lets another go on. With Python's 5 ms a thread of a busy server that writes a
publication, and asks for the interpreter a dozen times on the way, waited up to 50 ms in all; now up to 20."""

_KEPT_BYTES: Final = 8 * 1024 * 1024
"""Free memory that is kept: room for a few large messages on their way."""

_YOUNG: Final = 10_000
"""Objects that are made before the collector looks at them. At its default of 700 it looked at each batch of heartbeats many
times, for a fifteenth of what a heartbeat costs; what is in cycles here is little and small."""


class Membership(Protocol):
    """What a process that is one of several has to do with the others."""

    port: SharedPort
    leaving: bool
    """Whether the others go on serving when this one stops."""

    async def attend(self, stop: Callable[[str], None]) -> None:
        """Run as a task from before the start, and until the end, of the server. `stop` is what a signal does."""
        ...

    def started(self, server: Server) -> None:
        """Told once it serves."""
        ...


async def serve(settings: Settings, *, membership: Membership | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once. SIGUSR1 has the log tell everything,
    SIGUSR2 what the settings say.

    Raises what `Server.start` raises.
    """
    _raise_descriptor_limit()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(_YOUNG)
    keep_freed_memory(_KEPT_BYTES)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(reason: str) -> None:
        if not told.is_set():
            _log.info("told to stop", signal=reason)
            told.set()

    def stop_by_signal(number: signal.Signals) -> None:
        stop(number.name)
        for each in _STOPS:
            # Not through the event loop: it may be what hangs. Everything acknowledged is durable.
            loop.remove_signal_handler(each)
            signal.signal(each, lambda again, _: os._exit(128 + again))

    # Of several processes the parent has the terminal's.
    for number in _STOPS if membership is None else (signal.SIGTERM,):
        loop.add_signal_handler(number, stop_by_signal, number)
    logs.follow_signals(settings.log_level)
    server = Server(settings, port=None if membership is None else membership.port)
    attending = None if membership is None else asyncio.create_task(membership.attend(stop), name="peerload-membership")
    starting = asyncio.create_task(server.start())
    stopping = asyncio.create_task(told.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        if told.is_set():
            return
        raise
    # What is there by now stays. Collections that looked at it each time would hold up every call for tens of milliseconds.
    gc.collect()
    gc.freeze()
    knowing = asyncio.create_task(_keep_what_was_listed(server), name="peerload-listed")
    if membership is not None:
        membership.started(server)
    failing = asyncio.create_task(server.failed())
    try:
        await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
    finally:
        knowing.cancel()
        stopping.cancel()
        failing.cancel()
        await server.stop(leave=membership is not None and membership.leaving)
        if attending is not None:
            attending.cancel()


async def _keep_what_was_listed(server: Server) -> None:
    """Set the records of the first listing aside like everything that was there before: of a large fleet they are most of it."""
    await server.backend.health_changed(False)
    gc.freeze()


def _raise_descriptor_limit() -> None:
    """Every connection is a descriptor, and the default limit of 1,024 is a small fleet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            _log.debug("raised the limit of open files", before=soft, now=wanted)
