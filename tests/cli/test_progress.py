"""Bars: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from peerload.cli.progress import Bar, LiveRate
from peerload.demo.stage import Stage
from peerload.testing.clock import ManualClock


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(
        file=written, force_terminal=terminal, width=100, highlight=False, _environ={"TERM": "xterm"}
    ), written


def test_a_rate_is_that_of_the_last_moment() -> None:
    live = LiveRate()
    assert live.at(0.0, 0) == "-"
    assert live.at(1.0, 10_000_000) == "10.0 MB/s"
    # A second later only what came since counts.
    assert live.at(2.0, 110_000_000) == "100.0 MB/s"
    assert live.at(3.0, 110_000_000) == "-"
    # Another source, from the beginning.
    assert live.at(3.5, 0) == "-"


def test_a_bar_in_a_pipe_is_a_line_a_quarter() -> None:
    shown, written = console(terminal=False)
    with Bar(shown) as bar:
        for done in range(0, 101, 5):
            bar.update("org/name", done * 1_000_000, 100_000_000)
        bar.say("and so on")
    lines = written.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "org/name: 25.0 MB of 100.0 MB",
        "org/name: 50.0 MB of 100.0 MB",
        "org/name: 75.0 MB of 100.0 MB",
        "org/name: 100.0 MB of 100.0 MB",
        "and so on",
    ]
    assert "\x1b" not in written.getvalue()


def test_a_bar_on_a_terminal_moves_and_goes() -> None:
    shown, written = console(terminal=True)
    with Bar(shown) as bar:
        bar.update("org/name from worker [bold]x[/bold]", 50, 100)
        bar.update("org/name from another", 100, 100)
    assert "[bold]x[/bold]" in written.getvalue()
    assert written.getvalue().endswith("\x1b[2K")


async def test_the_stage_in_a_pipe() -> None:
    shown, written = console(terminal=False)
    clock = ManualClock()
    with Stage(shown, clock) as stage:
        stage.scene("A heading")
        for done in (0, 30, 60, 100):
            stage.moving("replica-2", "replica-0" if done < 50 else "replica-1", done, 100)
        stage.settled("replica-2")
        stage.settled("never seen")
        stage.say("done", "green")
    lines = [line.strip() for line in written.getvalue().splitlines() if line]
    assert lines == [
        "A heading",
        "0.0s   replica-2 ← replica-0: 30 B of 100 B, -",
        "0.0s   replica-2 ← replica-1: 60 B of 100 B, -",
        "0.0s   replica-2 ← replica-1: 100 B of 100 B, -",
        "0.0s done",
    ]


async def test_the_stage_on_a_terminal_shows_who_reads_from_whom() -> None:
    shown, written = console(terminal=True)
    with Stage(shown, ManualClock()) as stage:
        stage.moving("replica-2", "replica-0", 30, 100)
        stage.moving("replica-2", "replica-1", 60, 100)
        stage.settled("replica-2")
    assert "replica-2 ← replica-" in written.getvalue()
