"""The parts that engines share."""

from __future__ import annotations

import threading
from array import array

import pytest

from peerload.clock import SystemClock
from peerload.engines.base import JobState, Range
from peerload.engines.checks import destination_views
from peerload.engines.job import EMPTY_DIGEST, LaneJob
from peerload.engines.pieces import Pieces
from peerload.engines.throttle import Throttle
from peerload.errors import InvalidArgument
from peerload.plugins import engine_names, open_engine
from peerload.testing import ManualClock


class Waits(threading.Event):
    """Notes how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return self.is_set()


def test_a_throttle_hands_out_turns() -> None:
    throttle = Throttle(1000, ManualClock())
    assert throttle.quantum == 50
    one, other = Waits(), Waits()
    assert throttle.wait(50, one)
    assert throttle.wait(50, other)
    assert throttle.wait(100, one)
    assert throttle.wait(1, other)
    assert (one.seconds, other.seconds) == (pytest.approx([0.1]), pytest.approx([0.05, 0.2]))
    one.set()
    assert not throttle.wait(1, one)


def test_engines_by_name() -> None:
    assert {"memory", "tcp"} <= set(engine_names())
    for name in engine_names():
        assert open_engine(name).name == name
    with pytest.raises(InvalidArgument, match=r"memory, .*tcp"):
        open_engine("pigeon")


def job(*sizes: int) -> LaneJob:
    return LaneJob([memoryview(bytearray(size)) for size in sizes], deadline=60, clock=SystemClock())


def test_a_job_of_nothing_is_done() -> None:
    assert job().poll().state is JobState.DONE
    assert job(0, 0).completed() == [(0, EMPTY_DIGEST), (1, EMPTY_DIGEST)]


def test_a_job_ends_only_when_no_lane_is_inside() -> None:
    running = job(10)
    stopped = threading.Event()
    running.lane_started()
    assert running.enter(stopped.set) is not None
    running.fail("broken")
    running.fail("again")
    assert stopped.is_set()
    assert running.over
    assert running.poll().state is JobState.RUNNING
    abandoning = threading.Thread(target=running.abandon)
    abandoning.start()
    running.leave(stopped.set)
    abandoning.join(30)
    assert not abandoning.is_alive()
    assert (running.poll().state, running.poll().reason) == (JobState.FAILED, "broken")
    assert running.enter(stopped.set) is None


def test_a_lane_that_comes_late_finds_the_door_shut() -> None:
    running = job(10)
    running.lane_started()
    running.abandon()
    assert running.enter(lambda: None) is None
    assert running.poll().reason == "abandoned"


def test_a_job_fails_with_its_last_lane() -> None:
    running = job(10)
    for _ in range(2):
        running.lane_started()
    running.lane_ended("busy")
    assert running.poll().state is JobState.RUNNING
    running.lane_ended("busy too")
    assert (running.poll().state, running.poll().reason) == (JobState.FAILED, "busy too")


def test_what_is_done_cannot_fail() -> None:
    running = job(3)
    running.lane_started()
    running.enter(lambda: None)
    running.arrived(3, [(0, b"digest")])
    running.fail("too late")
    running.lane_ended()
    assert running.poll().state is JobState.RUNNING  # A lane is inside still.
    assert running.completed() == [(0, b"digest")]


def test_pieces_are_views_of_their_memories() -> None:
    memory = memoryview(bytearray(b"abcdef"))
    pieces = Pieces([memory[:3], memory[3:]], [(0, 1), None, (1, 0)], [2, 0, 3])
    assert [bytes(each) for each in pieces] == [b"bc", b"", b"def"]
    assert [bytes(each) for each in pieces[1:]] == [b"", b"def"]
    pieces[0][:] = b"BC"
    assert memory == b"aBCdef"


@pytest.mark.parametrize(
    ("memory", "place", "size", "text"),
    [
        (bytearray(4), (0, 0), 3, r"destinations\[0\]: holds 3 bytes, its range has 4"),
        (bytearray(4), (0, 1), 4, r"destinations\[0\]: does not lie within its memory"),
        (bytearray(4), None, 4, r"destinations\[0\]: does not lie within its memory"),
        (bytes(4), (0, 0), 4, "destinations: must be writable"),
    ],
)
def test_pieces_that_are_no_destinations(
    memory: bytes | bytearray, place: tuple[int, int] | None, size: int, text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        destination_views([Range(0, 0, 4)], Pieces([memoryview(memory)], [place], [size]))


def test_a_job_lets_go_of_what_its_pieces_lie_in() -> None:
    memory = array("I", [1, 2])
    with memoryview(memory) as view:
        views = destination_views([Range(0, 0, 8)], Pieces([view], [(0, 0)], [8]))
    job = LaneJob(views, deadline=60, clock=SystemClock())
    job.abandon()
    memory.append(3)  # Nobody has a view of it.
