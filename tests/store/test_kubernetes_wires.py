"""Connections that are closed however far they had come."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peerload.kubernetes.wires import Wires
from tests.support.kube.certificates import Certificates

SIZES = (50_000_000, 10, 0, 100_000)
"""How long answers are; those of no length are not given."""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """The address of a server that speaks TLS, and what trusts it."""
    certificates = Certificates(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificates.server, certificates.server_key)

    sizes = itertools.cycle(SIZES)
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if (size := next(sizes)) == 0:
                    await asyncio.Event().wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                for left in range(size, 0, -65_536):
                    writer.write(bytes(min(left, 65_536)))
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving) as server:
        yield (
            f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/",
            ssl.create_default_context(cafile=str(certificates.authority)),
        )
        for task in answering:
            task.cancel()
        await asyncio.wait(answering)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_closing_closes_connections_in_every_state(
    served: tuple[str, ssl.SSLContext], cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, trust = served
    made = []
    connect = Wires._connect

    def noted(wires: Wires, info: tuple[object, ...]) -> object:
        made.append(connect(wires, info))
        return made[-1]

    monkeypatch.setattr(Wires, "_connect", noted)

    async def ask(wires: Wires) -> None:
        async with wires.used() as session, session.get(url, ssl=trust) as answer:
            await answer.read()

    for milliseconds in (0, 1, 2, 5, *range(10, 60, 5)):
        wires = Wires(32)
        asking = [asyncio.ensure_future(ask(wires)) for _ in range(8)]
        await asyncio.sleep(milliseconds / 1000)
        for each in asking if cancelled else ():
            each.cancel()
        await wires.close()
        assert [each for each in made if each.fileno() >= 0] == []
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)
        [each.cancelled() or each.exception() for each in asking]


async def test_closing_a_connection_whose_transport_was_closed_twice(served: tuple[str, ssl.SSLContext]) -> None:
    url, trust = served
    wires = Wires(32)
    async with wires.used() as session, session.get(url, ssl=trust) as answer:
        assert answer.connection is not None
        transport = answer.connection.transport
        assert transport is not None
        transport.close()
        transport.close()
        await wires.close()
