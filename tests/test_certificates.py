"""PEM files of certificates and keys: what is read from them, and what is said of bad ones."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.certificates import KeyPair, read_authorities, read_key_pair, validity
from peerload.errors import InvalidArgument
from peerload.stamps import stamps
from tests.support.certificates import Authority, Issued

FIELDS = ("cert", "key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue()


def read(issued: Issued) -> KeyPair:
    return read_key_pair(issued.certificate, issued.key, FIELDS)


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (datetime(2050, 1, 1, tzinfo=UTC), datetime(2123, 4, 5, 6, 7, 8, tzinfo=UTC)),  # written otherwise from 2050 on
    ],
)
def test_the_time_for_which_one_is_good(authority: Authority, begins: datetime, ends: datetime) -> None:
    dated = read(authority.issue("dated", begins=begins, ends=ends)).validity
    first, last = (round(each.timestamp() * 1000) for each in (begins, ends))
    assert (dated.begins, dated.ends) == (first, last)
    assert dated.end == f"{ends:%Y-%m-%d %H:%M:%S} UTC"
    assert dated.fault(first) == dated.fault(last - 1) == ""
    assert dated.fault(last) == f"has expired at {dated.end}"
    assert dated.fault(first - 1).startswith("is not valid before ")


def test_it_is_read_as_it_stands_and_its_key_is_not_shown(authority: Authority, issued: Issued, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"some words\n" + issued.certificate.read_bytes() + authority.certificate.read_bytes())
    pair = read_key_pair(chain, issued.key, FIELDS)
    assert (pair.certificate, pair.key) == (chain.read_bytes(), issued.key.read_bytes())
    assert pair.validity == read(issued).validity
    assert "PRIVATE" not in repr(pair)
    assert read_authorities(chain, "ca") == chain.read_bytes()


def damaged(issued: Issued) -> bytes:
    lines = issued.certificate.read_bytes().splitlines()
    return b"\n".join([lines[0], *lines[2:]])


@pytest.mark.parametrize(
    ("certificate", "key", "field", "text"),
    [
        (None, None, "cert", "nowhere cannot be read: No such file or directory"),
        (lambda issued: b"", None, "cert", "is no certificate in PEM"),
        (lambda issued: issued.key.read_bytes(), None, "cert", "is no certificate in PEM"),
        (
            lambda issued: ssl.PEM_cert_to_DER_cert(issued.certificate.read_text()),
            None,
            "cert",
            "no certificate in PEM",
        ),
        (damaged, None, "cert", "is damaged"),
        (lambda issued: b"x" * (4 * 1024 * 1024 + 1), None, "cert", "more than 4,194,304 bytes"),
        (lambda issued: issued.certificate.read_bytes(), lambda issued: b"x", "key", "is no private key in PEM"),
        (
            lambda issued: issued.certificate.read_bytes(),
            lambda issued: issued.key.read_bytes().replace(b"PRIVATE", b"ENCRYPTED PRIVATE"),
            "key",
            "without a passphrase",
        ),
        (
            lambda issued: issued.certificate.read_bytes(),
            lambda issued: issued.key.read_bytes().replace(b"M", b"N"),
            "cert",
            "cannot be used",
        ),
    ],
)
def test_what_is_said_of_bad_files(
    issued: Issued,
    tmp_path: Path,
    certificate: Callable[[Issued], bytes] | None,
    key: Callable[[Issued], bytes] | None,
    field: str,
    text: str,
) -> None:
    paths = []
    for name, make, good in (("c", certificate, issued.certificate), ("k", key, issued.key)):
        path = tmp_path / name if make is not None else (good if name == "k" else tmp_path / "nowhere")
        if make is not None:
            path.write_bytes(make(issued))
        paths.append(path)
    with pytest.raises(InvalidArgument, match=text) as error:
        read_key_pair(paths[0], paths[1], FIELDS)
    assert error.value.field == field
    assert str(paths[0 if field == "cert" else 1]) in str(error.value)


def test_the_key_of_another(authority: Authority, issued: Issued) -> None:
    other = authority.issue("other")
    with pytest.raises(InvalidArgument, match="is not the key of the certificate in") as error:
        read_key_pair(issued.certificate, other.key, FIELDS)
    assert error.value.field == "key"


def test_authorities_that_are_none(issued: Issued, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no certificate in PEM"):
        read_authorities(issued.key, "ca")
    (tmp_path / "ca").write_bytes(issued.certificate.read_bytes() + damaged(issued))
    with pytest.raises(InvalidArgument, match="is damaged: not every certificate"):
        read_authorities(tmp_path / "ca", "ca")


def test_files_that_change_are_noticed(tmp_path: Path) -> None:
    """As a mounted Secret changes: a link to a folder is turned to another."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tls.crt").write_text("the same")
    (tmp_path / "data").symlink_to("1")
    path = tmp_path / "data" / "tls.crt"
    first = stamps([path])
    assert stamps([path]) == first
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(tmp_path / "data")
    assert stamps([path]) != first
    (tmp_path / "data").unlink()
    assert stamps([path]) == (None,)


@given(st.data())
def test_bytes_that_are_no_certificate_are_refused_and_nothing_else(issued: Issued, data: st.DataObject) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(issued.certificate.read_text()))
    for _ in range(data.draw(st.integers(0, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        validity(bytes(der[: data.draw(st.integers(0, len(der)))]))
    except ValueError:
        pass
