"""A child's windows: begun as they are asked for, waited for one after the other, and told of in their order."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence

import pytest

from peerload.engines.child import message
from peerload.engines.child.driver import Span
from peerload.engines.child.message import Message
from peerload.engines.child.run import SourceLoop, TargetLoop
from peerload.engines.shared import allocate_arena, shared_place

WINDOW = array("Q", (4096, 0, 0, 0, 1)).tobytes()


class Side:
    """Notes what it is told, and ends what it began when it is let."""

    def __init__(self, *, at_once: Sequence[int] = ()) -> None:
        self.told: list[str] = []
        self.may_end = threading.Event()
        self._at_once = at_once
        self._begun = 0

    def connect(self, reach: bytes) -> None:
        raise AssertionError

    drop = connect

    def hold(self, span: Span) -> None:
        self.told.append("hold")

    def begin(self, rows: memoryview) -> Callable[[], None] | None:
        self._begun += 1
        number = self._begun
        self.told.append(f"begin {number}")

        def end() -> None:
            assert self.may_end.wait(60)
            self.told.append(f"end {number}")

        return None if number in self._at_once else end


class Owner:
    """The other end of a child that is a thread here."""

    def __init__(self) -> None:
        self.sock, self.theirs = message.pair()
        self.sock.settimeout(60)
        self.memory = allocate_arena(4096)
        self._thread: threading.Thread | None = None

    def start(self, run: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def hold(self) -> None:
        place = shared_place(self.memory)
        assert place is not None
        message.send(self.sock, {"do": "hold", "new": [["it", 0, 4096, None]]}, fds=[place.fd])

    def ask(self, count: int) -> None:
        for _ in range(count):
            message.send(self.sock, {"do": "read"}, WINDOW)

    def hear(self) -> Message | None:
        return message.receive(self.sock)

    def close(self) -> None:
        self.sock.close()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()
        self.theirs.close()


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


def test_what_is_asked_for_is_begun_before_the_first_is_waited_for(owner: Owner) -> None:
    side = Side()
    owner.hold()
    owner.ask(3)
    side.may_end.set()
    owner.start(TargetLoop(side, owner.theirs).run)
    assert [owner.hear() for _ in range(4)] == [Message({})] * 4
    assert side.told == ["hold", "begin 1", "begin 2", "begin 3", "end 1", "end 2", "end 3"]


def test_one_at_a_time_where_the_process_goes_on(owner: Owner) -> None:
    side = Side()
    owner.hold()
    owner.ask(2)
    side.may_end.set()
    owner.start(TargetLoop(side, owner.theirs, at_a_time=1).run)
    assert [owner.hear() for _ in range(3)] == [Message({})] * 3
    assert side.told == ["hold", "begin 1", "end 1", "begin 2", "end 2"]


def test_what_is_in_place_at_once_is_told_of_at_once_and_in_its_turn(owner: Owner) -> None:
    side = Side(at_once=[1, 3])
    owner.hold()
    owner.ask(3)
    owner.start(TargetLoop(side, owner.theirs).run)
    assert [owner.hear() for _ in range(2)] == [Message({})] * 2
    side.may_end.set()
    assert [owner.hear() for _ in range(2)] == [Message({})] * 2
    assert side.told == ["hold", "begin 1", "begin 2", "begin 3", "end 2"]


class Serving:
    """Has threads of its own."""

    writes = False

    def __init__(self) -> None:
        self.asked = 0

    def offer(self, places: Sequence[Span]) -> bytes:
        return b"here"

    def progress(self) -> None:
        self.asked += 1


def test_who_needs_no_calls_gets_one_an_order(owner: Owner) -> None:
    side = Serving()
    owner.start(SourceLoop(side, owner.theirs).run)
    for order in ("serve", "ping", "ping", "ping", "rest", "ping"):
        message.send(owner.sock, {"do": order})
    assert [owner.hear() for _ in range(4)] == [Message({})] * 4
    # Before it waits for an order, while it serves: there was nothing else that it waited for.
    assert side.asked == 4
