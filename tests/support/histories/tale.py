"""Made-up histories, told write by write."""

from __future__ import annotations

from typing import Self

from tests.support.histories.bounds import REDIS
from tests.support.histories.checks import PATIENT, check
from tests.support.histories.records import READY, Fault, History, Look, Piece, State, Told, Watch, Write

__all__ = ["PATIENT", "Tale", "first", "then"]


class Tale:
    """A history that is told write by write. Unless it says otherwise a call takes 0.1 s, and the worker is "w"."""

    def __init__(self) -> None:
        self.history = History(servers=3, bounds=REDIS)
        self._steps = 0

    def publish(self, at: float, *, server: int = 0, answer: bool | None = True, lasts: float = 0.1) -> State:
        """A publication, and what is shown of it from then on."""
        self._steps += 1
        self.history.writes.append(Write("publish", "w", server, at, at + lasts, answer, self._steps))
        return State(self._steps, READY)

    def withdraw(self, at: float, *, server: int = 0, answer: bool | None = True) -> Self:
        self.history.writes.append(Write("withdraw", "w", server, at, at + 0.1, answer))
        return self

    def mark(self, at: float, status: int = READY, *, server: int = 0, answer: bool | None = True) -> Self:
        self.history.writes.append(Write("mark", "w", server, at, at + 0.1, answer, status=status))
        return self

    def rival(self, begun: float, ended: float, *, answer: bool | None = True) -> State:
        """A publication under a key that others publish under too."""
        self._steps += 1
        self.history.rivals.append(Write("publish", "r", 0, begun, ended, answer, self._steps))
        return State(self._steps, READY)

    def lists(self, at: float, shown: State | None, *, server: int = 1, ready: bool = False, worker: str = "w") -> Self:
        self.history.looks.append(Look(server, at, at + 0.1, {worker: shown} if shown else {}, ready))
        return self

    def gets(self, at: float, shown: State | None, *, server: int = 1, worker: str = "w") -> Self:
        self.history.looks.append(Look(server, at, at + 0.1, {worker: shown} if shown else {}, only=worker))
        return self

    def watch(self, *pieces: list[Told], ended: float, server: int = 1, ready: bool = False) -> Self:
        """A watch; each piece but the last ends where its last message came."""
        ends = [*(piece[-1].at for piece in pieces[:-1]), ended]
        kept = [Piece(told, end) for told, end in zip(pieces, ends, strict=True)]
        self.history.watches.append(Watch(server, ready, kept))
        return self

    def trouble(self, begun: float, ended: float, *servers: int, store: bool = False, killed: bool = False) -> Self:
        """Something that was done to servers, or to their store: they were down all the time."""
        self.history.faults.append(
            Fault("made up", begun, ended, store, frozenset(servers), killed, down=(begun, ended))
        )
        return self

    def holds(self, wrong: bool, words: str = "could only be") -> None:
        """The checker finds one contradiction, said in these words; or none."""
        found = check(self.history)
        assert len(found) == wrong, found
        assert all(words in sentence for sentence in found)


def first(at: float, state: State | None, worker: str = "w") -> Told:
    """The first message of a watch, which is complete."""
    return Told(at, True, {worker: state} if state else {})


def then(at: float, state: State | None, worker: str = "w") -> Told:
    """A later message."""
    return Told(at, False, {worker: state}) if state else Told(at, False, {}, (worker,))
