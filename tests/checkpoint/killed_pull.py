"""Run by the tests as a process of its own: pulls a folder over and over, and is killed at every step.

python -m tests.checkpoint.killed_pull fill SOURCE TARGET
    fills the target part by part, names each on stdout, and then waits for its end
python -m tests.checkpoint.killed_pull steps SOURCE TARGET
    for each change that a pull makes to the file system: a pull that dies right before it, then one that finishes
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from peerload.checkpoint import Checkpoint, Staging, map_files, scan
from tests.support.checkpoints import contents, fill

CHANGES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"})


def pull(source: Path, target: Path, checkpoint: Checkpoint) -> int:
    with Staging(target, checkpoint) as staging:
        moved = fill(staging, source, checkpoint, staging.reusable())
        staging.commit()
    return moved


def fill_and_wait(source: Path, target: Path) -> None:
    checkpoint = scan(source).checkpoint
    staging = Staging(target, checkpoint)
    staging.reusable()
    regions = map_files(source, checkpoint)
    for index in staging.wanted:
        view = staging.view(index)
        for part in checkpoint.files[index].parts:
            view[part.offset : part.end] = regions[index][part.offset : part.end]
            print(part.size, flush=True)
    print("filled", flush=True)
    sys.stdin.read()


def dies_at(step: int, source: Path, target: Path, checkpoint: Checkpoint) -> bool:
    """Pull in a child that kills itself before its change number `step`; False if it made fewer."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in CHANGES:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        pull(source, target, checkpoint)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"the pull failed at step {step}")
    return False


def steps(source: Path, target: Path) -> None:
    expected = contents(source)
    checkpoint = scan(source).checkpoint
    step = 1
    while dies_at(step, source, target, checkpoint):
        for path, data in contents(target).items():
            if not path.startswith(".peerload") and data != expected[path]:
                raise SystemExit(f"step {step}: {path} looks complete and is not")
        if dies_at(-1, source, target, checkpoint) or contents(target) != expected:
            raise SystemExit(f"step {step}: the next pull did not finish")
        shutil.rmtree(target)
        step += 1
    if contents(target) != expected:
        raise SystemExit("the last pull is not right")
    print(step - 1)


if __name__ == "__main__":
    {"fill": fill_and_wait, "steps": steps}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
