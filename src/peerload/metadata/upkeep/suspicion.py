"""Sources that failed those who read from them: handed out last, until they prove themselves.

Anybody may report anything, so a report decides nothing: it changes an order, and has the source asked (see
`peerload.metadata.upkeep.prober`), which is where proof comes from. What is reported is this server's alone and is not stored;
other servers hear from those who read by them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from peerload.metadata.directory.directory import Directory
from peerload.metadata.records import SourceKey
from peerload.metadata.transfers import Outcome
from peerload.metadata.upkeep.prober import Prober

__all__ = ["Suspicions"]

_MOST: Final = 4_096
"""Sources that may be suspect at a time; beyond that, those that were reported longest ago are not."""
_KEPT_MS: Final = 600_000
"""After this long without a report somebody should try again."""


class _Suspicion(NamedTuple):
    generation: int
    since: int
    """The last report, milliseconds on the store's clock."""
    disputable: bool
    """Whether all that was reported is about the way to the source."""
    accepted: bool = False
    """Whether a connection since then was accepted."""


class Suspicions:
    """The suspect sources of one server; `Held.suspect` says so of each. `prober` asks them whether they are there.

    A source proves itself by a transfer that succeeds or by being published anew; and where it was the connection that failed,
    by taking one from this server and a heartbeat, both later than the report.
    """

    def __init__(self, directory: Directory, prober: Prober | None) -> None:
        self._directory = directory
        self._prober = prober
        if prober is not None:
            prober.on_accepted = self.accepted
        # In the order of the last reports.
        self._known: OrderedDict[str, _Suspicion] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def report(self, source: SourceKey, outcome: Outcome) -> None:
        """How an attempt to read from a source ended."""
        key = source.encode()
        held = self._directory.get(key)
        if held is None:
            return
        if outcome is Outcome.OK:
            self._clear(key)
        if not outcome.failed:
            return
        generation, before = held.record.generation, self._known.pop(key, None)
        only = outcome.disputable and (before is None or before.generation != generation or before.disputable)
        self._known[key] = _Suspicion(generation, self._directory.now(), only)
        self._directory.suspect(held, True)
        if len(self._known) > _MOST:
            self._clear(next(iter(self._known)))
        if outcome.disputable and self._prober is not None:
            self._prober.report(key)

    def accepted(self, key: str, generation: int, since: int) -> None:
        """A source took a connection that was begun at `since`."""
        known = self._known.get(key)
        if known is not None and known.generation == generation and known.disputable and since >= known.since:
            self._known[key] = known._replace(accepted=True)
            self.sweep()

    def sweep(self) -> None:
        """Acquit those that have proven themselves, and those of which nothing was reported for long. Called often."""
        now = self._directory.now()
        for key, known in list(self._known.items()):
            held = self._directory.get(key)
            renewed = held is None or held.record.generation != known.generation
            proven = held is not None and known.accepted and held.heard > known.since
            if renewed or proven or now - known.since > _KEPT_MS:
                self._clear(key)

    def _clear(self, key: str) -> None:
        self._known.pop(key, None)
        held = self._directory.get(key)
        if held is not None:
            self._directory.suspect(held, False)
