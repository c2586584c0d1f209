"""The composition root: everything is made here and handed what it needs."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

import structlog

from peerload import __version__
from peerload.clock import Clock, SystemClock
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.settings import MetadataSettings
from peerload.plugins import open_store
from peerload.server.addresses import is_loopback, split_address
from peerload.server.calls import Calls
from peerload.server.diagnosis.misses import Misses
from peerload.server.fronts.front import Front
from peerload.server.fronts.grpc import GrpcFront
from peerload.server.fronts.h2corn import H2cornFront
from peerload.server.listening import SharedPort
from peerload.server.measures.calls import CallMeasures
from peerload.server.measures.fleet import FleetCollector
from peerload.server.measures.loop import LoopDelay
from peerload.server.measures.port import PortCollector
from peerload.server.measures.store import MeasuredStore
from peerload.server.metrics import Metrics
from peerload.server.metrics_http import MetricsPort, start_metrics
from peerload.server.page.page import Page
from peerload.server.readiness import Readiness
from peerload.server.rpc import Gate, Method
from peerload.server.security.gate import AccessGate
from peerload.server.services.api import ApiService
from peerload.server.services.checks import Checks
from peerload.server.services.claims import ClaimService
from peerload.server.services.diagnosis import DiagnosisService
from peerload.server.services.health import HealthService, StandardHealth
from peerload.server.services.p2p import P2pService
from peerload.server.services.parsing import Parser
from peerload.server.services.reflection import Reflection
from peerload.server.services.server import ServerService
from peerload.server.services.sources import SourceService
from peerload.server.services.transfers import TransferService
from peerload.server.settings import Settings
from peerload.server.tls import TlsKeeper
from peerload.server.traced import traced
from peerload.server.traffic import Traffic
from peerload.store.base import Store

__all__ = ["Server"]

_log = structlog.get_logger("peerload.server")

_LAST_WORDS_SECONDS: Final = 1.0
"""For answers that are still on their way out."""
_FRONTS: Final[dict[str, type[GrpcFront | H2cornFront]]] = {"grpc": GrpcFront, "h2corn": H2cornFront}


class Server:
    """A server in this process: `async with Server(settings) as server: …` serves at `server.address`.

    `store` is a store to use instead of the one that the settings name, not yet opened; the server opens and closes it.
    `clock` is handed to everything but the transport, whose deadlines are real. `port` is the one to serve on where other
    processes do too.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        store: Store | None = None,
        port: SharedPort | None = None,
    ) -> None:
        self._settings = settings
        self._port = port
        self._clock = SystemClock() if clock is None else clock
        self._store = MeasuredStore(
            open_store(settings.store, self._clock) if store is None else store,
            self._clock,
            traced=settings.tracing,
        )
        self._backend = MetadataBackend(
            self._store,
            self._clock,
            MetadataSettings(
                heartbeat_timeout=settings.heartbeat_timeout,
                reaper_interval=settings.reaper_interval,
                gc_timeout=settings.gc_timeout,
                probe=settings.probe,
                probe_after=settings.probe_after,
                limit_principal_records=settings.limit_principal_records,
            ),
        )
        self._metrics = Metrics()
        self._gate = (
            AccessGate(settings, self._clock, self._metrics, self._ask_again) if settings.authenticates else None
        )
        self._readiness = Readiness()
        self._metrics_port = MetricsPort(self._metrics.registry, self._readiness)
        self._metrics_address = ""
        self._traffic = None if settings.ui_address is None else Traffic(self._backend.directory, self._clock)
        self._page: Page | None = None
        self._misses = Misses(self._backend, self._clock, self._metrics)
        self._calls = Calls()
        self._measures = CallMeasures(self._clock)
        self._delay = LoopDelay()
        self._metrics.tell(self._delay)
        self._metrics.tell(FleetCollector(self._backend, self._store, self._clock, settings.models_in_metrics))
        self._parser = Parser()
        self._front: Front | None = None
        self._address = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    @property
    def address(self) -> str:
        """`HOST:PORT` as bound; empty before the start."""
        return self._address

    @property
    def metrics_address(self) -> str:
        """`HOST:PORT` of the port for metrics, as bound; empty where there is none."""
        return self._metrics_address

    @property
    def metrics(self) -> Metrics:
        """What it tells Prometheus, whether or not there is a port for that."""
        return self._metrics

    @property
    def ui_address(self) -> str:
        """`HOST:PORT` of the web page, as bound; empty where there is none."""
        return "" if self._page is None else self._page.address

    @property
    def backend(self) -> MetadataBackend:
        """What the services stand on."""
        return self._backend

    @property
    def readiness(self) -> Readiness:
        """What the health services tell."""
        return self._readiness

    async def start(self) -> None:
        """Open the store, load the directory, listen.

        Raises `Unavailable` if the store or the address cannot be had, `InvalidArgument` for a place that is no store, and
        for files of TLS that are none.
        """
        try:
            if self._gate is not None:
                await self._gate.start()
                self._tasks.append(asyncio.create_task(self._gate.run(), name="peerload-access"))
            await self._backend.connect()
            self._tasks.append(asyncio.create_task(self._backend.run(), name="peerload-backend"))
            self._tasks.append(asyncio.create_task(self._follow_backend(), name="peerload-readiness"))
            self._tasks.append(asyncio.create_task(self._misses.run(), name="peerload-misses"))
            self._tasks.append(asyncio.create_task(self._delay.run(), name="peerload-loop-delay"))
            # Before the front: a server that cannot start must have answered nobody.
            self._metrics_address, no_metrics = await start_metrics(self._metrics_port, self._settings)
            tls = await self._start_tls()
            await self._start_page(tls)
            front = _FRONTS[self._settings.front]
            methods = self._measures.wrap(self._calls.wrap(self._methods()))
            if self._settings.tracing:
                methods = traced(methods)
            self._front = front(methods, gate=self._gate, limits=self._settings.limits, tls=tls, port=self._port)
            self._metrics.tell(PortCollector(self._measures, self._front.admission, tls))
            self._address = await self._front.start(self._settings.listen)
        except BaseException:
            await self._let_go()
            raise
        _log.info(
            "serving",
            listen=self._address,
            store=self._store.url,
            tls="off" if tls is None else "mutual" if tls.mutual else "on",
            metrics=self._metrics_address or "off",
            ui=self.ui_address or "off",
            version=__version__,
        )
        if no_metrics:
            _log.warning("no metrics are served; --metrics names another port", reason=no_metrics)
        if hasty := self._settings.hasty:
            _log.warning(hasty)
        if missing := _missing_beyond_loopback(self._address, tls, self._gate):
            _log.warning(f"whoever reaches this port is served without {missing}: see docs/security.md")
        if self._page is not None and (missing := _missing_beyond_loopback(self.ui_address, tls, self._gate)):
            _log.warning(f"whoever reaches the web page's port is shown the fleet without {missing}: see docs/ui.md")

    async def failed(self) -> None:
        """Wait until a part of the server has ended that never should; raises what it ended with."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError("the metadata backend stopped by itself")

    async def stop(self, *, leave: bool = False) -> None:
        """Drain: say NOT_SERVING, end streams, let calls in flight end, store the last heartbeats. Twice is allowed.

        With `leave` others serve on the port, and clients are asked to go on there before any call is turned away.
        """
        if self._stopped:
            return
        self._stopped = True
        self._readiness.stop()
        self._metrics.serving.set(0)
        if self._front is not None:
            grace = self._settings.grace
            _log.info("stopping", in_flight=self._calls.in_flight, grace=grace)
            if leave:
                self._calls.end_streams()
                await self._front.leave(grace)
            else:
                await asyncio.sleep(self._settings.drain_delay)
            # Calls are turned away one by one before the front is stopped: it would cut off those in its queue.
            if self._page is not None:
                await self._page.stop()
            await self._calls.drain(grace)
            await self._calls.hush()
            await self._front.stop(_LAST_WORDS_SECONDS)
        await self._let_go()
        _log.info("stopped")

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _methods(self) -> dict[str, Method]:
        names: set[str] = set()
        checks = Checks(self._settings.limit_tensors, self._settings.own_addresses)
        table: dict[str, Method] = {}
        for service in (
            ClaimService(self._backend, self._clock),
            P2pService(self._backend, self._clock, self._parser, self._misses, checks),
            SourceService(self._backend, self._clock, self._parser, self._misses, checks),
            DiagnosisService(self._backend, self._misses, lambda: self._address),
            TransferService(self._backend, self._traffic),
            ServerService(self._backend, self._clock, lambda: self._address),
            HealthService(self._readiness, self._clock),
            ApiService(),
            StandardHealth(self._readiness, names),
            Reflection(names),
        ):
            table.update(service.methods())
        names.update(path.split("/")[1] for path in table)
        return table

    def _ask_again(self) -> None:
        """Let those who watch show anew that they may."""
        self._backend.watchers.end_all("who may do what has changed; watch again")

    async def _start_page(self, tls: TlsKeeper | None) -> None:
        where = self._settings.ui_address
        if where is None or self._traffic is None:
            return
        page = Page(self._backend, self._store, self._readiness, self._traffic, self._clock)
        await page.start(*where, gate=self._gate, tls=tls, server=lambda: self._address)
        self._page = page
        self._tasks.append(asyncio.create_task(page.run(), name="peerload-page"))

    async def _start_tls(self) -> TlsKeeper | None:
        files = self._settings.tls
        if files is None:
            return None
        keeper = await asyncio.get_running_loop().run_in_executor(None, TlsKeeper, files, self._clock)
        self._tasks.append(asyncio.create_task(keeper.follow(), name="peerload-tls"))
        return keeper

    async def _follow_backend(self) -> None:
        serving = self._backend.serving
        while True:
            self._readiness.set(serving, "" if serving else self._backend.reason)
            self._metrics.serving.set(serving)
            serving = await self._backend.health_changed(serving)

    async def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._page is not None:
            await self._page.stop()
        await self._metrics_port.stop()
        self._parser.close()
        if self._gate is not None:
            await self._gate.close()
        await self._backend.close()


def _missing_beyond_loopback(listen: str, tls: TlsKeeper | None, gate: Gate | None) -> str:
    """What protects nobody from others than this machine's own processes; empty: nothing, or only these can connect."""
    missing = ["TLS"] if tls is None else []
    if gate is None and (tls is None or not tls.mutual):
        missing.append("authentication")
    return "" if is_loopback(split_address(listen)[0]) else " and ".join(missing)
