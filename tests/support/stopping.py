"""Stopping a process for a while."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.live import eventually

__all__ = ["stop"]


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it has stopped: whichever thread is to take the signal must first get its turn, and on a busy
    machine the others go on for as long."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()), what="it to stop")


def _stopped(thread: Path) -> bool:
    try:
        state = (thread / "stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has ended
    return state in "TZX"
