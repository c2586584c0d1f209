"""Reports, asked for and looked at."""

from __future__ import annotations

from peerload.clock import Clock, SystemClock
from peerload.doctor.store import StoreReport, examine_store
from peerload.finding import Finding, Level
from peerload.plugins import open_store
from peerload.store.base import Store


async def examined(store: Store | str, clock: Clock | None = None) -> StoreReport:
    """The report on a store, or on the one that a URL names."""
    clock = clock or SystemClock()
    return await examine_store(open_store(store, clock) if isinstance(store, str) else store, clock)


def problems(report: StoreReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.level is Level.PROBLEM]


def about(report: StoreReport, text: str) -> Finding:
    """The one finding that says this."""
    (found,) = [finding for finding in report.findings if text in str(finding)]
    return found
