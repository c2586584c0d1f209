"""No token gets into anything that is written: logs, errors, metrics, `--json`, reports of the doctor."""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from peerload.cli import build_app
from peerload.wire import p2p_pb2
from tests.security.entries import TOKENS, write_access
from tests.support.live import LiveServer, Rpc, free_port, publication
from tests.support.server import sqlite_url

UNKNOWN = {
    "made up": "made-up-secret-9d31c0",
    "hostile": "made-up-secret-%0a-9d31c0-" + "x" * 3000,
    "a service account's": ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in (b'{"alg":"x"}', b'{"aud":["other"]}', b"sgn-9d31c0")
    ),
}
PATHS = (
    "/model_express.p2p.P2pService/PublishMetadata",
    "/model_express.p2p.P2pService/UpdateStatus",
    "/model_express.p2p.P2pService/ListSources",
    "/peerload.v1.SourceService/Withdraw",
    "/peerload.v1.DiagnosisService/Explain",
    "/no.such/Method",
)


def secrets() -> list[str]:
    """What must be nowhere: the tokens, and the part of each that makes it one."""
    return [*TOKENS.values(), *UNKNOWN.values(), "9d31c0", "4f1c9a7be2"]


def spoken(rpc: Rpc, path: str, request: bytes, header: str) -> str:
    """What a server says to a call with this header."""
    try:
        rpc.raw(path, request, metadata=(("authorization", header),))
    except grpc.RpcError as error:
        return repr(error)
    return ""


def test_a_session_full_of_failures(tmp_path: Path) -> None:
    access = write_access(tmp_path / "access.toml")
    metrics = free_port()
    environment = {
        "PEERLOAD_ACCESS": str(access),
        "PEERLOAD_LOG_LEVEL": "debug",
        "PEERLOAD_LOG_FORMAT": "json",
        "PEERLOAD_METRICS": f"127.0.0.1:{metrics}",
    }
    said = []
    bad = publication().SerializeToString()[:-3]
    with LiveServer(sqlite_url(tmp_path), environment=environment) as live, Rpc(live.start().address) as rpc:
        for token in (*TOKENS.values(), *UNKNOWN.values()):
            for scheme in ("Bearer", "Basic", "bearer bearer", ""):
                # HTTP/2 knows no values that begin with a space (RFC 9113, 8.2.1): some servers refuse them unseen.
                header = f"{scheme} {token}".strip()
                requests = (b"", b"\xff\xff", bad, publication(worker_id=scheme or "w").SerializeToString())
                said += [spoken(rpc, path, request, header) for path in PATHS for request in requests]
        # A file that somebody put a token into instead of its hash.
        access.write_text(f'[[token]]\nname = "x"\nsha256 = "{TOKENS["alice"]}"\nrole = "read"\n')
        while "cannot be used" not in live.log():
            said.append(spoken(rpc, PATHS[2], b"", f"Bearer {TOKENS['alice']}"))
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            said.append(answer.read().decode())
        live.stop()
        said.append(live.log())
    log = said[-1]
    assert "a call was refused" in log, "the log was on"
    assert "sha256: must be 64 hexadecimal digits" in log
    assert not [text for text in said if "StatusCode.INTERNAL" in text or "StatusCode.UNKNOWN" in text]
    for text in said:
        for secret in secrets():
            assert secret not in text


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    access = write_access(tmp_path_factory.mktemp("access") / "access.toml")
    with LiveServer("memory:", environment={"PEERLOAD_ACCESS": str(access)}) as made:
        yield made.start()


@pytest.mark.parametrize("content", ["alice", "made up", "hostile", "two lines", "not text"])
def test_commands_say_nothing_of_the_token_that_they_send(
    tmp_path: Path, live: LiveServer, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = {**TOKENS, **UNKNOWN, "two lines": "9d31c0\n9d31c0", "not text": "9d31c0-\udcff-ö"}[content]
    path = tmp_path / "token"
    path.write_bytes(token.encode(errors="surrogateescape"))
    monkeypatch.setenv("MX_AUTH_TOKEN_PATH", str(path))
    monkeypatch.setenv("PEERLOAD_DEBUG", "1")
    for words in (("sources", "--json"), ("rm", "org/none", "--yes")):
        done = CliRunner().invoke(build_app([words[0]]), [*words, "--server", live.address])
        assert (done.exit_code == 0) is (content == "alice" and words[0] == "sources"), done.stderr
        assert not [each for each in secrets() if each in done.stdout + done.stderr + repr(done.exception)]


def test_reports_say_nothing_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = write_access(tmp_path / "access.toml")
    monkeypatch.setenv("PEERLOAD_ACCESS", str(access))
    monkeypatch.setenv("PEERLOAD_STORE", sqlite_url(tmp_path))
    for words in (("serve", "--print-config", "--json"), ("doctor", "--json")):
        done = CliRunner().invoke(build_app([words[0]]), words)
        assert done.exit_code == 0, done.stderr
        assert (str(access) in done.stdout) is (words[0] == "serve")
        assert not [each for each in secrets() if each in done.stdout + done.stderr]


def test_what_is_sent_is_kept_as_it_was(tmp_path: Path) -> None:
    """Of a principal the store has the name."""
    access = write_access(tmp_path / "access.toml")
    url = sqlite_url(tmp_path)
    with LiveServer(url, environment={"PEERLOAD_ACCESS": str(access)}) as live, Rpc(live.start().address) as rpc:
        header = (("authorization", f"Bearer {TOKENS['alice']}"),)
        rpc.publish(publication(), metadata=header)
        assert rpc.list(p2p_pb2.ListSourcesRequest(), metadata=header).instances
    kept = b"".join(each.read_bytes() for each in tmp_path.rglob("*") if each.is_file() and each.suffix != ".toml")
    assert b"token:alice" in kept
    assert not [each for each in secrets() if each.encode() in kept]
