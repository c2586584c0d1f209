"""Addresses, settings and what a worker says of itself."""

from __future__ import annotations

import pytest

from peerload.client.addresses import server_address
from peerload.client.host import advertised_host, available_memory, topology_from
from peerload.client.settings import ClientSettings
from peerload.errors import InvalidArgument


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("host:9000", "host:9000"),
        ("host", "host:8001"),
        ("http://host:9000/", "host:9000"),
        ("https://host", "host:8001"),
        ("[::1]:9000", "[::1]:9000"),
        ("[::1]", "[::1]:8001"),
        ("::1", "[::1]:8001"),
        ("unix:/run/peerload", "unix:/run/peerload"),
    ],
)
def test_addresses(given: str, expected: str) -> None:
    assert server_address(given, {}) == expected


@pytest.mark.parametrize("given", ["host:", "host:port", "host:0", "host:65536", ":9000", "host:9000/path", "host:²"])
def test_bad_addresses_name_where_they_come_from(given: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^address: .* is not HOST:PORT"):
        server_address(given, {})
    with pytest.raises(InvalidArgument, match=r"^MX_SERVER_ADDRESS: "):
        server_address(None, {"MX_SERVER_ADDRESS": given})


def test_the_first_name_that_is_set_counts() -> None:
    env = {"MX_SERVER_ADDRESS": "c:1"}
    assert server_address(None, {}) == "localhost:8001"
    assert server_address(None, env) == "c:1"
    env["MODEL_EXPRESS_URL"] = "http://b:1"
    assert server_address(None, env) == "b:1"
    env["PEERLOAD_SERVER"] = "a:1"
    assert server_address(None, env) == "a:1"
    assert server_address("z:1", env) == "z:1"


def test_settings_from_the_environment() -> None:
    env = {"MX_HEARTBEAT_INTERVAL_SECS": "7.5", "MX_AUTH_TOKEN_PATH": "/token", "PEERLOAD_ENGINES": "tcp, memory"}
    settings = ClientSettings.from_env(env)
    assert settings == ClientSettings(heartbeat_interval=7.5, token_path="/token", engines=("tcp", "memory"))
    assert ClientSettings.from_env({}) == ClientSettings()
    for wrong in ("soon", "0", "-1", "nan"):
        with pytest.raises(InvalidArgument, match=r"(?i)heartbeat_interval"):
            ClientSettings.from_env({"MX_HEARTBEAT_INTERVAL_SECS": wrong})


def test_the_advertised_host() -> None:
    assert advertised_host("127.0.0.1:8001", None, {}) == "127.0.0.1"
    assert advertised_host("localhost:8001", None, {}) == "127.0.0.1"
    assert advertised_host("unix:/run/peerload", None, {}) == "127.0.0.1"
    assert advertised_host("localhost:8001", None, {"MX_WORKER_HOST": "node-7"}) == "node-7"
    assert advertised_host("localhost:8001", "node-8", {"MX_WORKER_HOST": "node-7"}) == "node-8"


def test_topology() -> None:
    found = topology_from({"PEERLOAD_TOPOLOGY": "zone=a, rack=b,"}, {"rack": "c"})
    assert found.pop("host")
    assert found == {"zone": "a", "rack": "c"}
    with pytest.raises(InvalidArgument, match="PEERLOAD_TOPOLOGY"):
        topology_from({"PEERLOAD_TOPOLOGY": "zone"})


def test_settings_from_the_environment_name_the_variable() -> None:
    found = ClientSettings.from_env({"MX_HEARTBEAT_INTERVAL_SECS": "7", "PEERLOAD_CLAIM_LEASE": "30"})
    assert (found.heartbeat_interval, found.claim_lease) == (7.0, 30.0)
    with pytest.raises(InvalidArgument, match=r"^PEERLOAD_CLAIM_LEASE: 'soon'"):
        ClientSettings.from_env({"PEERLOAD_CLAIM_LEASE": "soon"})
    with pytest.raises(InvalidArgument, match=r"^claim_lease: "):
        ClientSettings(claim_lease=0.5)


def test_memory_is_some() -> None:
    assert 1 << 20 < available_memory() < 1 << 60
