"""etcd, kube-apiserver and kube-controller-manager of the tests' own: how they are started, and how one gets in."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.support.kube.admin import Admin
from tests.support.kube.certificates import ISSUER, Certificates
from tests.support.kube.etcd import etcd_members
from tests.support.kube.kubeconfig import write_kubeconfig
from tests.support.kube.namespaces import Namespace
from tests.support.kube.programs import Program, needs_kube, program
from tests.support.ports import free_port

__all__ = ["ControlPlane"]


class ControlPlane:
    """A Kubernetes without nodes: everything but Pods really running is as in a cluster, RBAC included."""

    def __init__(self, folder: Path, *, members: int = 1) -> None:
        needs_kube()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificates = Certificates(folder / "certificates")
        self.etcd = etcd_members(folder, members)
        self.port = free_port()
        self.admin = Admin(self.port, self.certificates.authority, secrets.token_hex(16))
        (folder / "tokens.csv").write_text(f"{self.admin.token},admin,1,system:masters\n")
        self.server = Program(folder / "server", "kube-apiserver", self._server_words, self.admin.ready)
        self._controllers: Program | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _server_words(self) -> list[str]:
        certificates = self.certificates
        return [
            f"--etcd-servers={','.join(member.url for member in self.etcd)}",
            *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self.port}"),
            *("--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24"),
            *(f"--tls-cert-file={certificates.server}", f"--tls-private-key-file={certificates.server_key}"),
            f"--client-ca-file={certificates.authority}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={certificates.accounts_key}",
            f"--service-account-signing-key-file={certificates.accounts_key}",
            "--authorization-mode=RBAC",
            # Would want service accounts before Pods, which a controller makes.
            "--disable-admission-plugins=ServiceAccount",
        ]

    def start(self) -> Self:
        """Start etcd and the API server; returns once it serves."""
        for member in self.etcd:
            member.start(wait=False)
        for member in self.etcd:
            member.await_ready()
        self.server.start()
        return self

    def close(self) -> None:
        """End all, and remove what etcd kept."""
        for each in (*([self._controllers] if self._controllers else []), self.server, *self.etcd):
            each.kill()
        for member in self.etcd:
            shutil.rmtree(member.folder / "data", ignore_errors=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Started, until the block ends."""
        try:
            yield self.start()
        finally:
            self.close()

    def start_controllers(self, *names: str) -> Program:
        """Start these controllers of kube-controller-manager; without names, the garbage collector."""
        assert self._controllers is None
        wanted = ",".join(names or ("garbage-collector-controller",))
        port = free_port()
        kubeconfig = self.kubeconfig()
        words = [
            *(f"--kubeconfig={kubeconfig}", f"--controllers={wanted}", "--leader-elect=false"),
            *("--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={self.folder / 'controllers'}"),
            *(f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}"),
            *("--kube-api-qps=200", "--kube-api-burst=400"),
        ]
        healthy = Admin(port, self.certificates.authority, self.admin.token)
        healthy.trust_anybody()
        self._controllers = Program(
            self.folder / "controllers", "kube-controller-manager", lambda: words, lambda: healthy.ready("/healthz")
        )
        self._controllers.start()
        return self._controllers

    def run(self, program_name: str, *words: str, kubeconfig: Path | None = None, given: str = "") -> str:
        """What kubectl or helm prints for these words; `given` is its standard input. As an administrator, unless otherwise."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "KUBECONFIG": str(kubeconfig or self.kubeconfig()),
        }
        done = subprocess.run(
            [program(program_name), *words], input=given, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{program_name} {words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def kubeconfig(self, *, url: str = "", namespace: str = "default") -> Path:
        """A file with which one may do everything, by way of `url` if that is given."""
        return write_kubeconfig(
            self.folder / f"admin-{secrets.token_hex(4)}.kubeconfig",
            url or self.url,
            self.certificates.authority,
            {"token": self.admin.token},
            namespace,
        )

    def fresh_namespace(self, *, ready: bool = True) -> Namespace:
        """A namespace that nobody has used; with what Peerload needs in it, unless `ready` is false."""
        namespace = Namespace(self, f"test-{secrets.token_hex(6)}")
        namespace.create(ready=ready)
        return namespace
