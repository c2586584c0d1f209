"""The part of the engine contract that shows within one process."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerload.engines.base import Descriptor, JobState, Range, Region
from peerload.engines.pieces import Pieces
from peerload.errors import InvalidArgument, TransferFailed
from peerload.testing.engine_process import until
from peerload.testing.engine_suite.base import BIG, MANY, MARK, MIB, SLOW, SuiteBase, digest, end, midway, whole
from peerload.testing.engine_worker import content

__all__ = ["InProcessSuite"]


class InProcessSuite(SuiteBase):
    """Source and target in the test's own process, through the engine all the same."""

    @pytest.mark.parametrize("sizes", [MANY, [3 * MIB, 48 * MIB, 1], [0, 0], []], ids=["many", "large", "zero", "none"])
    def test_reads_whole_regions(self, tidy: ExitStack, sizes: list[int]) -> None:
        data = content(1, sizes)
        importer = self.importer(tidy)
        published = self.exporter(tidy).publish(self.regions(data))
        assert published.sizes == tuple(sizes)
        reader = importer.open(published.descriptor)
        memory = [importer.allocate(size) for size in sizes]
        job = reader.read(whole(sizes), memory, deadline=60)
        progress = end(job)
        assert (progress.state, progress.bytes_done) == (JobState.DONE, sum(sizes))
        told = job.completed()
        assert sorted(index for index, _ in told) == list(range(len(sizes)))
        for index, found in told:
            assert found in (None, digest(data[index]))
        assert job.completed() == []
        assert all(view == expected for view, expected in zip(memory, data, strict=True))

    def test_tells_each_range_once_while_it_runs(self, tidy: ExitStack) -> None:
        data = content(2, [64 * 1024] * 64)
        importer = self.importer(tidy)
        published = self.exporter(tidy, **self.slow(8 * MIB)).publish(self.regions(data))
        memory = [importer.allocate(len(each)) for each in data]
        job = importer.open(published.descriptor).read(whole(published.sizes), memory, deadline=60)
        told = []
        while job.poll().state is JobState.RUNNING:
            job.wait(1)
            news = job.completed()
            for index, _ in news:
                assert memory[index] == data[index]  # It is in place the moment it is told.
            told += news
        told += job.completed()
        assert sorted(index for index, _ in told) == list(range(64))

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_reads_any_ranges(self, tidy: ExitStack, data: st.DataObject) -> None:
        sizes = [0, 1, 4_097, 300_001]
        memory = content(3, sizes)
        with ExitStack() as own:
            importer = self.importer(own)
            published = self.exporter(own).publish(self.regions(memory))
            reader = importer.open(published.descriptor)
            for _ in range(2):
                ranges = []
                for _ in range(data.draw(st.integers(0, 20))):
                    region = data.draw(st.integers(0, len(sizes) - 1))
                    start = data.draw(st.integers(0, sizes[region]))
                    ranges.append(Range(region, start, data.draw(st.integers(0, sizes[region] - start))))
                lengths = [each.length for each in ranges]
                starts = list(accumulate(lengths, initial=0))
                into: Sequence[memoryview] = [importer.allocate(length) for length in lengths]
                if data.draw(st.booleans(), label="in one memory"):
                    into = Pieces([importer.allocate(starts[-1])], [(0, start) for start in starts[:-1]], lengths)
                job = reader.read(ranges, into, deadline=60)
                assert end(job).state is JobState.DONE
                expected = [memory[each.region][each.offset : each.offset + each.length] for each in ranges]
                assert list(into) == expected
                assert dict(job.completed()) == {index: digest(each) for index, each in enumerate(expected)}

    def test_a_read_only_mapping_can_be_closed_after_retire(self, tidy: ExitStack, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(content(4, [5 * MIB])[0])
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        expected = digest(mapping)
        exporter, importer = self.exporter(tidy), self.importer(tidy)
        view = memoryview(mapping)
        published = exporter.publish([Region(view), Region(view[MIB:])])
        view.release()
        memory = importer.allocate(5 * MIB)
        job = importer.open(published.descriptor).read([Range(0, 0, 5 * MIB)], [memory], deadline=60)
        assert end(job).state is JobState.DONE
        assert digest(memory) == expected
        exporter.retire(published)
        mapping.close()

    @pytest.mark.parametrize("how", ["done", "abandoned", "failed"])
    def test_the_destination_is_let_go_of(self, tidy: ExitStack, how: str) -> None:
        exporter = self.exporter(tidy, **({} if how == "done" else self.slow(SLOW)))
        importer = self.importer(tidy)
        mapping = mmap.mmap(-1, BIG[2])
        view = memoryview(mapping)
        if not importer.takes(view):
            view.release()
            mapping.close()
            return
        published = exporter.publish(self.regions(content(5, BIG)))
        job = importer.open(published.descriptor).read([Range(2, 0, BIG[2])], [view], deadline=60)
        view.release()
        if how != "done":
            midway(job)
        if how == "abandoned":
            job.abandon()
        elif how == "failed":
            exporter.retire(published)
        assert end(job).state is (JobState.DONE if how == "done" else JobState.FAILED)
        mapping.close()

    def test_a_retired_publication_is_refused(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy), self.importer(tidy)
        memory = bytearray(content(6, [MIB])[0])
        kept = exporter.publish(self.regions([memory]))
        published = exporter.publish(self.regions([memory]))
        used, unused = importer.open(published.descriptor), importer.open(published.descriptor)
        into = importer.allocate(MIB)
        assert end(used.read([Range(0, 0, MIB)], [into], deadline=60)).state is JobState.DONE
        exporter.retire(published)
        exporter.retire(published, grace=60)
        for reader in (used, unused):
            progress = end(reader.read([Range(0, 0, MIB)], [into], deadline=60))
            assert (progress.state, progress.retryable) == (JobState.FAILED, False)
            assert progress.reason
        # The other publication of the same memory is not concerned.
        assert end(importer.open(kept.descriptor).read([Range(0, 0, MIB)], [into], deadline=60)).state is JobState.DONE
        exporter.retire(kept)
        memory.clear()  # Raises if anything still holds a view of it.

    def test_retire_cuts_a_read_off(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy, **self.slow(SLOW)), self.importer(tidy)
        data = content(7, BIG)
        memory = [bytearray(each) for each in data]
        published = exporter.publish(self.regions(memory))
        into = [importer.allocate(size) for size in BIG]
        job = importer.open(published.descriptor).read(whole(BIG), into, deadline=60)
        midway(job)
        exporter.retire(published)
        for each in memory:
            each[:] = bytes(len(each))
            each.clear()
        assert end(job).state is JobState.FAILED
        for index, found in job.completed():
            assert found == digest(into[index]) == digest(data[index])
        assert exporter.load() == 0

    def test_retire_lets_a_read_finish_within_its_grace(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy, **self.slow(16 * MIB)), self.importer(tidy)
        data = content(8, [4 * MIB, 8 * MIB])
        published = exporter.publish(self.regions(data))
        into = [importer.allocate(len(each)) for each in data]
        job = importer.open(published.descriptor).read(whole(published.sizes), into, deadline=60)
        midway(job)
        retiring = threading.Thread(target=exporter.retire, args=(published,), kwargs={"grace": 60.0})
        retiring.start()
        late = importer.open(published.descriptor)
        until(
            lambda: end(late.read([Range(0, 0, 1)], [importer.allocate(1)], deadline=60)).state is JobState.FAILED,
            "new reads being refused",
        )
        assert end(job).state is JobState.DONE
        assert into == data
        retiring.join(30)
        assert not retiring.is_alive()

    @pytest.mark.parametrize("when", ["at once", "midway", "done", "failed"])
    def test_abandon(self, tidy: ExitStack, when: str) -> None:
        exporter = self.exporter(tidy, **({} if when == "done" else self.slow(SLOW)))
        importer = self.importer(tidy)
        published = exporter.publish(self.regions(content(9, BIG)))
        into = [importer.allocate(size) for size in BIG]
        job = importer.open(published.descriptor).read(whole(BIG), into, deadline=60)
        if when != "at once":
            midway(job) if when != "done" else end(job)
        if when == "failed":
            exporter.retire(published)
            end(job)
        job.abandon()
        marks = bytes([MARK]) * max(BIG)
        for view in into:
            view[:] = marks[: len(view)]
        progress = job.poll()
        assert progress.state is (JobState.DONE if when == "done" else JobState.FAILED)
        job.abandon()
        until(lambda: exporter.load() == 0, "the source noticing")
        assert all(view == marks[: len(view)] for view in into)
        assert job.poll() == job.wait(0) == progress

    def test_a_reader_goes_on_after_an_abandoned_job(self, tidy: ExitStack) -> None:
        importer = self.importer(tidy)
        published = self.exporter(tidy, **self.slow(SLOW)).publish(self.regions(content(10, BIG)))
        reader = importer.open(published.descriptor)
        for _ in range(3):
            job = reader.read(whole(BIG), [importer.allocate(size) for size in BIG], deadline=60)
            midway(job)
            job.abandon()
        into = importer.allocate(1000)
        assert end(reader.read([Range(1, 17, 1000)], [into], deadline=60)).state is JobState.DONE
        assert into == content(10, BIG)[1][17:1017]

    def test_a_deadline_fails_the_job(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy, **self.slow(SLOW)), self.importer(tidy)
        published = exporter.publish(self.regions(content(11, BIG)))
        into = [importer.allocate(size) for size in BIG]
        job = importer.open(published.descriptor).read(whole(BIG), into, deadline=0.5)
        progress = end(job)
        assert (progress.state, progress.retryable) == (JobState.FAILED, True)
        assert "deadline" in progress.reason

    def test_load(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy, **self.slow(SLOW)), self.importer(tidy)
        assert exporter.load() == 0
        published = exporter.publish(self.regions(content(12, BIG)))
        reader = importer.open(published.descriptor)
        job = reader.read(whole(BIG), [importer.allocate(size) for size in BIG], deadline=60)
        midway(job)
        assert 0 < exporter.load() <= 1
        job.abandon()
        until(lambda: exporter.load() == 0, "the load going back to 0")

    def test_several_reads_at_a_time(self, tidy: ExitStack) -> None:
        sizes = [200_000] * 20
        data = content(13, sizes)
        importer = self.importer(tidy)
        published = self.exporter(tidy).publish(self.regions(data))
        readers = [importer.open(published.descriptor) for _ in range(3)]
        jobs = []
        for number in range(12):
            into = [importer.allocate(size) for size in sizes]
            jobs.append((readers[number % 3].read(whole(sizes), into, deadline=60), into))
        for job, into in jobs:
            assert end(job).state is JobState.DONE
            assert into == data

    @pytest.mark.parametrize("who", ["reader", "importer", "exporter"])
    def test_close_ends_what_runs(self, tidy: ExitStack, who: str) -> None:
        exporter, importer = self.exporter(tidy, **self.slow(SLOW)), self.importer(tidy)
        published = exporter.publish(self.regions(content(14, BIG)))
        reader = importer.open(published.descriptor)
        job = reader.read(whole(BIG), [importer.allocate(size) for size in BIG], deadline=60)
        midway(job)
        for _ in range(2):
            {"reader": reader.close, "importer": importer.close, "exporter": exporter.close}[who]()
        assert end(job).state is JobState.FAILED
        if who != "exporter":
            with pytest.raises(InvalidArgument):
                reader.read([Range(0, 0, 1)], [importer.allocate(1)], deadline=60)
        else:
            with pytest.raises(InvalidArgument):
                exporter.publish([])

    def test_bad_arguments(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy), self.importer(tidy)
        published = exporter.publish(self.regions([bytes(100), b""]))
        reader = importer.open(published.descriptor)
        one = importer.allocate(1)
        for wrong in (Range(2, 0, 1), Range(-1, 0, 1), Range(0, 100, 1), Range(0, -1, 1), Range(1, 0, 1)):
            with pytest.raises(InvalidArgument):
                reader.read([wrong], [one], deadline=60)
        with pytest.raises(InvalidArgument):
            reader.read([Range(0, 0, -1)], [memoryview(bytearray())], deadline=60)
        with pytest.raises(InvalidArgument):
            reader.read([Range(0, 2**64 - 1, 2)], [importer.allocate(2)], deadline=60)
        with pytest.raises(InvalidArgument, match="destinations"):
            reader.read([Range(0, 0, 2)], [one], deadline=60)
        with pytest.raises(InvalidArgument, match="destinations"):
            reader.read([Range(0, 0, 1)], [], deadline=60)
        with pytest.raises(InvalidArgument, match="destinations"):
            reader.read([Range(0, 0, 1)], [memoryview(b"x")], deadline=60)
        for deadline in (0.0, -1.0, float("nan")):
            with pytest.raises(InvalidArgument, match="deadline"):
                reader.read([Range(0, 0, 1)], [one], deadline=deadline)
        with pytest.raises(InvalidArgument):
            exporter.publish([Region(memoryview(bytearray(10))[::2])])
        with pytest.raises(InvalidArgument):
            importer.open(Descriptor("another", "there", b""))
        with pytest.raises(InvalidArgument):
            importer.allocate(-1)
        with pytest.raises(InvalidArgument):
            self.open(no_such_setting=1)
        with pytest.raises(InvalidArgument):
            self.open().exporter("")
        # None of that did any harm.
        assert end(reader.read([Range(0, 0, 1)], [one], deadline=60)).state is JobState.DONE

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
    def test_made_up_descriptors(self, tidy: ExitStack, noise: bytes, place: int, byte: int) -> None:
        with ExitStack() as own:
            importer = self.importer(own)
            good = self.exporter(own).publish(self.regions([b"\x07" * 10, bytes(20)])).descriptor
            changed = bytearray(good.data)
            changed[place % len(changed)] ^= byte or 1
            data = good.data
            made_up = [noise, data + noise, data[:place], bytes(changed), b"", *self.other_descriptors(good)]
            for each in made_up:
                if each == data:
                    continue
                descriptor = Descriptor(good.engine, good.address, each)
                try:
                    reader = importer.open(descriptor)
                    into = importer.allocate(1)
                    job = reader.read([Range(0, 0, 1)], [into], deadline=60)
                except (TransferFailed, InvalidArgument):
                    continue
                # Where the change is in something that does not matter for this read, the read is a good one.
                assert end(job).state is JobState.FAILED or bytes(into) == b"\x07"

    def test_descriptors_are_not_shown(self, tidy: ExitStack) -> None:
        published = self.exporter(tidy).publish(self.regions([b"x"]))
        assert repr(published.descriptor.data)[2:-1] not in repr(published)
        assert published.descriptor.engine == self.engine == self.open().name
        assert published.descriptor.address

    def test_allocated_memory(self, tidy: ExitStack) -> None:
        importer = self.importer(tidy)
        for size in (0, 1, 4096, 3 * MIB + 1):
            view = importer.allocate(size)
            assert (view.nbytes, view.readonly, view.format, view.ndim) == (size, False, "B", 1)
            assert view == bytes(size)
            view[:] = os.urandom(size)
