"""`peerload token`: a token on standard output, once, and an entry that servers know it by."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from peerload.cli import build_app
from peerload.metadata.principals import Principal, Role
from peerload.server.security.access import Access, digest, parse, read
from tests.cli.commands import peerload
from tests.security.entries import hashed


def token(*words: object) -> Result:
    return CliRunner().invoke(build_app(["token"]), ["token", *map(str, words)])


def known(access: Access) -> dict[bytes, Principal]:
    return {each: token.principal for token in access.tokens for each in token.digests}


def test_the_program(tmp_path: Path) -> None:
    done = peerload("token", "ci", "--access", tmp_path / "access.toml")
    assert done.returncode == 0
    secret = done.stdout.removesuffix("\n")
    assert secret.startswith("plt_")
    assert len(secret) == 4 + 43
    assert secret not in done.stderr
    assert known(read(tmp_path / "access.toml")) == {digest(secret): Principal("token:ci", Role.PUBLISH)}


def test_the_entry_is_shown_where_no_file_is_named() -> None:
    done = token("team", "--role", "read", "--models", "team/*", "--models", "shared")
    assert done.exit_code == 0
    secret = done.stdout.strip()
    entry = done.stderr.partition("\n\n")[2]
    assert known(parse(entry)) == {digest(secret): Principal("token:team", Role.READ, ("team/*", "shared"))}
    assert secret not in done.stderr


def test_no_token_is_like_another() -> None:
    assert len({token("a").stdout for _ in range(20)}) == 20


def test_for_programs(tmp_path: Path) -> None:
    said = json.loads(token('größe "quoted"', "--role", "admin", "--json").stdout)
    assert said["sha256"] == hashed(said["token"])
    assert known(parse(said["entry"])) == {digest(said["token"]): Principal('token:größe "quoted"', Role.ADMIN)}


def test_a_file_grows_and_stays_as_open_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    assert token("a", "--access", path).exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(f"# by hand\n{path.read_text()}")
    path.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    assert token("b", "--access", link).exit_code == 0
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_text().startswith("# by hand\n")
    assert [each.principal.name for each in read(path).tokens] == ["token:a", "token:b"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["access.toml", "link.toml"]


def test_what_cannot_be_added_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    assert token("a", "--access", path).exit_code == 0
    before = path.read_text()
    done = token("a", "--access", path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "another token has it already" in done.stderr
    path.write_text("[[broken")
    done = token("b", "--access", path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert path.read_text() == "[[broken"
    assert before
    done = token("b", "--access", tmp_path / "none" / "access.toml")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "No such file" in done.stderr


def test_wrong_usage() -> None:
    for words, said in (
        (("a", "--role", "root"), "must be one of read, publish, admin"),
        (("",), "name"),
        ((), "NAME"),
    ):
        done = token(*words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
