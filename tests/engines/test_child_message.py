"""What goes between a process and its children."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from peerload.engines.child import message


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = message.pair()
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize("size", [0, 1, 1 << 17, (1 << 17) + 1, 5_000_000])
@pytest.mark.parametrize("count", [0, 1, message.MAX_FDS])
def test_words_payload_and_descriptors_arrive(ends: tuple[socket.socket, socket.socket], size: int, count: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    pipes = [os.pipe() for _ in range(count)]
    try:
        message.send(ends[0], {"do": "it", "number": 7}, payload, [reading for reading, _ in pipes])
        found = message.receive(ends[1])
        assert found is not None
        assert (found.words, found.payload, len(found.fds)) == ({"do": "it", "number": 7}, payload, count)
        for fd, (_, writing) in zip(found.fds, pipes, strict=True):
            os.write(writing, b"x")
            assert os.read(fd, 1) == b"x"
            assert not os.get_inheritable(fd)
            os.close(fd)
    finally:
        for pipe in pipes:
            os.close(pipe[0])
            os.close(pipe[1])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_words_may_be_many(ends: tuple[socket.socket, socket.socket]) -> None:
    words = {"rows": list(range(100_000))}
    message.send(ends[0], words, b"payload")
    found = message.receive(ends[1])
    assert found is not None
    assert (found.words, found.payload, found.fds) == (words, b"payload", ())


def test_messages_stay_apart_and_end(ends: tuple[socket.socket, socket.socket]) -> None:
    message.send(ends[0], {"first": 1})
    message.send(ends[0], {}, b"\n{}\n")
    ends[0].close()
    first, second = message.receive(ends[1]), message.receive(ends[1])
    assert first is not None
    assert second is not None
    assert (first.words, first.payload, second.words, second.payload) == ({"first": 1}, b"", {}, b"\n{}\n")
    assert message.receive(ends[1]) is None
    with pytest.raises(ConnectionError):
        message.send(ends[1], {})


def test_what_was_said_before_the_end_is_heard_whatever_was_left_unread(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    message.send(ends[0], {"last": "words"})
    message.send(ends[1], {"never": "read"})
    ends[0].close()
    found = message.receive(ends[1])
    assert found is not None
    assert found.words == {"last": "words"}
    assert message.receive(ends[1]) is None


def test_too_many_descriptors_are_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ValueError, match="too many"):
        message.send(ends[1], {}, b"", [0] * (message.MAX_FDS + 1))


@pytest.mark.parametrize(
    "packet", [b"{", b"[]\n", b"\xff\xfe\n", b"memfd 9", b"memfd x", b"memfd 99999999999999999999", b"[" * 90_000]
)
@pytest.mark.parametrize("count", [0, 1])
def test_what_is_no_message_is_an_error_and_leaves_nothing_open(
    ends: tuple[socket.socket, socket.socket], packet: bytes, count: int
) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with os.fdopen(os.memfd_create("x"), "wb") as file:
        socket.send_fds(ends[0], [packet], [file.fileno()] * count)
        with pytest.raises(OSError, match="no message"):
            message.receive(ends[1])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
