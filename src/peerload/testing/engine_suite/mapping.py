"""The contract of engines that map (`peerload.engines.base.MappingReader`), for those that do."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from peerload.engines.base import Importer, MappingReader, Publication, Reader
from peerload.errors import Fault, InvalidArgument, TransferFailed
from peerload.testing.engine_process import until
from peerload.testing.engine_suite.base import BIG, MANY, MIB, digest
from peerload.testing.engine_suite.two_processes import TwoProcessSuite
from peerload.testing.engine_worker import content, describe

__all__ = ["MappingSuite"]


class MappingSuite(TwoProcessSuite):
    """What is mapped is the source's memory, cannot change, and outlives everything."""

    def mapping_reader(self, importer: Importer, publication: Publication) -> MappingReader:
        """A reader of it, which can map."""
        reader = importer.open(publication.descriptor)
        assert isinstance(reader, MappingReader)
        return reader

    def mapped(self, reader: Reader) -> Sequence[memoryview]:
        """What it maps."""
        assert isinstance(reader, MappingReader)
        views = reader.map(deadline=60)
        assert views is not None
        return views

    @pytest.mark.parametrize("sizes", [MANY, [3 * MIB, 48 * MIB, 1], [0, 0], []], ids=["many", "large", "zero", "none"])
    def test_maps_whole_regions(self, tidy: ExitStack, sizes: list[int]) -> None:
        data = content(21, sizes)
        published = self.exporter(tidy).publish(self.regions(data))
        views = self.mapped(self.mapping_reader(self.importer(tidy), published))
        assert [view.nbytes for view in views] == sizes
        assert all(view == each for view, each in zip(views, data, strict=True))
        assert not any(view.readonly for view in views)

    def test_whoever_writes_has_pages_of_his_own(self, tidy: ExitStack) -> None:
        regions = self.regions(content(22, [MIB, 100]))
        published = self.exporter(tidy).publish(regions)
        reader = self.mapping_reader(self.importer(tidy), published)
        one, other = self.mapped(reader), self.mapped(reader)
        one[1][:5] = b"first"
        other[1][:5] = b"other"
        source = regions[1].buffer
        assert isinstance(source, memoryview)
        source[:5] = b"mine."
        third = self.mapped(reader)
        assert [bytes(each[:5]) for each in (one[1], other[1], source)] == [b"first", b"other", b"mine."]
        assert [bytes(each) for each in third] == content(22, [MIB, 100])

    def test_what_is_mapped_outlives_everything(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy), self.importer(tidy)
        data = content(23, BIG)
        regions = self.regions(data)
        published = exporter.publish(regions)
        reader = self.mapping_reader(importer, published)
        views = self.mapped(reader)
        exporter.retire(published, grace=60)  # Waits for nobody who maps.
        for region in regions:
            assert isinstance(region.buffer, memoryview)
            region.buffer[:] = bytes(region.nbytes)
        reader.close()
        importer.close()
        exporter.close()
        del regions, reader
        assert [digest(view) for view in views] == [digest(each) for each in data]

    def test_what_is_retired_is_not_mapped(self, tidy: ExitStack) -> None:
        exporter, importer = self.exporter(tidy), self.importer(tidy)
        published = exporter.publish(self.regions([b"x" * MIB]))
        reader, late = (self.mapping_reader(importer, published) for _ in range(2))
        assert self.mapped(reader)
        exporter.retire(published)
        with pytest.raises(TransferFailed) as refused:
            late.map(deadline=60)
        assert not refused.value.retryable
        assert refused.value.fault is not Fault.OURS

    def test_files_are_read_and_not_mapped(self, tidy: ExitStack, tmp_path: Path) -> None:
        worker, descriptor = self.source(tidy, 27, [MIB, 100], tmp_path / "weights")
        reader = self.importer(tidy).open(descriptor)
        assert isinstance(reader, MappingReader)
        assert reader.map(deadline=60) is None
        worker.kill()

    def test_bad_calls(self, tidy: ExitStack) -> None:
        importer = self.importer(tidy)
        published = self.exporter(tidy).publish(self.regions([b"x" * MIB]))
        reader = self.mapping_reader(importer, published)
        for deadline in (0.0, -1.0, float("nan")):
            with pytest.raises(InvalidArgument, match="deadline"):
                reader.map(deadline=deadline)
        reader.close()
        with pytest.raises(InvalidArgument, match="closed"):
            reader.map(deadline=60)

    def test_a_source_killed_while_mapped(self, tidy: ExitStack) -> None:
        worker, descriptor = self.source(tidy, 24, BIG)
        reader = self.importer(tidy).open(descriptor)
        assert isinstance(reader, MappingReader)
        views = self.mapped(reader)
        worker.kill()
        assert [digest(view) for view in views] == [digest(each) for each in content(24, BIG)]
        with pytest.raises(TransferFailed):
            reader.map(deadline=60)

    def test_targets_killed_while_they_map(self, tidy: ExitStack) -> None:
        worker, descriptor = self.source(tidy, 25, BIG)
        for _ in range(3):
            with self.worker(tidy) as victim:
                found = victim.ask("map", descriptor=describe(descriptor), deadline=60)
                assert found == [digest(each).hex() for each in content(25, BIG)]
                victim.kill()
        until(lambda: worker.ask("load") == 0, "the source noticing")
        worker.ask("retire", publication=0)
        worker.ask("free", publication=0)
        assert worker.leave() == 0

    def test_a_thousand_mappings_leave_nothing_behind(self, tidy: ExitStack) -> None:
        worker, descriptor = self.source(tidy, 26, [MIB])
        importer = self.importer(tidy)

        def held() -> tuple[int, int]:
            gc.collect()
            return sum(1 for _ in Path("/proc/self/fd").iterdir()), len(
                Path("/proc/self/maps").read_text().splitlines()
            )

        def visit(count: int) -> None:
            for _ in range(count):
                reader = importer.open(descriptor)
                assert isinstance(reader, MappingReader)
                [view] = self.mapped(reader)
                assert view[:1]
                reader.close()

        visit(50)
        descriptors, mappings = held()
        visit(1_000)
        now, mapped = held()
        assert now <= descriptors
        assert mapped <= mappings + 5  # Of allocators.
        assert worker.leave() == 0
