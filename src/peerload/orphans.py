"""Children that do not outlive who started them, however that ends: the kernel sees to it."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

__all__ = ["die_with"]

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> None:
    """Be killed when the process `parent`, which must have started this one, is gone; at once if it is gone already.

    Strictly, when its thread that started this process is gone (prctl(2), PR_SET_PDEATHSIG).
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # It went before the kernel knew that this is to be told.
