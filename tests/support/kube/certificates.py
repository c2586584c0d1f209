"""Certificates and keys of a control plane of the tests' own, made by openssl."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ISSUER", "Certificates"]

ISSUER = "https://kubernetes.default.svc"
"""Of service accounts' tokens."""
_DAYS = "2"
_CONFIG = """
[req]
distinguished_name = subject
prompt = no
[subject]
CN = peerload tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1, DNS:localhost, DNS:kubernetes.default.svc
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Certificates:
    """An authority that signs for servers and for clients, and the key that signs service accounts' tokens."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        (folder / "openssl.cnf").write_text(_CONFIG)
        self.authority, self._authority_key = folder / "ca.crt", folder / "ca.key"
        self._request("ca", "authority", "/CN=peerload-tests-ca")
        self.server, self.server_key = folder / "server.crt", folder / "server.key"
        self._signed("server", "server", "/CN=kube-apiserver")
        self.accounts_key = folder / "accounts.key"
        self._openssl(
            "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(self.accounts_key)
        )

    def client(self, user: str, *groups: str) -> tuple[Path, Path]:
        """The certificate and the key of a user who is in these groups."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        name = f"client-{user}"
        self._signed(name, "client", subject)
        return self._folder / f"{name}.crt", self._folder / f"{name}.key"

    def token(self, claims: Mapping[str, Any]) -> str:
        """A service account's token with these claims, signed as the API server signs them."""
        words = ({"alg": "RS256", "typ": "JWT"}, claims)
        text = b".".join(_encoded(json.dumps(word).encode()) for word in words)
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.accounts_key)], input=text, capture_output=True, check=True
        ).stdout
        return (text + b"." + _encoded(signature)).decode()

    def _signed(self, name: str, extensions: str, subject: str) -> None:
        self._request(name, extensions, subject, "-CA", str(self.authority), "-CAkey", str(self._authority_key))

    def _request(self, name: str, extensions: str, subject: str, *more: str) -> None:
        files = ("-keyout", str(self._folder / f"{name}.key"), "-out", str(self._folder / f"{name}.crt"))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        config = ("-config", str(self._folder / "openssl.cnf"), "-extensions", extensions)
        self._openssl("req", "-x509", "-days", _DAYS, "-subj", subject, *curve, *config, *files, *more)

    @staticmethod
    def _openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
