"""TLS between clients and servers: what works, and what is said of each usual mistake."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from peerload import AsyncClient, ClientSettings
from peerload.client import handshake
from peerload.client.addresses import Place
from peerload.client.handshake import diagnose
from peerload.client.tls import ClientTls, Trust
from peerload.errors import InvalidArgument, Unavailable
from peerload.testing import ManualClock
from tests.support.certificates import Authority, Issued
from tests.support.live import free_port
from tests.support.server import serving

NOW = round(datetime.now(UTC).timestamp() * 1000)
QUICK = ClientSettings(patience=0.1, retire_grace=0.1)


@dataclass(frozen=True)
class Certificates:
    """Who has signed what."""

    authority: Authority
    stranger: Authority
    server: Issued
    client: Issued
    expired: Issued
    strange: Issued

    @property
    def trusting(self) -> ClientSettings:
        """Settings of a client that trusts the authority."""
        return replace(QUICK, tls_ca=str(self.authority.certificate))

    def showing(self, issued: Issued) -> ClientSettings:
        """Settings of one that shows a certificate, too."""
        return replace(self.trusting, tls_client_cert=str(issued.certificate), tls_client_key=str(issued.key))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = Authority(folder), Authority(folder, "stranger")
    past = datetime.now(UTC) - timedelta(days=9)
    return Certificates(
        authority,
        stranger,
        authority.issue(),
        authority.issue("client"),
        authority.issue("expired", begins=past, ends=past + timedelta(days=1)),
        stranger.issue("strange"),
    )


def files(issued: Issued, client_ca: Path | None = None) -> dict[str, str]:
    """Settings of a server."""
    named = {"tls_cert": str(issued.certificate), "tls_key": str(issued.key)}
    return named | ({} if client_ca is None else {"tls_client_ca": str(client_ca)})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_weights_go_from_one_to_the_other(certificates: Certificates, host: str) -> None:
    mutual = files(certificates.server, certificates.authority.certificate)
    settings = certificates.showing(certificates.client)
    async with serving(**mutual) as server:
        address = f"https://{host}:{server.address.rpartition(':')[2]}"
        async with AsyncClient(address, settings=settings) as one, AsyncClient(address, settings=settings) as other:
            async with one.publish({"w": b"x"}, model="m"):
                pulled = await other.pull("m")
                assert bytes(pulled["w"].memory) == b"x"


async def test_the_system_is_trusted_where_nobody_is_named(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority.certificate))
    async with serving(**files(certificates.server)) as server:
        async with AsyncClient(f"https://{server.address}", settings=QUICK) as client:
            assert await client.find() == []


async def test_a_name_may_be_expected_that_is_not_in_the_address(certificates: Certificates) -> None:
    issued = certificates.authority.issue("named", names="DNS:peerload.inference")
    async with serving(**files(issued)) as server:
        settings = replace(certificates.trusting, tls_name="peerload.inference")
        async with AsyncClient(server.address, settings=settings) as client:
            assert await client.find() == []


async def failure(address: str, settings: ClientSettings) -> str:
    async with AsyncClient(address, settings=settings) as client:
        with pytest.raises(Unavailable) as error:
            await client.find()
    return str(error.value)


@pytest.mark.parametrize("front", ["grpc", "h2corn"])
@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (
            "unknown authority",
            "is signed by nobody whom this client trusts (unable to get local issuer certificate): name",
        ),
        (
            "wrong name",
            "its certificate is for localhost, 127.0.0.1, not for elsewhere: connect by such a name, or say by",
        ),
        ("plaintext client", "it speaks TLS, not plaintext: begin its address with https://"),
        ("no certificate", "servers do that ask for a client certificate: name one by --tls-client-cert"),
        ("expired certificate", "it refuses this client's certificate (--tls-client-cert), which has expired at 20"),
        ("strange certificate", "it refuses this client's certificate (--tls-client-cert): is it signed by one"),
    ],
)
async def test_what_is_said_of_mistakes(certificates: Certificates, front: str, mistake: str, text: str) -> None:
    trusting = certificates.trusting
    settings = {
        "unknown authority": replace(QUICK, tls_ca=str(certificates.stranger.certificate)),
        "wrong name": replace(trusting, tls_name="elsewhere"),
        "plaintext client": QUICK,
        "no certificate": trusting,
        "expired certificate": certificates.showing(certificates.expired),
        "strange certificate": certificates.showing(certificates.strange),
    }[mistake]
    mutual = certificates.authority.certificate if "certificate" in mistake else None
    async with serving(front=front, **files(certificates.server, mutual)) as server:
        said = await failure(server.address, settings)
    assert said.startswith(f"no connection to the server at {server.address}: ")
    assert text in said
    assert "\n" not in said


@pytest.mark.parametrize("front", ["grpc", "h2corn"])
async def test_a_server_that_speaks_plaintext(front: str) -> None:
    async with serving(front=front) as server:
        assert "it speaks plaintext, not TLS: leave out https://" in await failure(f"https://{server.address}", QUICK)


async def test_a_server_whose_certificate_has_expired(certificates: Certificates) -> None:
    """The server's clock is behind, so that it takes it."""
    validity = datetime.now(UTC) - timedelta(days=8, hours=12)
    clock = ManualClock(wall_ms=round(validity.timestamp() * 1000))
    async with serving(clock=clock, **files(certificates.expired)) as server:
        said = await failure(server.address, certificates.trusting)
    assert "its certificate has expired at 20" in said
    assert "the server needs another, or a clock is wrong" in said


async def test_what_is_certain_is_said_without_trying_again(certificates: Certificates) -> None:
    settings = replace(QUICK, tls_ca=str(certificates.stranger.certificate), patience=3600.0, call_timeout=3600.0)
    async with serving(**files(certificates.server)) as server:
        assert "signed by nobody" in await failure(server.address, settings)


@contextlib.asynccontextmanager
async def speaking(serve: Any, context: ssl.SSLContext | None = None) -> AsyncIterator[Place]:
    """What is no Peerload server."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        name = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield Place(name, name)
    finally:
        server.close()
        await server.wait_closed()


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_others_that_answer_there(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_SECONDS", 0.2)
    trust = ClientTls(certificates.trusting).current()
    for serve in (hangs, ends):
        async with speaking(serve) as place:
            assert not (found := await asyncio.to_thread(diagnose, place, None, NOW)), found
            found = await asyncio.to_thread(diagnose, place, trust, NOW)
            assert found.text == (
                "" if serve is hangs else "it ends the connection in the midst of the handshake: does it speak TLS?"
            )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    async with speaking(hangs, context) as place:
        found = await asyncio.to_thread(diagnose, place, trust, NOW)
        assert found.text == "it speaks TLS, but not HTTP/2: is it the port of a Peerload server?"
    nobody = Place("a:1", f"127.0.0.1:{free_port()}")
    for each in (None, trust):
        assert not diagnose(nobody, each, NOW)
        assert not diagnose(Place("unix:/a", "unix:/a"), each, NOW)


async def test_servers_that_say_why_they_refuse_a_certificate(certificates: Certificates) -> None:
    """Other than gRPC's, which just end the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    context.load_verify_locations(certificates.authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    async with speaking(hangs, context) as place:
        for settings, text in (
            (certificates.trusting, "ask for a client certificate"),
            (certificates.showing(certificates.strange), "it refuses this client's certificate"),
        ):
            found = await asyncio.to_thread(diagnose, place, ClientTls(settings).current(), NOW)
            assert text in found.text


async def test_a_certificate_that_is_renewed_is_shown_from_then_on(certificates: Certificates, tmp_path: Path) -> None:
    """Calls go by a new connection; a watch goes on by the old one."""
    shown = Issued(tmp_path / "tls.crt", tmp_path / "tls.key")

    def put(issued: Issued) -> None:
        shutil.copy(issued.certificate, shown.certificate)
        shutil.copy(issued.key, shown.key)

    put(certificates.client)
    mutual = files(certificates.server, certificates.authority.certificate)
    async with serving(**mutual) as server:
        async with AsyncClient(server.address, settings=certificates.showing(shown)) as client:
            async with aclosing(client.watch()) as changes:
                await anext(changes)
                first = await client._connection._route.link()
                put(certificates.authority.issue("renewed"))
                async with client.publish({"w": b"x"}, model="m"):
                    second = await client._connection._route.link()
                    assert first is not second
                    assert client._connection._route._open == {first, second}
                    assert [info.model for info in (await anext(changes)).present] == ["m"]
            await client.find()
            assert client._connection._route._open == {second}


def test_files_that_are_bad_later_are_complained_of_once(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="peerload.client")
    authority = tmp_path / "ca.pem"
    shutil.copy(certificates.authority.certificate, authority)
    tls = ClientTls(replace(QUICK, tls_ca=str(authority)))
    first = tls.current()
    authority.write_text("-----BEGIN CERT")
    for _ in range(3):
        assert tls.current() is first
    assert [record.getMessage() for record in caplog.records] == [
        f"tls_ca: {authority} is no certificate in PEM; going on with what was read before"
    ]
    shutil.copy(certificates.stranger.certificate, authority)
    assert tls.current() == Trust(certificates.stranger.certificate.read_bytes(), None, "")


@pytest.mark.parametrize("name", ["tls_ca", "tls_client_cert", "tls_client_key"])
async def test_files_that_are_bad_at_first_are_named(certificates: Certificates, name: str) -> None:
    settings = replace(certificates.showing(certificates.client), **{name: "/nowhere"})
    async with AsyncClient("127.0.0.1:1", settings=settings) as client:
        with pytest.raises(InvalidArgument, match="/nowhere cannot be read: No such file or directory") as error:
            await client.find()
    assert error.value.field == name
