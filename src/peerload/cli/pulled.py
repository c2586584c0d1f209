"""What `pull` says while it works and when it is done, to people and to programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peerload.cli.console import print_json, remark, say
from peerload.cli.progress import Bar
from peerload.cli.text import clean, duration, rate, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peerload.client import Attempt, PulledFolder, PulledModel, PullProgress, PullReport
    from peerload.client.source import AsyncSource

__all__ = ["JsonProgress", "PersonProgress", "tell_attempts", "tell_failures", "tell_pulled"]

_LABELS: Final = {
    "checking": "Checking what is here already",
    "naming": "Naming the cache's blobs",
    "downloading": "Downloading {} from the hub",
}


class PersonProgress:
    """Progress for people."""

    def __init__(self, model: str, bar: Bar) -> None:
        self._model = clean(model)
        self._bar = bar
        self._waiting: str | None = None
        self._downloader = ""

    def progress(self, step: PullProgress) -> None:
        if step.phase == "waiting":
            if step.reason:
                self._bar.say(f"Waiting: {clean(step.reason)}; trying again.", "yellow")
            elif self._waiting != "" and not self._downloader:
                self._bar.say(f"Waiting for a source of {self._model}.")
            self._waiting = step.reason
        elif step.phase == "downloading elsewhere":
            if self._downloader != step.reason:
                self._bar.say(f"Waiting for {self._model}: {clean(step.reason)} downloads it.")
            self._downloader = step.reason
        elif step.phase in _LABELS:
            self._bar.update(_LABELS[step.phase].format(self._model), step.bytes_done, step.bytes_total)
        else:
            who = f" from {clean(str(step.source))}" if step.source else ""
            self._bar.update(f"{self._model}{who}", step.bytes_done, step.bytes_total)


class JsonProgress:
    """Progress for programs."""

    def progress(self, step: PullProgress) -> None:
        if step.phase == "waiting":
            print_json({"event": "waiting", "reason": step.reason})
            return
        if step.phase == "downloading elsewhere":
            print_json({"event": "downloading elsewhere", "holder": step.reason})
            return
        print_json(
            {
                "event": "progress" if step.phase == "reading" else step.phase,
                "bytes_done": step.bytes_done,
                "bytes_total": step.bytes_total,
                "bytes_reused": step.bytes_reused,
                "worker_id": step.source.worker_id if step.source else "",
                "address": step.address,
            }
        )


def tell_attempts(report: PullReport | None, as_json: bool) -> None:
    """The sources that did not give everything."""
    tell_failures(report.attempts if report is not None else (), as_json)


def tell_failures(attempts: Sequence[Attempt], as_json: bool) -> None:
    """Those of the attempts that failed."""
    for attempt in attempts:
        if not attempt.error:
            continue
        if as_json:
            print_json(
                {
                    "event": "attempt",
                    "worker_id": attempt.source.worker_id,
                    "address": attempt.address,
                    "bytes": attempt.bytes_verified,
                    "error": attempt.error,
                }
            )
        else:
            remark(f"Moved on from {clean(str(attempt), limit=400)}", "yellow")


def tell_pulled(model: str, pulled: PulledFolder[AsyncSource] | PulledModel[AsyncSource], as_json: bool) -> None:
    """The sum of it."""
    if as_json:
        print_json({"event": "pulled", "model": model, **_facts(pulled)})
        return
    where = clean(str(_place(pulled)))
    report = pulled.report
    if report is None:
        say(f"Downloaded {clean(model)} to {where}: {size(pulled.checkpoint.total_size)}; no peer had it.", "green")
        return
    sources = " and ".join(
        f"{size(served.bytes_verified)} from {clean(str(served.source))}" for served in report.sources
    )
    moved = (
        f"moved {size(report.bytes_moved)} in {duration(report.seconds)} ({rate(report.bytes_moved, report.seconds)})"
    )
    say(
        f"Pulled {clean(model)} to {where}: {moved}, reused {size(report.bytes_reused)}"
        f"{f'; {sources}' if sources else ''}; verified {report.verified}.",
        "green",
    )


def _place(pulled: PulledFolder[AsyncSource] | PulledModel[AsyncSource]) -> Path:
    from peerload.client import PulledFolder

    return pulled.local_dir if isinstance(pulled, PulledFolder) else pulled.folder


def _facts(pulled: PulledFolder[AsyncSource] | PulledModel[AsyncSource]) -> dict[str, object]:
    from peerload.client import PulledFolder

    facts: dict[str, object] = {
        "revision": pulled.identity.revision,
        "content": pulled.checkpoint.content,
        "local_dir": str(_place(pulled)),
        "files": len(pulled.checkpoint.files),
    }
    if not isinstance(pulled, PulledFolder):
        facts |= {"commit": pulled.commit, "ref": pulled.ref, "downloaded": pulled.downloaded}
    report = pulled.report
    if report is None:
        return facts | {"bytes_total": pulled.checkpoint.total_size}
    return facts | {
        "bytes_total": report.bytes_total,
        "bytes_moved": report.bytes_moved,
        "bytes_reused": report.bytes_reused,
        "seconds": report.seconds,
        "waited": report.waited,
        "sources": [
            {"worker_id": served.source.worker_id, "address": served.address, "bytes": served.bytes_verified}
            for served in report.sources
        ],
        "verified": dataclasses.asdict(report.verified),
    }
