"""The demo as a whole: what it shows, what it leaves behind, and what it says when something differs."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from peerload.clock import SystemClock
from peerload.demo.compare import FileCheck, ForwardCheck
from peerload.demo.script import Pull, Script
from peerload.demo.stage import Stage
from tests.cli.commands import Running, peerload


def test_it_shows_the_main_job_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = peerload("demo", settings={"TMPDIR": str(tmp_path)}, limit=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "replica-0 is killed (SIGKILL" in done.stdout
    assert "the server is killed (SIGKILL" in done.stdout
    assert re.search(r"replica-2 has the weights: [\d.]+ MB from replica-0 and [\d.]+ MB from replica-1", done.stdout)
    assert re.search(r"replica-3 has the weights: 91.6 MB from replica-[12], ", done.stdout)
    assert re.search(r"model.safetensors +90.9 MB +[0-9a-f]{16}… +identical", done.stdout)
    assert "Everything is as it should be" in done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_ends_its_processes_and_removes_its_folder(tmp_path: Path, number: int, status: int) -> None:
    children: list[psutil.Process] = []
    try:
        with Running("demo", settings={"TMPDIR": str(tmp_path)}) as demo:
            demo.line("replica-1 asks for the weights")
            children = psutil.Process(demo.pid).children(recursive=True)
            demo.signal(number)
            assert demo.wait() == status
        assert len(children) >= 2
        assert not [child for child in children if child.is_running()]
        assert list(tmp_path.iterdir()) == []
        assert not "".join(demo.errors).strip()
    finally:
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def script() -> Script:
    clock = SystemClock()
    return Script(Path(), Stage(Console(quiet=True), clock), clock, throttle=1)


def pull(replica: str, *sources: str) -> Pull:
    return Pull(replica, dict.fromkeys(sources, 1), 1, 1.0, "")


def test_what_differs_is_a_problem_and_named() -> None:
    run = script()
    run.outcome.files = [FileCheck("same", 1, "00", ()), FileCheck("config.json", 1, "00", ("replica-1", "replica-3"))]
    run.outcome.forward = [ForwardCheck("a", "b", 0.5, 0.5, True), ForwardCheck("c", "d", 0.5, 0.5, False)]
    run.judge_copies()
    assert run.outcome.problems == ["config.json differs in replica-1, replica-3", "the forward pass differs for 'c'"]


def test_pulls_from_others_than_the_scenes_say_are_problems() -> None:
    run = script()
    run.outcome.pulls = [
        pull("replica-1", "replica-0"),
        pull("replica-2", "replica-0", "replica-1"),
        pull("replica-3", "replica-2"),
    ]
    run.judge_pulls()
    assert run.outcome.problems == []
    run.outcome.pulls = [pull("replica-1", "replica-0"), pull("replica-2", "replica-1"), pull("replica-3", "replica-0")]
    run.judge_pulls()
    assert [problem.split()[0] for problem in run.outcome.problems] == ["replica-2", "replica-3"]
