"""The part of the engine contract that shows between two processes, one of which is killed, stopped or harassed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from peerload.engines.base import Descriptor, JobState
from peerload.testing.engine_process import EngineProcess, until
from peerload.testing.engine_suite.base import BIG, MANY, MARK, MIB, SLOW, SuiteBase, digest, end, midway, whole
from peerload.testing.engine_worker import content, describe, undescribe

__all__ = ["TwoProcessSuite"]

_CONNECTS = 1_000
_GROWTH = 8 * MIB
"""Resident bytes that a process may gain over `_CONNECTS`, for caches of allocators and the like."""


class TwoProcessSuite(SuiteBase):
    """The source in a process of its own; the target in the test's, or in a third one where that is to be harmed."""

    def disturb(self, descriptor: Descriptor) -> None:
        """Whatever a stranger may do to this source: garbage, half a request, what was not published. Overridden."""
        raise NotImplementedError

    def connect_and_leave(self, descriptor: Descriptor, number: int) -> None:
        """The `number`th of many visits that come to nothing, each of another kind. Overridden."""
        raise NotImplementedError

    def worker(self, tidy: ExitStack, **settings: Any) -> EngineProcess:
        """Another process."""
        return tidy.enter_context(EngineProcess(self.engine, {**self.settings, **settings}))

    def source(
        self,
        tidy: ExitStack,
        seed: int,
        sizes: list[int],
        path: Path | None = None,
        *,
        shared: bool = False,
        **settings: Any,
    ) -> tuple[EngineProcess, Descriptor]:
        """A source in another process, and its publication of `content(seed, sizes)`, in shared memory or not."""
        worker = self.worker(tidy, **settings)
        order = {"seed": seed, "sizes": sizes, "path": str(path) if path else None, "host": self.host}
        order["shared"] = self.sealed or shared
        return worker, undescribe(worker.ask("publish", **order)["descriptor"])

    @pytest.mark.parametrize("form", ["memory", "mapped", "shared"])
    @pytest.mark.parametrize("sizes", [MANY, [20 * MIB, 60 * MIB, 0, 30 * MIB]], ids=["many", "large"])
    def test_moves_real_bytes(self, tidy: ExitStack, tmp_path: Path, sizes: list[int], form: str) -> None:
        path = tmp_path / "weights" if form == "mapped" else None
        worker, descriptor = self.source(tidy, 1, sizes, path, shared=form == "shared")
        importer = self.importer(tidy)
        into = [importer.allocate(size) for size in sizes]
        job = importer.open(descriptor).read(whole(sizes), into, deadline=60)
        assert end(job).state is JobState.DONE
        expected = content(1, sizes)
        told = dict(job.completed())
        assert told == {index: digest(each) for index, each in enumerate(expected)}
        assert all(view == each for view, each in zip(into, expected, strict=True))
        worker.ask("retire", publication=0)
        worker.ask("free", publication=0)
        worker.ask("close")
        assert worker.leave() == 0

    def test_source_killed_midway(self, tidy: ExitStack) -> None:
        worker, descriptor = self.source(tidy, 2, BIG, **self.slow(SLOW))
        importer = self.importer(tidy)
        into = [importer.allocate(size) for size in BIG]
        reader = importer.open(descriptor)
        job = reader.read(whole(BIG), into, deadline=60)
        midway(job)
        worker.kill()
        progress = end(job)
        assert progress.state is JobState.FAILED
        assert progress.reason
        assert "deadline" not in progress.reason
        expected = content(2, BIG)
        for index, found in job.completed():
            assert found == digest(into[index]) == digest(expected[index])
        # Nor does the dead come back.
        assert end(reader.read(whole(BIG), into, deadline=60)).state is JobState.FAILED

    @pytest.mark.parametrize("how", ["progress", "deadline", "abandon"])
    def test_a_stopped_source_that_goes_on_later(self, tidy: ExitStack, how: str) -> None:
        worker, descriptor = self.source(tidy, 3, BIG, **self.slow(SLOW))
        importer = self.importer(tidy, **(self.impatient(1.0) if how == "progress" else {}))
        into = [importer.allocate(size) for size in BIG]
        job = importer.open(descriptor).read(whole(BIG), into, deadline=2 if how == "deadline" else 60)
        midway(job)
        worker.stop()
        try:
            if how == "abandon":
                job.abandon()
            progress = end(job)
            assert (progress.state, progress.retryable) == (JobState.FAILED, True)
            marks = bytes([MARK]) * max(BIG)
            for view in into:
                view[:] = marks[: len(view)]
        finally:
            worker.resume()
        until(lambda: worker.ask("load") == 0, "the source noticing")
        assert all(view == marks[: len(view)] for view in into)
        # The source is as good as before.
        small = importer.allocate(1000)
        assert end(importer.open(descriptor).read(whole([1000]), [small], deadline=60)).state is JobState.DONE
        assert small == content(3, BIG)[0][:1000]

    def test_reader_killed_midway(self, tidy: ExitStack) -> None:
        worker, descriptor = self.source(tidy, 4, BIG, **self.slow(2 * SLOW))
        ranges = [[each.region, each.offset, each.length] for each in whole(BIG)]
        for _ in range(3):
            with self.worker(tidy) as victim:
                job = victim.ask("read", descriptor=describe(descriptor), ranges=ranges, deadline=60)
                assert victim.ask("begun", job=job) > 0
                assert worker.ask("load") > 0
                victim.kill()
            until(lambda: worker.ask("load") == 0, "the source noticing")
        importer = self.importer(tidy)
        into = importer.allocate(MIB)
        job = importer.open(descriptor).read(whole([MIB]), [into], deadline=60)
        assert end(job).state is JobState.DONE
        assert into == content(4, BIG)[0][:MIB]
        assert worker.leave() == 0

    def test_memory_retired_while_a_descriptor_is_out(self, tidy: ExitStack) -> None:
        worker, descriptor = self.source(tidy, 5, BIG)
        worker.ask("retire", publication=0)
        worker.ask("retire", publication=0)
        worker.ask("free", publication=0)
        importer = self.importer(tidy)
        into = [importer.allocate(size) for size in BIG]
        job = importer.open(descriptor).read(whole(BIG), into, deadline=60)
        progress = end(job)
        assert (progress.state, progress.retryable, job.completed()) == (JobState.FAILED, False, [])

    @pytest.mark.parametrize("shared", [False, True], ids=["memory", "shared"])
    def test_memory_replaced_while_a_descriptor_is_out(self, tidy: ExitStack, shared: bool) -> None:
        worker, descriptor = self.source(tidy, 6, BIG, shared=shared)
        worker.ask("overwrite", publication=0, seed=7)
        importer = self.importer(tidy)
        into = [importer.allocate(size) for size in BIG]
        job = importer.open(descriptor).read(whole(BIG), into, deadline=60)
        assert end(job).state is JobState.DONE
        for index, found in job.completed():
            # The engine cannot know; but what it says of the bytes is true, so that the manifest's digest tells.
            assert found in (None, digest(into[index]))
            as_it_was = self.sealed or (self.copies_memory and not shared)
            assert (digest(into[index]) == digest(content(6, BIG)[index])) is as_it_was

    def test_retired_midway_and_overwritten(self, tidy: ExitStack) -> None:
        worker, descriptor = self.source(tidy, 8, BIG, **self.slow(SLOW))
        importer = self.importer(tidy)
        into = [importer.allocate(size) for size in BIG]
        job = importer.open(descriptor).read(whole(BIG), into, deadline=60)
        midway(job)
        worker.ask("retire", publication=0)
        worker.ask("overwrite", publication=0, seed=9)
        worker.ask("free", publication=0)
        assert end(job).state is JobState.FAILED
        # Not a byte of what came after.
        arrived = job.poll().bytes_done
        expected = content(8, BIG)
        right = sum(len(view) for view, each in zip(into, expected, strict=True) if view == each)
        assert right <= arrived < sum(BIG)
        for index, found in job.completed():
            assert found == digest(expected[index])

    def test_strangers(self, tidy: ExitStack) -> None:
        sizes = [MIB, 100]
        worker, descriptor = self.source(tidy, 10, sizes)
        self.disturb(descriptor)
        importer = self.importer(tidy)
        into = [importer.allocate(size) for size in sizes]
        assert end(importer.open(descriptor).read(whole(sizes), into, deadline=60)).state is JobState.DONE
        assert into == content(10, sizes)
        assert worker.leave() == 0

    def test_a_thousand_visits_leave_nothing_behind(self, tidy: ExitStack) -> None:
        sizes = [MIB]
        worker, descriptor = self.source(tidy, 11, sizes)
        importer = self.importer(tidy)
        into = [importer.allocate(size) for size in sizes]

        def visit(count: int) -> None:
            for number in range(count):
                self.connect_and_leave(descriptor, number)
                if number % 10 == 0:
                    reader = importer.open(descriptor)
                    assert end(reader.read(whole(sizes), into, deadline=60)).state is JobState.DONE
                    reader.close()

        def usage() -> tuple[int, int]:
            now = worker.ask("usage")
            return now["descriptors"], now["threads"]

        seen: list[tuple[int, int]] = []

        def calm() -> bool:
            seen.append(usage())
            return len(seen) > 50 and len(set(seen[-50:])) == 1

        # What the first visits left is let go of before anything is compared.
        visit(100)
        until(calm, "the source coming to rest")
        before = seen[-1]
        resident = worker.ask("usage")["resident"]
        visit(_CONNECTS)
        until(lambda: all(now <= then for now, then in zip(usage(), before, strict=True)), f"going back to {before}")
        assert worker.ask("usage")["resident"] - resident < _GROWTH
        assert worker.leave() == 0

    @pytest.mark.parametrize("midst", [False, True], ids=["idle", "reading"])
    def test_processes_exit_cleanly_with_nothing_closed(self, tidy: ExitStack, midst: bool) -> None:
        worker, descriptor = self.source(tidy, 12, BIG, **self.slow(SLOW) if midst else {})
        ranges = [[each.region, each.offset, each.length] for each in whole(BIG)]
        order = {"descriptor": describe(descriptor), "ranges": ranges, "deadline": 60}
        first, second = self.worker(tidy), self.worker(tidy)
        for reader in (first, second):
            job = reader.ask("read", **order)
            if midst:
                assert reader.ask("begun", job=job) > 0
            else:
                result = reader.ask("ended", job=job)
                assert result["state"] == "done"
                expected = [digest(each).hex() for each in content(12, BIG)]
                assert result["found"] == expected
                assert dict(result["told"]) == dict(enumerate(expected))
        assert first.leave() == 0
        assert worker.leave() == 0
        if midst:
            assert second.ask("ended", job=0)["state"] == "failed"
        assert second.leave() == 0
