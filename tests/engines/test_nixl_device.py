"""NIXL with a real GPU's memory, on either side, where there is a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import xxhash

from peerload.engines.base import Descriptor, DeviceMemory, Importer, Job, JobState, Region
from peerload.engines.child.inside import poisoned
from peerload.errors import InvalidArgument
from peerload.plugins import open_engine
from peerload.testing.engine_suite.base import end, whole
from peerload.testing.engine_worker import undescribe

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

MIB = 1 << 20
SIZES = [3 * MIB + 1, 64 * MIB, *([5_000] * 300), 0, 7]
SOURCE = Path(__file__).with_name("gpu_source.py")


def on_gpu(tensor: Any) -> DeviceMemory:
    return DeviceMemory(tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor.device.index or 0, tensor)


def expected(seed: int, sizes: list[int]) -> list[Any]:
    torch.manual_seed(seed)
    return list(torch.randint(0, 256, (sum(sizes),), dtype=torch.uint8).split(sizes))


@contextmanager
def gpu_source(seed: int, sizes: list[int]) -> Iterator[tuple[subprocess.Popen[str], Descriptor]]:
    command = [sys.executable, str(SOURCE), str(seed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(sizes), file=process.stdin, flush=True)  # of many tensors they are too long for an argument
        yield process, undescribe(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def tidy() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def importer(tidy: ExitStack) -> Importer:
    importer = open_engine("nixl").importer()
    tidy.callback(importer.close)
    return importer


def report(what: str, nbytes: int, seconds: float) -> None:
    print(f"FIGURE {what}: {nbytes / seconds / 1e9:.2f} GB/s ({nbytes:,} bytes in {seconds:.3f} s)")


def timed(job: Job) -> float:
    begin = time.perf_counter()
    progress = end(job)
    assert progress.state is JobState.DONE, progress
    return time.perf_counter() - begin


def test_from_a_gpu_to_host_memory(importer: Importer) -> None:
    with gpu_source(1, SIZES) as (_, descriptor):
        into = [importer.allocate(size) for size in SIZES]
        job = importer.open(descriptor).read(whole(SIZES), into, deadline=120)
        assert end(job).state is JobState.DONE, job.poll()
        told = dict(job.completed())
        for index, each in enumerate(expected(1, SIZES)):
            assert bytes(into[index]) == each.numpy().tobytes()
            assert told[index] == xxhash.xxh3_128_digest(into[index])


def test_from_a_gpu_to_a_gpu(importer: Importer) -> None:
    with gpu_source(2, SIZES) as (_, descriptor):
        into = [torch.zeros(size, dtype=torch.uint8, device="cuda") for size in SIZES]
        torch.cuda.synchronize()
        job = importer.open(descriptor).read(whole(SIZES), [on_gpu(each) for each in into], deadline=120)
        assert end(job).state is JobState.DONE, job.poll()
        assert sorted(index for index, _ in job.completed()) == list(range(len(SIZES)))
        for index, each in enumerate(expected(2, SIZES)):
            assert torch.equal(into[index].cpu(), each)
        assert poisoned() == []


def test_from_host_memory_to_a_gpu(tidy: ExitStack, importer: Importer) -> None:
    exporter = open_engine("nixl").exporter("127.0.0.1")
    tidy.callback(exporter.close)
    memory = expected(3, SIZES)
    published = exporter.publish([Region(memoryview(each.numpy())) for each in memory])
    into = [torch.zeros(size, dtype=torch.uint8, device="cuda") for size in SIZES]
    torch.cuda.synchronize()
    job = importer.open(published.descriptor).read(whole(SIZES), [on_gpu(each) for each in into], deadline=120)
    assert end(job).state is JobState.DONE, job.poll()
    assert all(torch.equal(one.cpu(), other) for one, other in zip(into, memory, strict=True))


def test_both_kinds_of_memory_in_one_publication(tidy: ExitStack, importer: Importer) -> None:
    exporter = open_engine("nixl").exporter("127.0.0.1")
    tidy.callback(exporter.close)
    sizes = [2 * MIB, 3 * MIB, 5]
    memory = expected(4, sizes)
    gpu = [memory[0].cuda(), memory[2].cuda()]
    torch.cuda.synchronize()
    published = exporter.publish(
        [Region(on_gpu(gpu[0])), Region(memoryview(memory[1].numpy())), Region(on_gpu(gpu[1]))]
    )
    into = [importer.allocate(size) for size in sizes]
    job = importer.open(published.descriptor).read(whole(sizes), into, deadline=120)
    assert end(job).state is JobState.DONE, job.poll()
    assert [bytes(each) for each in into] == [each.numpy().tobytes() for each in memory]
    exporter.retire(published)
    assert end(importer.open(published.descriptor).read(whole(sizes), into, deadline=60)).state is JobState.FAILED


def test_a_destination_whose_read_was_given_up_is_poisoned(importer: Importer) -> None:
    sizes = [1024 * MIB]
    with gpu_source(5, sizes) as (source, descriptor):
        reader = importer.open(descriptor)
        into = torch.zeros(sizes[0], dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        source.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, source.pid, os.WSTOPPED | os.WNOWAIT)
        job = reader.read(whole(sizes), [on_gpu(into)], deadline=2)
        assert end(job).state is JobState.FAILED
        source.send_signal(signal.SIGCONT)
        # Stopped before it answered anything, it was not being read from: nothing to be afraid of.
        assert poisoned() == []
        job = reader.read(whole(sizes), [on_gpu(into)], deadline=120)
        while not job.wait(0.001).bytes_done:
            pass
        source.send_signal(signal.SIGSTOP)
        job.abandon()
        print("FIGURE poisoned after a source stopped in the middle:", bool(poisoned()), job.poll())
        if poisoned():
            with pytest.raises(InvalidArgument, match="given up"):
                reader.read(whole(sizes), [on_gpu(into)], deadline=2)


def test_a_source_that_is_killed_leaves_the_device_usable(importer: Importer) -> None:
    sizes = [1024 * MIB] * 4
    into = [torch.zeros(size, dtype=torch.uint8, device="cuda") for size in sizes]
    torch.cuda.synchronize()
    with gpu_source(7, sizes) as (source, descriptor):
        reader = importer.open(descriptor)
        assert end(reader.read(whole(sizes), [on_gpu(each) for each in into], deadline=60)).state is JobState.DONE
        job = reader.read(whole(sizes), [on_gpu(each) for each in into], deadline=30)
        while job.wait(0.001).state is JobState.RUNNING and not job.poll().bytes_done:
            pass
        source.kill()
        source.wait()
        print("FIGURE killed in the middle:", end(job), bool(poisoned()))
    elsewhere = [torch.zeros(size, dtype=torch.uint8, device="cuda") for size in SIZES]
    torch.cuda.synchronize()
    assert (
        end(reader.read(whole(sizes), [on_gpu(torch.zeros_like(each)) for each in into], deadline=30)).state
        is JobState.FAILED
    )
    with gpu_source(8, SIZES) as (_, descriptor):
        job = importer.open(descriptor).read(whole(SIZES), [on_gpu(each) for each in elsewhere], deadline=60)
        assert end(job).state is JobState.DONE, job.poll()
    assert all(torch.equal(one.cpu(), other) for one, other in zip(elsewhere, expected(8, SIZES), strict=True))


@pytest.mark.parametrize("kind", ["gpu to host", "gpu to gpu", "host to gpu"])
def test_figures(tidy: ExitStack, importer: Importer, kind: str) -> None:
    for name, sizes in (("4", [256 * MIB] * 4), ("2,000", [512 * 1024] * 2000), ("20,000", [52_000] * 20_000)):
        total = sum(sizes)
        with ExitStack() as own:
            if kind.startswith("gpu"):
                _, descriptor = own.enter_context(gpu_source(6, sizes))
            else:
                exporter = open_engine("nixl").exporter("127.0.0.1")
                own.callback(exporter.close)
                arena = importer.allocate(total)
                begin = time.perf_counter()
                views, at = [], 0
                for size in sizes:
                    views.append(arena[at : at + size])
                    at += size
                descriptor = exporter.publish([Region(view) for view in views]).descriptor
                print(f"FIGURE publish of {name} tensors: {time.perf_counter() - begin:.3f} s")
            whole_device = torch.zeros(total, dtype=torch.uint8, device="cuda")
            torch.cuda.synchronize()
            host = importer.allocate(total)
            reader = importer.open(descriptor)
            for number in range(3):
                parts: list[Any] = []
                at = 0
                for size in sizes:
                    part = whole_device[at : at + size]
                    parts.append(host[at : at + size] if kind.endswith("host") else on_gpu(part))
                    at += size
                seconds = timed(reader.read(whole(sizes), parts, deadline=120))
                report(f"{kind}, {name} tensors, read {number}", total, seconds)
            torch.manual_seed(6)
            if kind.startswith("gpu"):
                right = torch.randint(0, 256, (total,), dtype=torch.uint8)
                found = torch.frombuffer(host, dtype=torch.uint8) if kind.endswith("host") else whole_device.cpu()
                assert torch.equal(found, right)
