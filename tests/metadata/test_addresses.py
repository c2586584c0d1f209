"""Which addresses of a publication are kept, and which a server may connect to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.metadata.publications.addresses import Address, allowed, endpoints_of, split
from peerload.metadata.publications.publication import Publication
from peerload.wire import outline_pb2, sources_pb2
from tests.metadata.publications import identity, worker

PARTS = [
    "host",
    "10.0.0.1",
    "[::1]",
    "::1",
    ":",
    "1",
    "65535",
    "65536",
    "0",
    "00080",
    ",",
    " ",
    "/",
    "é",
    "\0",
    "a" * 254,
]
written = st.text(max_size=40) | st.lists(st.sampled_from(PARTS), max_size=6).map("".join)
engines = st.sampled_from(["tcp", "memfd", "other"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("worker-0.pods:6555", ("worker-0.pods", 6555)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
        ("2001:db8::1:80", None),
        ("10.0.0.1", None),
        (":80", None),
        ("host:0", None),
        ("host:65536", None),
        ("host:+80", None),
        ("host:٣", None),
        ("a,b:80", None),
        ("unix:/tmp/socket:80", None),
        ("ho st:80", None),
        ("höst:80", None),
        ("a" * 254 + ":80", None),
        ("", None),
    ],
)
def test_what_is_an_address(text: str, address: tuple[str, int] | None) -> None:
    assert Address.of(text) == address


@given(st.lists(st.tuples(engines, written), max_size=8))
def test_whatever_is_published_a_few_whole_addresses_are_kept(named: list[tuple[str, str]]) -> None:
    manifest = outline_pb2.Manifest(
        endpoints=[sources_pb2.Endpoint(engine=engine, address=text) for engine, text in named]
    )
    kept = endpoints_of(outline_pb2.WorkerMetadata(metadata_endpoint="10.0.0.1:5555"), manifest)
    addresses = split(kept)
    good = dict.fromkeys(text for engine, text in named if engine == "tcp" and Address.of(text))
    assert addresses == [Address.of(text) for text in good][:4]
    assert len(kept.encode()) <= 4 * 262


@given(written)
def test_whatever_a_store_holds_is_read(text: str) -> None:
    assert len(split(text)) <= 4


def test_a_stock_worker_has_two_and_they_travel_in_the_value() -> None:
    message = worker()
    message.worker_grpc_endpoint = "10.0.0.1:6555"
    published = Publication.of(identity(), message, "w1")
    assert published.record.to_value()["endpoints"] == "10.0.0.1:6555,10.0.0.1:5555"
    message.worker_grpc_endpoint = message.metadata_endpoint = "nothing to connect to"
    assert "endpoints" not in Publication.of(identity(), message, "w1").record.to_value()


@pytest.mark.parametrize("ip", ["10.1.2.3", "192.168.0.9", "8.8.8.8", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"])
def test_hosts_are_connected_to(ip: str) -> None:
    # Documentation addresses are as good as any: what is refused is what cannot be one host's.
    assert allowed(ip, here=False)


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
        "169.254.169.254",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "::ffff:224.0.0.1",
        "localhost",
        "",
    ],
)
@pytest.mark.parametrize("here", [False, True])
def test_others_are_not(ip: str, here: bool) -> None:
    assert not allowed(ip, here=here)


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_a_neighbours_only(ip: str) -> None:
    assert allowed(ip, here=True)
    assert not allowed(ip, here=False)


@given(st.ip_addresses())
def test_every_address_is_judged(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert allowed(str(ip), here=False) <= allowed(str(ip), here=True)
