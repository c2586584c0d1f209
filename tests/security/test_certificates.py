"""Client certificates: which of their names count, and for how long."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.certificates import subject
from peerload.errors import NotAllowed, Unauthenticated
from peerload.metadata.principals import Principal, Role
from peerload.server.security.access import Access, Rule
from peerload.server.security.authenticator import Credentials
from peerload.server.security.certificates import Certificates
from peerload.testing import ManualClock
from tests.support.certificates import self_signed

SPIFFE = "spiffe://prod/ns/inference/sa/worker"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return self_signed(tmp_path_factory.mktemp("tls"), "worker", "DNS:worker.example", f"URI:{SPIFFE}", "IP:10.0.0.1")


def rules(*patterns: str) -> Access:
    return Access(certificates=tuple(Rule(pattern, Role.PUBLISH, ("org/*",)) for pattern in patterns))


async def whose(access: Access, pem: bytes, clock: ManualClock | None = None) -> Principal | None:
    return await Certificates(lambda: access, clock or ManualClock()).recognise(Credentials(certificate=pem))


def test_the_names_that_openssl_wrote(tmp_path: Path, worker: bytes) -> None:
    names = subject(worker)
    assert (names.common, names.dns, names.uris) == (("worker",), ("worker.example",), (SPIFFE,))
    end = ssl._ssl._test_decode_cert(str(_saved(tmp_path, worker)))["notAfter"]  # type: ignore[attr-defined]
    assert names.until == ssl.cert_time_to_seconds(end) * 1000
    assert subject(self_signed(tmp_path, "Größe")).common == ("Größe",)
    nameless = subject(self_signed(tmp_path))
    assert (nameless.common, nameless.dns, nameless.uris) == ((), (), ())
    assert subject(b"Bag Attributes\n" + worker + nameless.__repr__().encode()) == names, "the first one counts"


def _saved(folder: Path, pem: bytes) -> Path:
    path = folder / "saved.pem"
    path.write_bytes(pem)
    return path


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("worker", "worker"),
        ("*.example", "worker.example"),
        ("spiffe://prod/ns/inference/*", SPIFFE),
        ("work*", "worker.example"),
        ("Worker", None),
        ("spiffe://test/*", None),
        ("10.0.0.1", None),
    ],
)
async def test_patterns(worker: bytes, pattern: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(NotAllowed, match="of nobody who may call: spiffe://"):
            await whose(rules(pattern), worker)
    else:
        principal = Principal(f"certificate:{name}", Role.PUBLISH, ("org/*",))
        assert await whose(rules("nobody", pattern, "*"), worker) == principal


async def test_a_common_name_does_not_pass_for_a_uri(tmp_path: Path) -> None:
    pem = self_signed(tmp_path, "x.spiffe://prod", "DNS:other")
    assert subject(pem).common == ("x.spiffe://prod",)
    with pytest.raises(NotAllowed):
        await whose(rules("*spiffe://prod*"), pem)


async def test_one_that_has_expired_on_an_old_connection(worker: bytes) -> None:
    clock = ManualClock()
    await clock.advance((subject(worker).until - clock.wall_ms()) / 1000 - 1)
    assert await whose(rules("*"), worker, clock)
    await clock.advance(2)
    with pytest.raises(Unauthenticated, match="expired"):
        await whose(rules("*"), worker, clock)


async def test_what_is_none(worker: bytes) -> None:
    assert await Certificates(lambda: rules("*"), ManualClock()).recognise(Credentials()) is None
    for pem in (b"", b"nonsense", worker.replace(b"MII", b"MMI", 1), worker[: len(worker) // 2]):
        with pytest.raises(Unauthenticated, match="cannot be read"):
            await whose(rules("*"), pem)


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n".encode()


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_either_read_or_refused(der: bytes) -> None:
    with pytest.raises(ValueError):
        subject(_pem(der))


@given(st.data())
def test_a_damaged_certificate_is_either_read_or_refused(worker: bytes, data: st.DataObject) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(worker.decode()))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        names = subject(_pem(bytes(der[: data.draw(st.integers(1, len(der)))])))
    except ValueError:
        return
    assert all(name.isprintable() for name in (*names.common, *names.dns, *names.uris))
