"""What tests of Peerload, of its stores and engines and of programs built on it can use.

Nothing here is imported by the rest of the package. Conformance suites (`peerload.testing.store_suite` …) need
pytest and hypothesis and are imported by their own names; the rest needs nothing beyond Peerload.
"""

from __future__ import annotations

from peerload.testing.clock import ManualClock
from peerload.testing.faulty_store import FaultyStore

__all__ = ["FaultyStore", "ManualClock"]
