"""Where children come from: a process that has imported an engine's library, and forks.

    python -m peerload.engines.child.forkserver DRIVER DESCRIPTOR OWNER

A child made so is ready in a tenth of a second, a fresh interpreter in one. It has nothing of its owner: no memory, no
descriptors, no threads. Everything ends with the owner, whose death the kernel tells by SIGKILL (PR_SET_PDEATHSIG), also to a
child that hangs inside a library; so `DESCRIPTOR` must have been inherited from a thread that lives as long as its process.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from typing import NoReturn, cast

from peerload.engines.child import message
from peerload.engines.child.driver import Driver
from peerload.engines.child.message import Message
from peerload.engines.child.run import run
from peerload.orphans import die_with

__all__ = ["main"]


def main() -> NoReturn:
    """Fork when told to, until the owner hangs up."""
    name, descriptor, owner = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    die_with(owner)
    # The terminal's Ctrl-C is for the owner to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    driver = cast(Driver, importlib.import_module(name))
    driver.preload()
    # What is there now is not written to by each child's collector, and stays shared.
    gc.collect()
    gc.freeze()
    message.send(control, {"number": 0})
    while (order := message.receive(control)) is not None:
        match order.words["do"]:
            case "fork":
                _fork(driver, control, order)
            case "wait":
                message.send(control, {"number": order.words["number"], "status": _reap(order.words["pid"])})
            case _:
                _reap(order.words["pid"])
    os._exit(0)


def _fork(driver: Driver, control: socket.socket, order: Message) -> None:
    (end,) = order.fds
    server = os.getpid()
    pid = os.fork()
    if not pid:
        die_with(server)
        control.close()
        run(driver, order.words["role"], order.words["settings"], socket.socket(fileno=end))
    os.close(end)
    pidfd = os.pidfd_open(pid)
    message.send(control, {"number": order.words["number"], "pid": pid}, fds=[pidfd])
    os.close(pidfd)


def _reap(pid: int) -> int | None:
    """How a child that has ended did; None if that was told already."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


if __name__ == "__main__":
    main()
