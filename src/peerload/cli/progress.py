"""One bar for bytes that are read or moved: live on a terminal, a line at each quarter anywhere else."""

from __future__ import annotations

import collections
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from peerload.cli.text import rate, size

__all__ = ["Bar", "LiveRate", "byte_bars"]

_WINDOW_S: Final = 0.7


class LiveRate:
    """The rate of the last moment: what a person who looks wants to see, not the average since the start."""

    def __init__(self) -> None:
        self._samples: collections.deque[tuple[float, int]] = collections.deque()

    def at(self, now: float, done: int) -> str:
        """The rate as text, `done` bytes having been moved by `now` (monotonic seconds)."""
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        return rate(done - before, now - since)


def byte_bars(console: Console, *, live: bool, width: int, indent: str = "") -> Progress:
    """Bars for bytes, `width` characters long, that leave nothing behind. Each task has the fields `label`, `amount` and
    `rate`, texts that are shown as they are."""
    return Progress(
        TextColumn(indent + "{task.fields[label]}", markup=False),
        BarColumn(bar_width=width),
        TextColumn("{task.fields[amount]}", markup=False, justify="right"),
        TextColumn("{task.fields[rate]}", markup=False, justify="right", style="cyan"),
        console=console,
        transient=True,
        disable=not live,
    )


class Bar:
    """A context manager; `update` as often as one likes. Nothing is left on a terminal when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._rate = LiveRate()
        self._label = ""
        self._quarters = 0
        self._task: TaskID | None = None
        self._progress = byte_bars(console, live=self._live, width=30)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, label: str, done: int, total: int) -> None:
        """`label` says what goes on; `done` of `total` bytes of it are there."""
        if label != self._label:
            self._label, self._rate, self._quarters = label, LiveRate(), 0
        speed = self._rate.at(time.monotonic(), done)
        amount = f"{size(done)} of {size(total)}"
        if self._live:
            if self._task is None:
                self._task = self._progress.add_task("", total=total, label=label, amount=amount, rate="")
            self._progress.update(self._task, completed=done, total=total, label=label, amount=amount, rate=speed)
        elif total and done * 4 // total > self._quarters:
            self._quarters = done * 4 // total
            self.say(f"{label}: {amount}{'' if speed == '-' else f', {speed}'}")

    def say(self, line: str, style: str = "") -> None:
        """A line above the bar."""
        self._console.print(Text(line, style=style), soft_wrap=True)
