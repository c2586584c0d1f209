"""Starting `stock_process.py`, and talking to it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).resolve().parent
_SECONDS = 90.0

needs_nixl = pytest.mark.skipif(
    importlib.util.find_spec("nixl_cu12") is None or importlib.util.find_spec("google_crc32c") is None,
    reason="needs NIXL and google-crc32c",
)


def seeded(seed: int, size: int) -> bytes:
    """The bytes that a seed stands for, as `stock_process.content` has them."""
    return random.Random(seed).randbytes(size)


class StockProcess:
    """A process that runs the stock package."""

    def __init__(self, process: asyncio.subprocess.Process, answers: asyncio.StreamReader) -> None:
        self.process = process
        self._answers = answers

    async def hear(self) -> dict[str, Any]:
        """What it says next; fails where that is an error."""
        line = await asyncio.wait_for(self._answers.readline(), _SECONDS)
        assert line, "it ended without a word"
        said: dict[str, Any] = json.loads(line)
        assert "error" not in said, said["error"]
        return said

    def tell(self, line: str) -> None:
        """Say something to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    async def end(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await asyncio.wait_for(self.process.wait(), _SECONDS)


@contextlib.asynccontextmanager
async def stock(role: str, **told: Any) -> AsyncIterator[StockProcess]:
    """A process in that role; killed at the end, unless it ended before."""
    theirs, ours = os.pipe()
    path = [] if importlib.util.find_spec("torch") else [str(_HERE / "torch_stand_in")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_HERE / "stock_process.py"),
            json.dumps({"role": role, "answers": ours, **told}),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[ours],
            env=environment,
        )
    finally:
        os.close(ours)
    answers = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(answers), os.fdopen(theirs, "rb")
    )
    try:
        yield StockProcess(process, answers)
    finally:
        transport.close()
        if process.returncode is None:
            process.kill()
        await process.wait()
