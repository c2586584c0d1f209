"""The page on security, on TLS: its certificates are made as it says and used by real processes, its tables are true."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
from pathlib import Path

import grpc
import pytest

from peerload import ClientSettings, certificates
from peerload.client import handshake
from peerload.client.connection import Connection
from tests.cli.commands import peerload
from tests.support.server import LiveServer

ROOT = Path(__file__).resolve().parents[2]
SECURITY = (ROOT / "docs" / "security.md").read_text().partition("\n## TLS\n")[2].partition("\n## ")[0]
"""The section on TLS."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates that the page makes."""
    folder = tmp_path_factory.mktemp("made")
    (lines,) = re.findall(r"```sh\n(openssl .*?)```", SECURITY, re.DOTALL)
    done = subprocess.run(["sh", "-ec", lines], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_certificates_that_are_made_so_serve_and_are_shown(made: Path) -> None:
    ca, cert, key = made / "ca.crt", made / "worker.crt", made / "worker.key"
    environment = {
        "PEERLOAD_TLS_CERT": str(made / "tls.crt"),
        "PEERLOAD_TLS_KEY": str(made / "tls.key"),
        "PEERLOAD_TLS_CLIENT_CA": str(ca),
    }
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), cert.read_bytes())
    with LiveServer("memory:", environment=environment, credentials=credentials) as server:
        server.start()
        address = f"https://localhost:{server.port}"
        shown = ("--tls-client-cert", cert, "--tls-client-key", key)
        done = peerload("sources", "--server", address, "--tls-ca", ca, *shown)
        assert done.returncode == 0, done.stderr
        # From the environment the same; and a mistake is one line, without what gRPC has to say.
        trusting = {
            "PEERLOAD_SERVER": address,
            "PEERLOAD_TLS_CLIENT_CERT": str(cert),
            "PEERLOAD_TLS_CLIENT_KEY": str(key),
        }
        assert peerload("sources", settings=trusting | {"PEERLOAD_TLS_CA": str(ca)}).returncode == 0
        done = peerload("sources", settings=trusting)
        assert done.returncode == 4
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"peerload: no connection to the server at localhost:{server.port}: its certificate is")
        assert line.endswith("name the file with its authority by --tls-ca or PEERLOAD_TLS_CA")


def test_the_settings_are_those_of_clients() -> None:
    table = SECURITY.partition("| option |")[2].partition("\n\n")[0]
    known = {field.name for field in dataclasses.fields(ClientSettings) if field.name.startswith("tls")}
    assert set(re.findall(r"`(tls\w*)`", table)) == known
    assert {f"--{name.replace('_', '-')}" for name in known} == set(re.findall(r"`(--[a-z-]+)`", table))
    assert {f"PEERLOAD_{name.upper()}" for name in known} == set(re.findall(r"`(PEERLOAD_[A-Z_]+)`", table))


def test_what_is_said_of_mistakes_is_said_so() -> None:
    said = "".join(inspect.getsource(each) for each in (handshake, certificates, Connection))
    said = re.sub(r'"\s*f?"', "", said)
    assert "no connection to the server at {" in said
    table = SECURITY.partition("| it goes on |")[2].partition("\n\n")[0]
    phrases = re.findall(r"`([^`]+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert len(phrases) > 8
    for phrase in phrases:
        for part in re.split(r"\b[ABC]\b|…", phrase.removeprefix("its certificate ")):
            assert part.strip(" ,") in said, phrase


def test_yaml_is_yaml() -> None:
    import yaml

    blocks = re.findall(r"```yaml\n(.*?)```", SECURITY, re.DOTALL)
    assert len(blocks) == 2
    assert [next(iter(yaml.safe_load(block))) for block in blocks] == ["apiVersion", "env"]
