"""Starting `worker.py`, and ending it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

_SECONDS = 30.0


class Worker:
    """A running worker process."""

    def __init__(self, process: asyncio.subprocess.Process, worker_id: str) -> None:
        self.process = process
        self.worker_id = worker_id

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.kill()
        await asyncio.wait_for(self.process.wait(), _SECONDS)

    async def end(self) -> int:
        """Let it withdraw and end; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.wait_for(self.process.wait(), _SECONDS)


@contextlib.asynccontextmanager
async def working(server: str, tensors: dict[str, tuple[int, int]], **told: Any) -> AsyncIterator[Worker]:
    """A worker that has published; killed at the end, unless it ended before."""
    argument = json.dumps({"server": server, "tensors": tensors, "model": "org/model", **told})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("worker.py")),
        argument,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), _SECONDS)
        assert line, "the worker ended before it had published"
        worker = Worker(process, line.decode().strip())
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
