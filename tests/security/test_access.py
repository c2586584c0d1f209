"""The access file: what it means, and what is said of a wrong one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from peerload.errors import InvalidArgument
from peerload.metadata.principals import Principal, Role
from peerload.server.security.access import Access, Rule, parse, read
from peerload.server.security.authenticator import Credentials
from peerload.server.security.tokens import Tokens
from peerload.server.security.watched import AccessFile
from peerload.testing import ManualClock
from tests.security.entries import TOKENS, hashed, write_access

SECRET = "this-may-be-a-secret"
GOOD = hashed("x")
WHOLE = f"""
[[token]]
name = "ci"
sha256 = "{GOOD.upper()}"
role = "publish"
models = ["org/*", "shared"]

[[token]]
name = "rotating"
sha256 = ["{hashed("old")}", "{hashed("new")}"]
role = "admin"

[[service_account]]
name = "inference/*"
role = "read"

[[certificate]]
name = "spiffe://prod/*"
role = "publish"
models = ["a", "*"]
"""


async def whose(access: Access, token: str) -> Principal | None:
    return await Tokens(lambda: access).recognise(Credentials(token=token))


async def test_what_it_says() -> None:
    access = parse(WHOLE)
    assert await whose(access, "x") == Principal("token:ci", Role.PUBLISH, ("org/*", "shared"))
    admin = Principal("token:rotating", Role.ADMIN)
    assert [await whose(access, token) for token in ("old", "new", "newer", "", "\ud800")] == [
        admin,
        admin,
        None,
        None,
        None,
    ]
    assert access.service_accounts == (Rule("inference/*", Role.READ, ("*",)),)
    assert access.certificates == (Rule("spiffe://prod/*", Role.PUBLISH, ("*",)),)
    assert parse("") == Access()


def token(**fields: str) -> str:
    """An entry with some of its fields otherwise."""
    written = {"name": '"ci"', "sha256": f'"{GOOD}"', "role": '"read"'} | fields
    return "[[token]]\n" + "\n".join(f"{name} = {value}" for name, value in written.items() if value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"[[token]]\nname = {SECRET}", "line 2, column 8"),
        (f'[[token]]\nsha256 = "{SECRET}', "is not TOML, at (line 2|end of document)"),
        ("[[tokens]]", r"has 'tokens', which is none of \[\[token\]\], \[\[service_account\]\], \[\[certificate\]\]"),
        ("token = 1", "token: each is a table"),
        ("[token]", "token: each is a table"),
        ("token = [1]", "token: each is a table"),
        (token(name=""), "token 1: name: is missing"),
        (token(name="1"), "token 1: name: must be text"),
        (token(name='"a\\nb"'), r"token 1 \('a\\nb'\): name: must be printable"),
        (token(sha256=""), r"token 1 \('ci'\): sha256: is missing"),
        (token(sha256=f'"{SECRET}"'), r"token 1 \('ci'\): sha256: must be 64 hexadecimal digits"),
        (token(sha256="[]"), "sha256: must be 64"),
        (token(sha256=f'["{GOOD}", "{GOOD}"]'), "sha256: is there twice"),
        (token(role=""), "role: is missing: one of read, publish, admin"),
        (token(role='"root"'), r"role: must be one of read, publish, admin \(it is 'root'\)"),
        (token(models="[]"), "models: must be a list of patterns"),
        (token(models='"org/*"'), "models: must be a list of patterns"),
        (token(models='[""]'), "models: must be a list of patterns"),
        (token(token=f'"{SECRET}"'), r"token 1 \('ci'\): token: is none of name, sha256, role, models"),
        (token() + "\n" + token(), r"token 2 \('ci'\): name: another token has it already"),
        (token() + "\n" + token(name='"other"'), r"token 2 \('other'\): sha256: is there twice"),
        (
            '[[service_account]]\nname = "inference-*"\nrole = "read"',
            r"service_account 1 .*: name: must be NAMESPACE/NAME",
        ),
        (f'[[certificate]]\nname = "cn"\nrole = "read"\nsha256 = "{SECRET}"', "sha256: is none of name, role, models"),
        ("a = " + "[" * 10_000, "is not TOML"),
    ],
)
def test_a_wrong_one_is_an_error_that_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "access.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=said) as error:
        read(path)
    assert error.value.field == "access"
    assert str(path) in str(error.value)
    assert SECRET not in str(error.value)


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidArgument, match=said):
            read(path)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match="is not UTF-8"):
        read(tmp_path / "bytes")


@given(st.text(max_size=200) | st.sampled_from([WHOLE]).map(lambda text: text[::-1]))
def test_any_text_is_either_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse(text), Access)


def test_no_digest_is_shown() -> None:
    assert GOOD[:16] not in repr(parse(WHOLE))
    assert "token=" not in repr(Credentials(token=SECRET, certificate=b"-"))


async def test_a_changed_file_holds_and_a_broken_one_does_not(tmp_path: Path) -> None:
    path = write_access(tmp_path / "access.toml")
    clock = ManualClock()
    file = AccessFile(path, clock, lambda _: None)
    file.load()
    assert not file.reload()
    assert await whose(file.access, TOKENS["alice"])
    write_access(path, without=["alice"])
    assert file.reload()
    assert await whose(file.access, TOKENS["alice"]) is None
    for broken in ("[[token", token(role='"root"')):
        path.write_text(broken)
        with capture_logs() as lines:
            assert not file.reload()
            assert not file.reload(), "what cannot be used is read once"
        assert [line["log_level"] for line in lines] == ["error"]
        assert await whose(file.access, TOKENS["bob"])
    path.unlink()
    with capture_logs() as lines:
        assert not file.reload()
    assert "No such file" in lines[0]["error"]
    assert await whose(file.access, TOKENS["bob"])
    write_access(path)
    assert file.reload()
    assert await whose(file.access, TOKENS["alice"])


def test_what_does_not_go_with_the_settings_is_not_taken(tmp_path: Path) -> None:
    def check(access: Access) -> None:
        if access.service_accounts:
            raise InvalidArgument("token_audiences", "is missing")

    path = write_access(tmp_path / "access.toml", '[[service_account]]\nname = "a/b"\nrole = "read"')
    file = AccessFile(path, ManualClock(), check)
    with pytest.raises(InvalidArgument):
        file.load()
    write_access(path)
    assert file.reload()
    write_access(path, '[[service_account]]\nname = "a/b"\nrole = "read"')
    with capture_logs():
        assert not file.reload()
    assert len(file.access.tokens) == len(TOKENS)
