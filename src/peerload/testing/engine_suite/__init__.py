"""The engine contract (`peerload.engines.base`) as tests. Needs pytest and hypothesis.

An engine's tests derive a class from `EngineSuite` (or from `InProcessSuite` alone, for an engine that reaches nobody but
its own process), name the engine as `open_engine` knows it, and say how it is slowed down and what its strangers do::

    class TestMine(EngineSuite):
        engine = "mine"

        def slow(self, bytes_per_second: int) -> dict[str, Any]:
            return {"rate": bytes_per_second}
        ...

The class of an engine that maps derives from `MappingSuite` too. Nothing here measures time: "midway" is reached by slowing the source down and waiting for the first bytes.
"""

from __future__ import annotations

from peerload.testing.engine_suite.base import SuiteBase
from peerload.testing.engine_suite.in_process import InProcessSuite
from peerload.testing.engine_suite.mapping import MappingSuite
from peerload.testing.engine_suite.two_processes import TwoProcessSuite

__all__ = ["EngineSuite", "InProcessSuite", "MappingSuite", "SuiteBase", "TwoProcessSuite"]


class EngineSuite(InProcessSuite, TwoProcessSuite):
    """All of it."""
