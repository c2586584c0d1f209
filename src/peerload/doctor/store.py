"""The examination of a store, whichever it is: what it says of its place itself, then a rehearsal of every verb."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from peerload.clock import Clock
from peerload.doctor.rehearsal import rehearse
from peerload.errors import InvalidArgument, PeerloadError, Unavailable
from peerload.finding import Finding, Level, worst
from peerload.store.base import Store
from peerload.store.examinable import Examinable

__all__ = ["StoreReport", "examine_store"]

_UNREACHED: Final = "start it, or name another with --store or PEERLOAD_STORE; no server starts without its store"
_FAILED: Final = "no server can publish into this store before that is mended"


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What was found about a store."""

    url: str
    """Without secrets."""
    findings: tuple[Finding, ...]
    reached: bool
    """Whether anybody was there to ask; else nothing follows about the store."""
    rehearsed: bool
    """Whether writing was tried, which is only done where nothing speaks against it."""

    @property
    def level(self) -> Level:
        """The level that matters most."""
        return worst(self.findings)


async def examine_store(store: Store, clock: Clock) -> StoreReport:
    """Examine a store that is not open. It is left as it was, whatever happens and whoever else uses it."""
    findings: list[Finding] = []
    try:
        if isinstance(store, Examinable):
            async with contextlib.aclosing(store.examine()) as found:
                async for finding in found:
                    findings.append(finding)  # noqa: PERF401 - an outage loses none that came before it
        else:
            await store.open()
    except Unavailable as error:
        findings.append(Finding(Level.PROBLEM, str(error), _UNREACHED))
        return StoreReport(store.url, tuple(findings), reached=False, rehearsed=False)
    except InvalidArgument as error:
        findings.append(Finding(Level.PROBLEM, str(error).removeprefix(f"{error.field}: "), _FAILED))
    rehearsed = worst(findings) is not Level.PROBLEM
    if rehearsed:
        stage = store.rehearsal() if isinstance(store, Examinable) else _until_closed(store)
        findings += await _rehearsed(stage, clock)
    return StoreReport(store.url, tuple(findings), reached=True, rehearsed=rehearsed)


async def _rehearsed(stage: AbstractAsyncContextManager[Store], clock: Clock) -> list[Finding]:
    findings: list[Finding] = []
    try:
        async with stage as trial:
            findings += await rehearse(trial, clock)
    except PeerloadError as error:
        findings.append(Finding(Level.PROBLEM, f"it could not be written to and read back: {error}", _FAILED))
    return findings


@contextlib.asynccontextmanager
async def _until_closed(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await store.close()
