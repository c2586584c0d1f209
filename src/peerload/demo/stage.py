"""What the demo shows: bars that move on a terminal, the same in plain lines anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from peerload.cli.progress import LiveRate, byte_bars
from peerload.cli.text import size
from peerload.clock import Clock

__all__ = ["Stage"]


class _Transfer:
    """One pull as it is shown."""

    def __init__(self, target: str, source: str, total: int, task: TaskID | None) -> None:
        self.target = target
        self.source = source
        self.total = total
        self.task = task
        self.quarters = 0
        self.rate = LiveRate()


class Stage:
    """The display; a context manager. `clock` is asked for the time of each step."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._begin = clock.monotonic()
        self._transfers: dict[str, _Transfer] = {}
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._progress = byte_bars(console, live=self._live, width=28, indent=" " * 8)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def scene(self, title: str, style: str = "bold") -> None:
        """A heading."""
        self._console.print()
        self._console.print(Text(title, style=style), soft_wrap=True)

    def say(self, line: str, style: str = "") -> None:
        """One line, with the seconds since the beginning."""
        stamp = f"{self._clock.monotonic() - self._begin:6.1f}s "
        self._console.print(Text.assemble((stamp, "dim"), (line, style)), soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table by itself."""
        self._console.print()
        self._console.print(table)

    def moving(self, target: str, source: str, done: int, total: int) -> None:
        """`target` has `done` of `total` bytes, the last of them from `source`."""
        transfer = self._transfers.get(target)
        if transfer is None:
            task = (
                self._progress.add_task(target, total=total, label=f"{target} ← {source}", amount="", rate="")
                if self._live
                else None
            )
            transfer = self._transfers[target] = _Transfer(target, source, total, task)
        transfer.source = source
        speed = transfer.rate.at(self._clock.monotonic(), done)
        who = f"{target} ← {source}"
        if transfer.task is not None:
            self._progress.update(
                transfer.task, completed=done, label=who, amount=f"{size(done)} of {size(total)}", rate=f"{speed:>10}"
            )
        elif total and done * 4 // total > transfer.quarters:
            transfer.quarters = done * 4 // total
            self.say(f"  {who}: {size(done)} of {size(total)}, {speed}")

    def settled(self, target: str) -> None:
        """The pull of `target` has ended; its bar goes."""
        transfer = self._transfers.pop(target, None)
        if transfer is not None and transfer.task is not None:
            self._progress.remove_task(transfer.task)
