"""Where servers are: what may be written, which of it asks for TLS, and what names lead to."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload import ClientSettings
from peerload.client.addresses import Place, Servers, resolve, servers
from peerload.client.host import advertised_host
from peerload.client.tls import ClientTls
from peerload.errors import InvalidArgument, LimitExceeded, Unavailable

PLAIN = ClientSettings()


@pytest.mark.parametrize(
    ("given", "addresses", "tls"),
    [
        ("a:1,b:2", ("a:1", "b:2"), None),
        (" a , [::1]:9, ,b:2,a:8001,", ("a:8001", "[::1]:9", "b:2"), None),
        ("https://a:1", ("a:1",), True),
        ("grpcs://a", ("a:8001",), True),
        ("HTTPS://a:1/,b", ("a:1", "b:8001"), True),
        ("http://a,grpc://b", ("a:8001", "b:8001"), False),
        ("dns:///a:7", ("a:7",), None),
        ("unix:/run/a,b", ("unix:/run/a", "b:8001"), None),
    ],
)
def test_what_may_be_written(given: str, addresses: tuple[str, ...], tls: bool | None) -> None:
    assert servers(given, {}) == Servers(addresses, tls, "address")
    assert servers(None, {"PEERLOAD_SERVER": given}) == Servers(addresses, tls, "PEERLOAD_SERVER")
    # The stock package drops the scheme and speaks plaintext, so there it does not ask for TLS.
    assert servers(None, {"MODEL_EXPRESS_URL": given}) == Servers(addresses, None, "MODEL_EXPRESS_URL")
    assert str(servers(given, {})) == ",".join(addresses)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (",", "names no server"),
        ("https://a,http://b", "asks for TLS and for plaintext"),
        ("a:1,b:0", "'b:0' is not HOST:PORT"),
        ("ftp://a", "'ftp://a' is not HOST:PORT"),
    ],
)
def test_what_may_not(given: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text) as error:
        servers(None, {"PEERLOAD_SERVER": given})
    assert error.value.field == "PEERLOAD_SERVER"


def test_there_is_a_limit() -> None:
    assert len(servers(",".join(f"h{i}" for i in range(64)), {}).addresses) == 64
    with pytest.raises(LimitExceeded, match="65 servers, more than 64"):
        servers(",".join(f"h{i}" for i in range(65)), {})


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60))
def test_anything_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        found = servers(text or ",", {})
        assert servers(str(found), {}).addresses == found.addresses


@pytest.mark.parametrize(
    ("given", "settings", "wanted"),
    [
        ("a", {}, False),
        ("http://a", {}, False),
        ("https://a", {}, True),
        ("a", {"tls": True}, True),
        ("a", {"tls_name": "b"}, True),
        ("unix:/a", {}, False),
    ],
)
def test_when_tls_is_spoken(given: str, settings: dict[str, object], wanted: bool) -> None:
    chosen = ClientSettings(**settings)  # type: ignore[arg-type]
    assert (ClientTls.of(servers(given, {}), chosen) is not None) is wanted


@pytest.mark.parametrize(
    ("given", "settings", "text"),
    [
        ("http://a", ClientSettings(tls=True), "asks for plaintext, and tls for TLS"),
        ("http://a", ClientSettings(tls_name="b"), "asks for plaintext, and tls_name for TLS"),
        ("unix:/a", ClientSettings(tls=True), "unix: is plaintext, and tls asks for TLS"),
        ("unix:/a,https://b", PLAIN, "unix: is plaintext, and https:// asks for TLS"),
    ],
)
def test_contradictions_are_refused(given: str, settings: ClientSettings, text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^address: {text}"):
        ClientTls.of(servers(given, {}), settings)


def test_tls_from_the_environment() -> None:
    assert ClientSettings.from_env({"PEERLOAD_TLS": "On"}).tls
    assert not ClientSettings.from_env({"PEERLOAD_TLS": "0"}).tls
    with pytest.raises(InvalidArgument, match=r"^PEERLOAD_TLS: 'maybe' is neither 1 nor 0"):
        ClientSettings.from_env({"PEERLOAD_TLS": "maybe"})
    files = {"PEERLOAD_TLS_CLIENT_CERT": "c", "PEERLOAD_TLS_CLIENT_KEY": "k"}
    found = ClientSettings.from_env({"PEERLOAD_TLS_CA": "a", "PEERLOAD_TLS_NAME": "n", **files})
    assert (found.tls_ca, found.tls_client_cert, found.tls_client_key, found.tls_name) == ("a", "c", "k", "n")
    assert found.asks_for_tls == "tls_ca"
    for name, other in (("tls_client_cert", "tls_client_key"), ("tls_client_key", "tls_client_cert")):
        with pytest.raises(InvalidArgument, match=f"^{name}: needs {other} beside it"):
            ClientSettings(**{name: "x"})


async def test_what_names_lead_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(host: str, port: int, *_: object) -> list[object]:
        assert (host, port) == ("fleet.example", 8001)
        six = [(socket.AF_INET6, 1, 6, "", (f"2001:db8::{i}", port, 0, 0)) for i in (1, 2, 1)]
        return [*six, (socket.AF_INET, 1, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    name = "fleet.example:8001"
    assert await resolve(name) == [
        [Place(name, "[2001:db8::1]:8001"), Place(name, "[2001:db8::2]:8001")],
        [Place(name, "192.0.2.1:8001")],
    ]
    for address in ("192.0.2.1:1", "[2001:db8::1]:1", "unix:/run/a"):  # nobody need be asked
        assert await resolve(address) == [[Place(address, address)]]


async def test_a_name_that_leads_nowhere() -> None:
    with pytest.raises(Unavailable, match=r"no server answers at name\.invalid:1: its name cannot be resolved"):
        await resolve("name.invalid:1")


def test_places() -> None:
    place = Place("box:1", "[::1]:1")
    assert (place.host, place.socket_address, place.is_local) == ("box", ("::1", 1), True)
    assert not Place("localhost:1", "192.0.2.1:1").is_local
    local = Place("unix:/a", "unix:/a")
    assert (local.host, local.socket_address, local.is_local) == ("", None, True)


def test_the_advertised_host_leads_to_one_of_several_servers() -> None:
    assert advertised_host("name.invalid:1,127.0.0.1:8001", None, {}) == "127.0.0.1"
    with pytest.raises(InvalidArgument, match=r"cannot resolve the server's name"):
        advertised_host("name.invalid:1,name.invalid:2", None, {})
