"""`peerload serve --processes N`: the parent of the processes."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import Final

import structlog
from prometheus_client import Counter

from peerload import __version__
from peerload.clock import Clock, SystemClock
from peerload.errors import PeerloadError
from peerload.plugins import check_shareable
from peerload.server import logs
from peerload.server.addresses import join_address
from peerload.server.listening import SharedPort, listen, parse_listen, reserve
from peerload.server.metrics_http import MetricsPort, start_metrics
from peerload.server.processes.child import Child
from peerload.server.processes.merged import Merged
from peerload.server.processes.place import Place
from peerload.server.readiness import Readiness
from peerload.server.settings import Settings

__all__ = ["Parent", "serve"]

_log = structlog.get_logger("peerload.server")

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


class Parent:
    """The processes that the settings ask for, at one port. Serves nobody itself. Belongs to one event loop."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._readiness = Readiness()
        self._merged = Merged()
        self._metrics_port = MetricsPort(self._merged.registry, self._readiness, self._gather)
        self._restarts = Counter(
            "peerload_process_restarts",
            "Processes that were started again because the one before had ended by itself.",
            ["process"],
            registry=self._merged.registry,
        )
        self._port = SharedPort(())
        self._told = settings
        self._places = [
            Place(
                number,
                partial(self._begin, number),
                clock,
                settings.grace + settings.drain_delay,
                on_restart=self._restarts.labels(str(number)).inc,
            )
            for number in range(1, settings.processes + 1)
        ]
        self._exchange_wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take the port, and start the processes. Raises what keeps the first that cannot from serving."""
        check_shareable(self._settings.store)
        host, port = parse_listen(self._settings.listen)
        # gRPC takes no sockets from others: those only keep the port, for processes that each have their own there.
        take = listen if self._settings.front == "h2corn" else reserve
        sockets = await asyncio.get_running_loop().run_in_executor(None, take, host, port)
        address = join_address(host, sockets[0].getsockname()[1])
        self._port = SharedPort(tuple(sockets))
        self._told = self._settings.model_copy(update={"listen": address, "metrics": "off"})
        metrics, no_metrics = await start_metrics(self._metrics_port, self._settings)
        # The first alone: it finds out what is wrong with the settings, and lays out an empty store.
        await self._places[0].start()
        await asyncio.gather(*(place.start() for place in self._places[1:]))
        self._tasks = [asyncio.create_task(place.run(), name=f"peerload-{place.number}") for place in self._places]
        self._tasks.append(asyncio.create_task(self._exchange_all(), name="peerload-exchange"))
        _log.info(
            "serving",
            listen=address,
            processes=len(self._places),
            metrics=metrics or "off",
            version=__version__,
        )
        if no_metrics:
            _log.warning("no metrics are served; --metrics names another port", reason=no_metrics)

    def exchange(self) -> None:
        """Put new processes in the places of all, one after the other, in the background."""
        self._exchange_wanted.set()

    def signal(self, number: int) -> None:
        """Send all processes that serve a signal."""
        for place in self._places:
            if place.child is not None:
                place.child.signal(number)

    async def failed(self) -> None:
        """Wait until something has ended that never should; raises what it ended with."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError("a process is not kept any more")

    async def stop(self) -> None:
        """Drain all the processes at once, and let the port go."""
        self._readiness.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(place.stop() for place in self._places))
        for each in self._port.sockets:
            each.close()
        await self._metrics_port.stop()
        if self._tasks:
            _log.info("all processes have stopped")

    async def _begin(self, number: int) -> Child:
        return await Child.start(number, self._told, self._port.sockets, self._look)

    async def _exchange_all(self) -> None:
        while True:
            await self._exchange_wanted.wait()
            self._exchange_wanted.clear()
            _log.info("every process is exchanged for a new one")
            for place in self._places:
                try:
                    await place.exchange()
                except (PeerloadError, OSError) as error:
                    _log.error("a new process does not serve; those that are there go on", reason=str(error))
                    break

    def _look(self) -> None:
        """The whole is ready while at least one process can answer, and none accepts connections that cannot."""
        reasons = {
            place.number: place.child.reason
            for place in self._places
            if place.child is not None and place.child.started and not place.child.serving
        }
        serving = any(place.child is not None and place.child.serving for place in self._places)
        reason = "; ".join(f"process {number}: {reason}" for number, reason in reasons.items())
        self._readiness.set(serving and not reasons, reason or ("" if serving else "no process is there"))

    async def _gather(self) -> None:
        children = {
            place.number: place.child for place in self._places if place.child is not None and place.child.started
        }
        told = await asyncio.gather(*(child.metrics() for child in children.values()))
        self._merged.gathered = dict(zip(children, told, strict=True))


async def serve(settings: Settings) -> None:
    """Serve by several processes until SIGTERM or SIGINT, then drain. SIGHUP exchanges them; SIGUSR1 and SIGUSR2 change
    the level of all their logs; a second signal to stop kills all.

    Raises what `Parent.start` raises.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        _log.info("told to stop", signal=number.name)
        told.set()
        for each in _STOPS:
            loop.remove_signal_handler(each)
            # The kernel ends the children with this process.
            signal.signal(each, lambda again, _: os._exit(128 + again))

    parent = Parent(settings, SystemClock())
    for number in _STOPS:
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, parent.exchange)
    logs.follow_signals(settings.log_level, parent.signal)
    stopping = asyncio.create_task(told.wait())
    running = asyncio.create_task(_run(parent))
    try:
        await asyncio.wait({stopping, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        for task in (stopping, running):
            task.cancel()
        await asyncio.wait({stopping, running})
        await parent.stop()


async def _run(parent: Parent) -> None:
    await parent.start()
    await parent.failed()
