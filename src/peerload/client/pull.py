"""One pull: try sources in order, keep what is verified, go on until it is whole or nobody is left."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from peerload import tracing
from peerload.client.manifest import SourceManifest
from peerload.client.manifests import Manifests, is_stock
from peerload.client.reads import PullContext, Reads
from peerload.client.search import Search, Wanted
from peerload.client.selection import order
from peerload.client.sources import SourceInfo
from peerload.client.targets import SourceUnusable, Target
from peerload.client.transfer import FOREVER_S, SourceBusy
from peerload.client.weights import Attempt, OnProgress, PullProgress, PullReport, summarize
from peerload.engines.base import Descriptor
from peerload.errors import (
    DeadlineExceeded,
    Fault,
    NoSource,
    NotFound,
    PullFailed,
    TransferFailed,
    Unavailable,
    VerificationFailed,
)
from peerload.metadata.records import SourceKey
from peerload.tracing import Attribute

__all__ = ["Pull", "PullContext"]

_log: Final = logging.getLogger("peerload.client")
_MAX_DELAY_S: Final = 5.0
_MAX_ATTEMPTS: Final = 200
"""Attempts that are remembered, for the report and the error; a long wait among failing sources must not grow."""


class Pull:
    """Fills one target. `run` is called once; after it, `found` is the source that completed it."""

    def __init__(
        self,
        context: PullContext,
        wanted: Wanted,
        target: Target,
        *,
        wait: float = 0.0,
        timeout: float | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        self._context = context
        self._wanted = wanted
        self._target = target
        self._wait = wait
        self._timeout = timeout
        self._progress = progress
        self._search = Search(
            context.connection,
            wanted,
            engines=context.importers.keys(),
            agents=context.agents is not None,
            own_workers=context.own_workers,
            pass_over=self._pass_over,
            waiting=lambda reason: self._tell(PullProgress("waiting", reason=reason)),
            settings=context.settings,
            rng=context.rng,
        )
        self._attempts: list[Attempt] = []
        self._passed_over: set[SourceKey] = set()
        self._failures: dict[SourceKey, int] = {}
        self._busy: set[SourceKey] = set()
        self._busy_since: float | None = None
        self._outage: Unavailable | None = None
        """What kept the round that was tried last from asking the server."""
        self._reads = Reads(context, target, self._tell)
        self._manifests = Manifests(context.connection, context.agents, context.executor)
        self._wait_until = 0.0
        self.found: SourceManifest | None = None

    @property
    def worker_id(self) -> str:
        """Under which the target is reported as a reader, and is to publish what it read, if it does."""
        return self._context.reader.worker_id

    @property
    def sources(self) -> Sequence[SourceInfo]:
        """Those that have what is pulled, as the server last named them."""
        return self._search.found

    async def run(self) -> PullReport:
        """Pull; wait up to `wait` seconds for a source to appear, and take `timeout` seconds at most in all.

        Raises `NoSource`, `Ambiguous`, `PullFailed`, `DeadlineExceeded`, `Unavailable`, and what the target raises.
        """
        with tracing.span("peerload.pull", {"peerload.wanted": str(self._wanted)}) as span:
            report = await self._run()
            span.set_attribute("peerload.bytes", report.bytes_moved)
            span.set_attribute("peerload.attempts", len(report.attempts))
            return report

    async def _run(self) -> PullReport:
        loop = asyncio.get_running_loop()
        start = loop.time()
        self._wait_until = start + self._wait
        try:
            async with asyncio.timeout(self._timeout) as limit:
                sources = await self._first()
                begun = loop.time()
                await self._all(sources, start + (FOREVER_S if self._timeout is None else self._timeout))
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"the pull of {self._wanted} was not done within {self._timeout:g} s"
            raise DeadlineExceeded(self._with_attempts(text)) from None
        return summarize(self._target.slots, self._attempts, seconds=loop.time() - begun, waited=begun - start)

    async def _first(self) -> list[SourceInfo]:
        """The sources to begin with; waits for one if it may."""
        with tracing.span("peerload.find"):
            return await self._found()

    async def _found(self) -> list[SourceInfo]:
        try:
            if sources := await self._search.now():
                return sources
        except Unavailable:
            if self._left() <= 0:
                raise
        if self._left() > 0 and (sources := await self._search.appear(self._left())):
            return sources
        text = f"nobody has {self._wanted}"
        if self._wait:
            text += f"; waited {self._wait:g} s"
        if self._attempts:
            raise PullFailed(f"{text} for this client to read", self._lines())
        raise NoSource(text)

    async def _all(self, sources: list[SourceInfo], deadline: float) -> None:
        """Try sources, round after round, until the target is whole."""
        context = self._context
        delay = context.settings.retry_delay
        outage_since: float | None = None
        while True:
            before = self._reads.verified
            self._outage = None
            if await self._round(sources, deadline):
                return
            if self._reads.verified > before:
                self._failures.clear()
                self._busy_since = None
                delay = context.settings.retry_delay
            await asyncio.sleep(delay * context.rng.uniform(0.5, 1.0))
            delay = min(delay * 2, _MAX_DELAY_S)
            # Sources whose manifests are here can be read without the server.
            readable = [source for source in sources if source.key in self._manifests and self._worth(source)]
            try:
                sources = await self._again()
            except Unavailable as error:
                sources, self._outage = readable, error
            # A server whose store is away may go on listing sources for a while, and give nobody's manifest.
            if self._outage is None:
                outage_since = None
                continue
            now = asyncio.get_running_loop().time()
            if outage_since is None:
                outage_since = now
                self._tell(PullProgress("waiting", reason=str(self._outage)))
            patience = max(outage_since + context.settings.outage_patience, self._wait_until)
            if not readable and now >= patience:
                raise Unavailable(self._with_attempts(str(self._outage))) from self._outage

    async def _round(self, sources: list[SourceInfo], deadline: float) -> bool:
        """Try each source once; whether the target is whole."""
        context = self._context
        away = False
        ordered = order(sources, topology=context.topology, rng=context.rng, failures=self._failures)
        # Those of our own first, wherever they are: they have digests.
        for source in sorted(ordered, key=is_stock):
            if away and source.key not in self._manifests:
                continue
            try:
                if await self._try(source, deadline):
                    return True
            except Unavailable as error:
                away, self._outage = True, error
                self._note(Attempt(source, "", str(error)))
        return False

    async def _again(self) -> list[SourceInfo]:
        """The sources for another round, as the server knows them now.

        Raises `PullFailed` if none is left to try, `Unavailable` if that cannot be known.
        """
        with tracing.span("peerload.find"):
            sources = [source for source in await self._search.now() if self._worth(source)]
            if not sources and self._left() > 0:
                sources = await self._search.appear(self._left())
        if not sources:
            raise PullFailed(f"no source of {self._wanted} could give it", self._lines())
        return sources

    def _worth(self, source: SourceInfo) -> bool:
        """Whether a source is to be tried again: while there is time to wait, all but the hopeless."""
        if source.key in self._search.banned:
            return False
        if source.key in self._busy and self._busy_since is not None:
            now = asyncio.get_running_loop().time()
            if now < self._busy_since + self._context.settings.busy_patience:
                return True
        return self._left() > 0 or self._failures.get(source.key, 0) < self._context.settings.tries

    async def _try(self, source: SourceInfo, deadline: float) -> bool:
        """Read what is missing from one source; whether everything is there now. Raises `Unavailable`."""
        address = error = ""
        before, moved = self._reads.verified, 0
        self._busy.discard(source.key)
        try:
            async with self._manifests.open(source) as found:
                endpoints = self._reads.endpoints(found)
                for endpoint in endpoints:
                    address = endpoint.address
                    try:
                        with tracing.span("peerload.read", _of(source, endpoint)) as span:
                            await self._reads.read(found, source, endpoint, deadline)
                            self.found = found
                            moved = max(0, self._reads.verified - before)
                            span.set_attribute("peerload.bytes", moved)
                        break
                    except TransferFailed as failure:
                        # Of the source nothing is known yet, and there is another way to it.
                        if failure.fault is not Fault.OURS or endpoint is endpoints[-1]:
                            raise
                        _log.debug("%s by %s: %s", source, endpoint.engine, failure)
        except (SourceUnusable, VerificationFailed, NotFound) as failure:
            self._search.banned.add(source.key)
            error = str(failure)
        except SourceBusy as failure:
            self._busy.add(source.key)
            if self._busy_since is None:
                self._busy_since = asyncio.get_running_loop().time()
            self._failures[source.key] = self._failures.get(source.key, 0) + 1
            error = str(failure)
        except TransferFailed as failure:
            self._failures[source.key] = self._failures.get(source.key, 0) + 1
            if not failure.retryable:
                # A source that was published anew under the same key has another descriptor.
                self._manifests.forget(source.key)
            error = str(failure)
        if error:
            if is_stock(source):
                self._disown()
            moved = max(0, self._reads.verified - before)
        self._note(Attempt(source, address, error, moved))
        return not error

    def _disown(self) -> None:
        """Count nothing as read for which no digest stands: it came from a stock worker, and could not be confirmed."""
        for slot in self._target.slots:
            if not slot.checked:
                slot.verified, slot.origin = False, None

    def _left(self) -> float:
        """Seconds of the time to wait that are left."""
        return self._wait_until - asyncio.get_running_loop().time()

    def _tell(self, progress: PullProgress) -> None:
        if self._progress is not None:
            self._progress(progress)

    def _pass_over(self, source: SourceInfo, reason: str) -> None:
        if source.key not in self._passed_over:
            self._passed_over.add(source.key)
            self._note(Attempt(source, "", reason))

    def _note(self, attempt: Attempt) -> None:
        if len(self._attempts) < _MAX_ATTEMPTS:
            self._attempts.append(attempt)

    def _lines(self) -> list[str]:
        """The attempts; those that differ in nothing are told once, with how many they were."""
        times = Counter(str(attempt) for attempt in self._attempts)
        return [line if count == 1 else f"{line} ({count} times)" for line, count in times.items()]

    def _with_attempts(self, text: str) -> str:
        return "\n".join([text, *(f"  - {line}" for line in self._lines())])


def _of(source: SourceInfo, endpoint: Descriptor) -> dict[str, Attribute]:
    """What a span says of a read."""
    return {
        "peerload.source": str(source),
        "peerload.engine": endpoint.engine,
        "peerload.address": endpoint.address,
    }
