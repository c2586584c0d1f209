"""TLS on the gRPC port: real handshakes, files that change meanwhile, and what is said of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from peerload.errors import InvalidArgument
from peerload.server.fronts.grpc import GrpcFront
from peerload.server.fronts.h2corn import H2cornFront
from peerload.server.rpc import Context, UnaryMethod
from peerload.server.tls import TlsFiles, TlsKeeper
from peerload.testing import ManualClock
from tests.security.entries import write_access
from tests.support.certificates import Authority, Issued
from tests.support.server import serving

Kind: TypeAlias = type[GrpcFront] | type[H2cornFront]
DAY = 24 * 3600


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall_ms=round(datetime.now(UTC).timestamp() * 1000))


class Mount:
    """A folder of files as Kubernetes mounts a Secret: all of them change at once, by a link that is turned."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turns = 0
        self.files = TlsFiles(folder / "tls.crt", folder / "tls.key")

    def put(self, issued: Issued) -> TlsFiles:
        self._turns += 1
        where = self._folder / f"..{self._turns}"
        where.mkdir()
        (where / "tls.crt").write_bytes(issued.certificate.read_bytes())
        (where / "tls.key").write_bytes(issued.key.read_bytes())
        link = self._folder / "..next"
        link.symlink_to(where.name)
        link.replace(self._folder / "..data")
        for path in (self.files.certificate, self.files.key):
            if not path.is_symlink():
                path.symlink_to(Path("..data") / path.name)
        return self.files


def plain(issued: Issued) -> TlsFiles:
    return TlsFiles(issued.certificate, issued.key)


async def who(request: bytes, context: Context) -> bytes:
    return context.client_certificate or b"nobody"


class Holding:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, request: bytes, context: Context) -> bytes:
        self.entered.set()
        await self.release.wait()
        return b"held"


@pytest.fixture(params=[GrpcFront, H2cornFront], ids=["grpc", "h2corn"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setattr("peerload.server.fronts.h2corn._LOOK_SECONDS", 0.01)
    return request.param  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def fronted(kind: Kind, keeper: TlsKeeper, holding: Holding | None = None) -> AsyncIterator[str]:
    front = kind({"/t.T/Who": UnaryMethod(who), "/t.T/Hold": UnaryMethod(holding or Holding())}, tls=keeper)
    address = await front.start("127.0.0.1:0")
    try:
        yield address
    finally:
        await front.stop(0)


@contextlib.asynccontextmanager
async def connected(
    address: str, authority: Authority, client: Issued | None = None, path: str = "/t.T/Who"
) -> AsyncIterator[grpc.aio.UnaryUnaryMultiCallable]:
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        client and client.key.read_bytes(),
        client and client.certificate.read_bytes(),
    )
    async with grpc.aio.secure_channel(address, credentials, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel.unary_unary(path)


async def refused(address: str, authority: Authority, client: Issued | None = None) -> None:
    async with connected(address, authority, client) as call:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call(b"", timeout=30)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_over_tls(kind: Kind, authority: Authority, issued: Issued, clock: ManualClock) -> None:
    async with fronted(kind, TlsKeeper(plain(issued), clock)) as address:
        async with connected(address, authority) as call:
            assert await call(b"", timeout=30) == b"nobody"
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/t.T/Who")(b"", timeout=30)


async def test_a_client_must_show_a_certificate(
    kind: Kind, authority: Authority, issued: Issued, clock: ManualClock, tmp_path: Path
) -> None:
    client = authority.issue("client", names="URI:spiffe://example.com/worker")
    past = datetime.now(UTC) - timedelta(days=2)
    expired = authority.issue("expired", begins=past, ends=past + timedelta(days=1))
    stranger = Authority(tmp_path, "stranger").issue("client")
    files = TlsFiles(issued.certificate, issued.key, authority.certificate)
    async with fronted(kind, TlsKeeper(files, clock)) as address:
        async with connected(address, authority, client) as call:
            # What is shown is that certificate, and not the file, which may hold words too.
            shown = (await call(b"", timeout=30)).decode()
            assert ssl.PEM_cert_to_DER_cert(shown) == ssl.PEM_cert_to_DER_cert(client.certificate.read_text())
        for bad in (None, expired, stranger):
            await refused(address, authority, bad)


async def test_only_tls_from_1_2_on(kind: Kind, authority: Authority, issued: Issued, clock: ManualClock) -> None:
    async with fronted(kind, TlsKeeper(plain(issued), clock)) as address:
        host, _, port = address.rpartition(":")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=str(authority.certificate))
            context.minimum_version = context.maximum_version = version
            with socket.create_connection((host, int(port)), 30) as raw:
                with context.wrap_socket(raw, server_hostname=host) as wrapped:
                    assert wrapped.version() == version.name.replace("_", ".")
        old = ssl.create_default_context(cafile=str(authority.certificate))
        with pytest.warns(DeprecationWarning, match="deprecated"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection((host, int(port)), 30) as raw:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                old.wrap_socket(raw, server_hostname=host)


def shown(address: str) -> bytes:
    """The certificate that a new connection is met with."""
    host, _, port = address.rpartition(":")
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)), timeout=30))


async def test_files_that_change_count_for_new_connections_and_end_no_call(
    kind: Kind, authority: Authority, issued: Issued, clock: ManualClock, tmp_path: Path
) -> None:
    mount = Mount(tmp_path)
    keeper = TlsKeeper(mount.put(issued), clock)
    renewed = authority.issue("renewed in time")
    holding = Holding()
    async with fronted(kind, keeper, holding) as address, connected(address, authority, path="/t.T/Hold") as old:
        held = asyncio.ensure_future(old(b"", timeout=60))
        await holding.entered.wait()
        with capture_logs() as logs:
            mount.put(renewed)
            async with asyncio.timeout(30):
                while await asyncio.to_thread(shown, address) != ssl.PEM_cert_to_DER_cert(
                    renewed.certificate.read_text()
                ):
                    await asyncio.sleep(0.01)
        assert [each["event"] for each in logs] == ["the TLS files were read again"]
        assert logs[0]["expires"] == keeper.current().pair.validity.end
        async with connected(address, authority) as new:
            assert await new(b"", timeout=30) == b"nobody"
        holding.release.set()
        assert await held == b"held"


async def test_a_pair_whose_halves_do_not_fit_keeps_the_old_one(
    authority: Authority, issued: Issued, clock: ManualClock, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    files.certificate.write_bytes(issued.certificate.read_bytes())
    files.key.write_bytes(issued.key.read_bytes())
    keeper = TlsKeeper(files, clock)
    first, renewed = keeper.current(), authority.issue("renewed")
    with capture_logs() as logs:
        for half in (renewed.certificate.read_bytes()[:100], renewed.certificate.read_bytes()):
            files.certificate.write_bytes(half)
            for _ in range(3):
                assert keeper.current() is first
                keeper.look()
        files.key.write_bytes(renewed.key.read_bytes())
        assert keeper.current().pair.certificate == renewed.certificate.read_bytes()
        files.certificate.unlink()
        assert keeper.current().pair.certificate == renewed.certificate.read_bytes()
    assert [(each["log_level"], each.get("reason", "")[-40:]) for each in logs] == [
        ("warning", f"{files.certificate} is no certificate in PEM"[-40:]),
        ("warning", f"is not the key of the certificate in {files.certificate}"[-40:]),
        ("info", ""),
        ("warning", "cannot be read: No such file or directory"[-40:]),
    ]


def test_what_changed_without_a_trace_is_noticed_in_time(
    authority: Authority, issued: Issued, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = Mount(tmp_path)
    keeper = TlsKeeper(mount.put(issued), clock)
    monkeypatch.setattr("peerload.server.tls.stamps", lambda files: keeper._seen)
    renewed = authority.issue("unseen")
    mount.put(renewed)
    assert keeper.current().pair.certificate == issued.certificate.read_bytes()
    keeper.look()
    assert keeper.current().pair.certificate == renewed.certificate.read_bytes()


def test_the_end_of_a_certificate_is_warned_of_once_a_day(
    issued: Issued, clock: ManualClock, authority: Authority, tmp_path: Path
) -> None:
    mount = Mount(tmp_path)
    with capture_logs() as logs:
        keeper = TlsKeeper(mount.put(issued), clock)  # thirty days
        for days, told in ((15.9, []), (0.2, ["warning"]), (0.9, []), (0.2, ["warning"]), (12.9, ["error"])):
            clock.jump(days * DAY)
            for _ in range(3):
                keeper.look()
            assert [each["log_level"] for each in logs] == told
            logs.clear()
        ends = datetime.fromtimestamp(clock.wall_ms() / 1000, UTC) + timedelta(days=60)
        begins = datetime.now(UTC)
        mount.put(authority.issue("next", begins=begins, ends=ends))
        keeper.look()
        assert [each["log_level"] for each in logs] == ["info"]
        # One that is expired already is not taken in exchange.
        logs.clear()
        mount.put(issued)
        keeper.look()
        assert [each["log_level"] for each in logs] == ["warning"]
        assert "has expired at" in logs[0]["reason"]
    with pytest.raises(InvalidArgument, match=r"^tls_cert: .* has expired at"):
        TlsKeeper(plain(issued), clock)


async def test_a_server_looks_at_its_files_while_nobody_connects(
    authority: Authority, issued: Issued, clock: ManualClock, tmp_path: Path
) -> None:
    mount = Mount(tmp_path)
    files = mount.put(issued)
    async with serving(clock=clock, tls_cert=str(files.certificate), tls_key=str(files.key)) as server:
        assert server.address
        with capture_logs() as logs:
            mount.put(authority.issue("later"))
            await clock.advance(60)
        assert "the TLS files were read again" in [each["event"] for each in logs]


@pytest.mark.parametrize(
    ("listen", "tls", "mutual", "asks", "missing"),
    [
        ("127.0.0.1:0", False, False, False, None),
        ("0.0.0.0:0", False, False, False, "TLS and authentication"),
        ("0.0.0.0:0", False, False, True, "TLS"),
        ("0.0.0.0:0", True, False, False, "authentication"),
        ("0.0.0.0:0", True, False, True, None),
        ("0.0.0.0:0", True, True, False, None),
    ],
)
async def test_listening_beyond_loopback_is_warned_of(
    authority: Authority,
    issued: Issued,
    tmp_path: Path,
    listen: str,
    tls: bool,
    mutual: bool,
    asks: bool,
    missing: str | None,
) -> None:
    settings = {"tls_cert": str(issued.certificate), "tls_key": str(issued.key)} if tls else {}
    if mutual:
        settings["tls_client_ca"] = str(authority.certificate)
    if asks:
        settings["access"] = str(write_access(tmp_path / "access.toml"))
    with capture_logs() as logs:
        async with serving(listen=listen, **settings):
            pass
    told = [each["event"] for each in logs if each["log_level"] == "warning"]
    expected = f"whoever reaches this port is served without {missing}: see docs/security.md"
    assert told == ([expected] if missing else [])
