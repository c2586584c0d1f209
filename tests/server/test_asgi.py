"""gRPC over ASGI: what headers and bodies say, however a client cuts and bends them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.errors import LimitExceeded
from peerload.server.admission import Admission
from peerload.server.fronts.asgi.app import Application
from peerload.server.fronts.asgi.framing import Disconnected, Messages, prefix
from peerload.server.fronts.asgi.headers import encoded_binary, encoded_message, metadata_of, timeout_of
from peerload.server.fronts.asgi.inflate import Corrupt, TooLarge, inflate, most_inflated
from peerload.server.fronts.asgi.timer import Timer
from peerload.server.fronts.asgi.waited import Waited
from peerload.server.limits import SMALL_BYTES, Limits
from peerload.server.rpc import Context, RpcError, UnaryMethod

LIMIT = 100_000
ADMISSION = Admission(Limits(limit_message_bytes=LIMIT), None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"5S", 5.0), (b"2H", 7200.0), (b"3M", 180.0), (b"15m", 0.015), (b"99999999n", 0.099999999), (b"0u", 0.0)],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert timeout_of(value) == pytest.approx(seconds)


@given(
    st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"S", b"5", b"-5S", b"5s", b"123456789S", "٣S".encode()]))
)
def test_what_is_no_timeout(value: bytes) -> None:
    try:
        found = timeout_of(value)
    except ValueError:
        return
    assert 0 <= found <= 99_999_999 * 3600


@given(st.text())
def test_messages_come_back(message: str) -> None:
    message = message.encode(errors="replace").decode()
    encoded = encoded_message(message)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert urllib.parse.unquote(encoded.decode("ascii")) == message


@given(st.lists(st.binary(max_size=40), max_size=4), st.booleans(), st.booleans())
def test_binary_metadata_comes_back(values: list[bytes], padded: bool, joined: bool) -> None:
    encoded = [base64.b64encode(value) if padded else encoded_binary(value) for value in values]
    if joined and len(encoded) > 1:
        encoded = [b",".join(encoded)]
    found = metadata_of([(b"te", b"trailers"), *((b"x-bin", value) for value in encoded), (b"x", b"a"), (b"x", b"b")])
    assert found.get("x-bin", ()) == tuple(values)
    assert found["x"] == ("a", "b")
    assert "te" not in found


@pytest.mark.parametrize("value", [b"!", b"a", b"abc$", b"\xff"])
def test_binary_metadata_that_is_not_base64_is_named(value: bytes) -> None:
    with pytest.raises(ValueError, match="x-bin: is not base64"):
        metadata_of([(b"x-bin", value)])


@given(st.binary(max_size=2_000), st.sampled_from([b"gzip", b"deflate"]))
def test_what_was_compressed_comes_back(message: bytes, encoding: bytes) -> None:
    compressed = gzip.compress(message) if encoding == b"gzip" else zlib.compress(message)
    assert inflate(encoding, compressed, len(message)) == message
    assert len(message) <= most_inflated(len(compressed))
    if message:
        with pytest.raises(TooLarge):
            inflate(encoding, compressed, len(message) - 1)
    for broken in (compressed[:-1], compressed + b"x", b"x" + compressed):
        with pytest.raises(Corrupt):
            inflate(encoding, broken, len(message))


def test_no_bomb_beats_the_bound() -> None:
    message = bytes(10_000_000)
    for level in (1, 9):
        assert len(message) <= most_inflated(len(zlib.compress(message, level)))


@given(st.binary(max_size=500), st.sampled_from([b"gzip", b"deflate"]))
def test_bytes_that_are_not_compressed(data: bytes, encoding: bytes) -> None:
    try:
        inflate(encoding, data, LIMIT)
    except (Corrupt, TooLarge):
        pass


class Body:
    """A request's body, as ASGI hands it over: these parts, and then its end or a client that goes away."""

    def __init__(self, parts: Iterable[bytes], *, goes_away: bool = False) -> None:
        self._events: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": True} for part in parts
        ]
        # h2corn leaves out what is empty.
        self._events.append({"type": "http.disconnect" if goes_away else "http.request"})

    async def receive(self) -> dict[str, Any]:
        return self._events.pop(0)


def read(parts: Iterable[bytes], encoding: bytes | None = None, *, goes_away: bool = False) -> list[bytes]:
    async def run() -> list[bytes]:
        task = asyncio.current_task()
        assert task is not None
        timer = Timer(task, None, ADMISSION.limits.timeout_request)
        messages = Messages(Body(parts, goes_away=goes_away).receive, ADMISSION, encoding, None, timer)
        found = []
        try:
            while (got := await messages.next()) is not None:
                message, held = got
                with held:
                    assert ADMISSION.requests.used >= len(message) or len(message) <= SMALL_BYTES
                found.append(message)
        finally:
            timer.stop()
        return found

    try:
        return asyncio.run(run())
    finally:
        assert (ADMISSION.requests.used, ADMISSION.requests.waiting) == (0, 0)


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(bounds)]


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=5), st.lists(st.integers(0, 5_000), max_size=8)
)
def test_messages_come_whole_however_they_are_cut(messages: list[tuple[bytes, bool]], places: list[int]) -> None:
    framed = [(gzip.compress(message) if packed else message, packed) for message, packed in messages]
    body = b"".join(bytes((packed,)) + len(data).to_bytes(4, "big") + data for data, packed in framed)
    assert read(cut(body, places), b"gzip") == [message for message, _ in messages]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_bodies_of_any_bytes(body: bytes, places: list[int]) -> None:
    try:
        found = read(cut(body, places), b"gzip")
    except (RpcError, LimitExceeded):
        return
    assert sum(map(len, found)) <= LIMIT * 12


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([b"\0\0\0"], "ends within a message"),
        ([b"\0\0\0\0\5he"], "ends within a message"),
        ([b"\2\0\0\0\0"], "not framed"),
        ([b"\1\0\0\0\0"], "no header tells how"),
        ([prefix(LIMIT + 1)], f"--limit-message-bytes: the request has {LIMIT + 1} bytes, more than {LIMIT}"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(parts: list[bytes], text: str) -> None:
    with pytest.raises((RpcError, LimitExceeded), match=text):
        read(parts)


def test_a_client_that_goes_away_within_a_message() -> None:
    with pytest.raises(Disconnected):
        read([b"\0\0\0\0\5he"], goes_away=True)


def test_what_inflates_beyond_the_limit_is_refused() -> None:
    bomb = gzip.compress(bytes(50 * LIMIT))
    with pytest.raises(LimitExceeded, match="--limit-message-bytes"):
        read([b"\1" + len(bomb).to_bytes(4, "big") + bomb], b"gzip")


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def ask(
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes = prefix(0),
    *,
    handler: Callable[[bytes, Context], Awaitable[bytes]] = echo,
    gone: bool = False,
    **scope: Any,
) -> tuple[int, dict[bytes, bytes]]:
    """The HTTP status of a request to a method, and the trailers. Who is gone takes no answer."""
    sent: list[dict[str, Any]] = []

    async def send(event: Any) -> None:
        if gone:
            raise OSError("the stream is closed")
        sent.append(event)

    application = Application({"/t.T/Echo": UnaryMethod(handler)}, ADMISSION)
    made = {
        "type": "http",
        "method": "POST",
        "raw_path": b"/t.T/Echo",
        "query_string": b"",
        "headers": list(headers),
        "extensions": {"http.response.trailers": {}},
        **scope,
    }
    await application(made, Body([body]).receive, send)
    trailers = [event["headers"] for event in sent if event["type"] == "http.response.trailers"]
    return sent[0].get("status", 0) if sent else 0, dict(trailers[0]) if trailers else {}


GRPC = (b"content-type", b"application/grpc")


@pytest.mark.parametrize(
    ("headers", "scope", "status"),
    [
        ([GRPC], {}, 200),
        ([(b"content-type", b"application/grpc+proto")], {}, 200),
        ([(b"content-type", b"application/grpc; charset=x")], {}, 200),
        ([], {}, 415),
        ([(b"content-type", b"application/json")], {}, 415),
        ([(b"content-type", b"application/grpc-web")], {}, 415),
        ([GRPC], {"method": "GET"}, 405),
        ([GRPC], {"extensions": {}}, 400),
        ([GRPC], {"type": "websocket"}, 0),
    ],
)
async def test_what_is_grpc_and_what_is_not(headers: Any, scope: Any, status: int) -> None:
    assert (await ask(headers, **scope))[0] == status
    assert (await ask(headers, gone=True, **scope))[0] == 0


@pytest.mark.parametrize(
    ("more", "scope", "code", "text"),
    [
        ([], {}, b"0", b""),
        ([], {"raw_path": b"/t.T/E%63ho"}, b"12", b"Method not found!"),
        ([], {"query_string": b"a"}, b"12", b"Method not found!"),
        ([(b"grpc-encoding", b"snappy")], {}, b"12", b"grpc-encoding: is none of identity, gzip and deflate"),
        ([(b"grpc-encoding", b"identity")], {}, b"0", b""),
        ([(b"grpc-timeout", b"soon")], {}, b"3", b"grpc-timeout: is no number"),
        ([(b"grpc-timeout", b"99999999H")], {}, b"0", b""),
    ],
)
async def test_what_headers_ask_for(more: Any, scope: Any, code: bytes, text: bytes) -> None:
    status, trailers = await ask([GRPC, *more], **scope)
    assert (status, trailers[b"grpc-status"]) == (200, code)
    assert trailers.get(b"grpc-message", b"").startswith(text)


async def test_one_message_is_one() -> None:
    for body, text in ((b"", b"no message"), (prefix(0) * 2, b"more than one")):
        _, trailers = await ask([GRPC], body)
        assert trailers[b"grpc-status"] == b"13"
        assert text in trailers[b"grpc-message"]


async def test_what_follows_the_message_is_not_gathered() -> None:
    """A client may go on sending for as long as a request may take."""
    parts = 0

    async def receive() -> dict[str, Any]:
        nonlocal parts
        parts += 1
        return {"type": "http.request", "body": prefix(0) + bytes(1000), "more_body": parts < 1000}

    task = asyncio.current_task()
    assert task is not None
    timer = Timer(task, None, ADMISSION.limits.timeout_request)
    with pytest.raises(RpcError, match="more than one message"):
        await Messages(receive, ADMISSION, None, None, timer).only()
    timer.stop()
    assert parts < 5


async def test_an_answer_that_is_there_at_once_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), 0
    call_at = loop.call_at

    def counted(*args: Any, **named: Any) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return call_at(*args, **named)

    monkeypatch.setattr(loop, "call_at", counted)
    _, trailers = await ask([GRPC, (b"grpc-timeout", b"30S")])
    assert (trailers[b"grpc-status"], timers) == (b"0", 0)

    async def slowly(request: bytes, context: Context) -> bytes:
        await asyncio.sleep(0)
        return request

    _, trailers = await ask([GRPC, (b"grpc-timeout", b"30S")], handler=slowly)
    assert (trailers[b"grpc-status"], timers) == (b"0", 1)


async def test_a_deadline_ends_a_handler_that_waits() -> None:
    seen: list[str] = []

    async def forever(request: bytes, context: Context) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return request

    _, trailers = await ask([GRPC, (b"grpc-timeout", b"1m")], handler=forever)
    assert (trailers[b"grpc-status"], trailers[b"grpc-message"], seen) == (b"4", b"Deadline Exceeded", ["cancelled"])
    # One that somebody else ends is not taken for late.
    asked = asyncio.create_task(ask([GRPC, (b"grpc-timeout", b"30S")], handler=forever))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert seen == ["cancelled", "cancelled"]


@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_waiting_is_told_once_and_only_where_it_is_needed(steps: int) -> None:
    async def waiting() -> str:
        for _ in range(steps):
            await asyncio.sleep(0)
        return "done"

    told: list[None] = []
    assert await Waited(waiting(), lambda: told.append(None)) == "done"
    assert len(told) == min(steps, 1)


@pytest.mark.parametrize("rounds", [1, 2, 3])
async def test_what_is_waited_for_is_cancelled(rounds: int) -> None:
    ended: list[str] = []

    async def waiting() -> None:
        try:
            while True:
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            ended.append("ended")

    async def run() -> None:
        await Waited(waiting(), lambda: None)

    task = asyncio.create_task(run())
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]
