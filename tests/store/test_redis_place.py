"""Redis URLs: what they mean, and that passwords stay in them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from peerload.clock import SystemClock
from peerload.errors import InvalidArgument
from peerload.plugins import open_store, store_schemes
from peerload.store.redis.place import SCHEMES, Address, Credentials, RedisPlace
from peerload.store.redis.slot import slot


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", {"addresses": (Address("host", 6379),), "db": 0, "tls": None}),
        ("redis://host:7/3", {"addresses": (Address("host", 7),), "db": 3}),
        ("redis://[::1]:7?db=4", {"addresses": (Address("::1", 7),), "db": 4}),
        ("redis://:p%40ss@host", {"credentials": Credentials("", "p@ss")}),
        ("redis://me:p@ss:word@host", {"credentials": Credentials("me", "p@ss:word")}),
        ("unix:///run/r.sock?db=2", {"addresses": (Address(path="/run/r.sock"),), "db": 2}),
        ("unix://me:pw@/run/r.sock", {"addresses": (Address(path="/run/r.sock"),)}),
        (
            "redis+sentinel://:pw@a,b:7,[::1]:8/mymaster/2?sentinel_password=q",
            {
                "kind": "sentinel",
                "addresses": (Address("a", 26379), Address("b", 7), Address("::1", 8)),
                "service": "mymaster",
                "db": 2,
                "sentinel_credentials": Credentials("", "q"),
            },
        ),
        ("redis+cluster://a:1,b:2", {"kind": "cluster", "addresses": (Address("a", 1), Address("b", 2))}),
        ("redis://host?min_replicas=2&namespace=fleet-1", {"min_replicas": 2, "namespace": "fleet-1"}),
    ],
)
def test_urls(url: str, expected: dict[str, object]) -> None:
    place = RedisPlace.parse(url)
    assert {name: getattr(place, name) for name in expected} == expected
    assert place.name("meta") == f"{{{place.namespace}}}:meta"


def test_tls_looks_at_the_certificate_unless_told_otherwise() -> None:
    place = RedisPlace.parse("rediss://host")
    assert place.tls is not None
    assert place.tls.check_hostname
    place = RedisPlace.parse("rediss+sentinel://a/s?verify=no")
    assert place.tls is not None
    assert not place.tls.check_hostname


@pytest.mark.parametrize(
    "url",
    [
        "redis:",
        "redis://",
        "redis:///0",
        "redis://a,b",
        "redis://host:0",
        "redis://host:99999",
        "redis://host:x",
        "redis://secret@host",
        "redis://:secret@host/x",
        "redis://:secret@host?sekret=1",
        "redis://:secret@host?min_replicas=-1",
        "redis://:secret@host?namespace={a}",
        "redis://:secret@::1:5",
        "unix://:secret@host/path",
        "unix://",
        "redis+sentinel://:secret@a,b",
        "redis+cluster://:secret@a/1",
        "rediss://:secret@a?verify=perhaps",
        "rediss://:secret@a?ca=/nowhere",
    ],
)
def test_bad_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        open_store(url, SystemClock())
    assert error.value.field == "store"
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@host/1",
        "redis://me:secret@host?min_replicas=1",
        "redis+sentinel://me:secret@a,b/s?sentinel_password=secret&sentinel_username=me",
        "unix://me:secret@/path",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    assert "secret" not in open_store(url, SystemClock()).url
    assert "secret" not in repr(RedisPlace.parse(url))


def test_without_its_packages_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["hiredis"] = None
from peerload.clock import SystemClock
from peerload.plugins import open_store
open_store("redis://:secret@host", SystemClock())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "MissingExtra" in done.stderr
    assert "pip install 'peerload[redis]'" in done.stderr


def test_the_plug_in_table_has_every_scheme() -> None:
    assert SCHEMES.keys() <= set(store_schemes())


def test_slots_are_those_of_the_specification() -> None:
    assert slot("123456789") == 0x31C3
    assert slot("foo") == 12182
