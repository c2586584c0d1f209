"""Where the API server is found and as whom one comes: Pods, kubeconfigs, plugins, and what changes under a server."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
import yaml

from peerload.errors import InvalidArgument
from peerload.kubernetes.access import Access, Login
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import Unauthorized
from peerload.testing import ManualClock
from tests.support.kube.certificates import Certificates
from tests.support.live import eventually

SECRET = "sekret"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Found:
    """A machine's environment and files, of which the test says what is there."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.folder = folder
        self.certificates = certificates
        self.clock = ManualClock()
        self.environment = {"HOME": str(folder / "home"), "PATH": os.environ["PATH"]}
        self.account = folder / "serviceaccount"
        self.place = "kubernetes:"

    def pod(self, token: str = f"{SECRET}-1") -> None:
        """Run in a Pod from now on."""
        self.environment |= {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        self.account.mkdir()
        self.project("token", token)
        self.project("ca.crt", self.certificates.authority.read_text())
        self.project("namespace", "inference")

    def project(self, name: str, text: str) -> None:
        """Write a file as the kubelet does: another takes its place."""
        new = self.account / f"..{name}"
        new.write_text(text)
        new.rename(self.account / name)

    def kubeconfig(self, user: dict[str, Any] | None = None, name: str = "config", **cluster: Any) -> Path:
        """A file with one context, not yet named to anybody."""
        path = self.folder / name
        cluster = {
            "server": "https://10.1.1.1:6443",
            "certificate-authority": str(self.certificates.authority),
        } | cluster
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "one",
                    "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "of-context"}}],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": SECRET} if user is None else user}],
                }
            )
        )
        return path

    def plugin(self, script: str, **spec: Any) -> dict[str, Any]:
        """A user whose credentials this shell script prints."""
        path = self.folder / "plugin"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", **spec}}

    @asynccontextmanager
    async def access(self) -> AsyncIterator[Access]:
        access = Access(
            KubernetesPlace.parse(self.place), self.clock, environment=self.environment, service_account=self.account
        )
        try:
            yield access
        finally:
            await access.close()

    async def login(self) -> Login:
        async with self.access() as access:
            return await access.login()

    async def refused(self) -> str:
        """The words with which it cannot be used."""
        with pytest.raises(InvalidArgument) as error:
            await self.login()
        assert SECRET not in str(error.value)
        return str(error.value)


@pytest.fixture
def found(tmp_path: Path, certificates: Certificates) -> Found:
    return Found(tmp_path, certificates)


# In a Pod.


async def test_in_a_pod(found: Found) -> None:
    found.pod(f"{SECRET}\n")
    login = await found.login()
    assert (login.server, login.namespace, login.authorization) == (
        "https://10.0.0.1:443",
        "inference",
        f"Bearer {SECRET}",
    )
    assert login.tls is not None
    assert login.tls.check_hostname
    assert SECRET not in repr(login)
    found.environment["KUBERNETES_SERVICE_HOST"] = "fd00::1"
    found.place = "kubernetes:other"
    login = await found.login()
    assert (login.server, login.namespace) == ("https://[fd00::1]:443", "other")


async def test_a_rotated_token_is_read_and_connections_stay(found: Found) -> None:
    found.pod()
    async with found.access() as access:
        first = await access.login()
        assert await access.login() is first
        found.project("token", f"{SECRET}-2")
        second = await access.login()
        assert second.authorization == f"Bearer {SECRET}-2"
        assert second.tls is first.tls
        found.project("ca.crt", found.certificates.authority.read_text() * 2)
        third = await access.login()
        assert third.tls is not second.tls


async def test_while_a_file_cannot_be_used_what_was_read_before_is(found: Found) -> None:
    found.pod()
    async with found.access() as access:
        first = await access.login()
        with structlog.testing.capture_logs() as logs:
            found.project("token", "")
            assert await access.login() is first
            assert await access.login() is first
            (found.account / "token").unlink()
            assert await access.login() is first
        assert len(logs) == 2  # once for each change
        found.project("token", "new")
        assert (await access.login()).authorization == "Bearer new"


async def test_a_login_that_is_refused_is_read_again_but_not_at_every_refusal(found: Found) -> None:
    found.pod()
    async with found.access() as access:
        login = await access.login()
        assert await access.renew(login) is login  # just read
        found.clock.jump(10)
        renewed = await access.renew(login)
        assert renewed == login
        assert renewed is not login
        assert await access.renew(login) is renewed


@pytest.mark.parametrize("name", ["token", "ca.crt"])
async def test_a_service_account_that_lacks_a_file(found: Found, name: str) -> None:
    found.pod()
    (found.account / name).unlink()
    assert "service account cannot be used" in await found.refused()


async def test_a_service_account_whose_files_are_damaged(found: Found) -> None:
    found.pod(f"{SECRET} \x00\r\nHost: x")
    assert "holds no token" in await found.refused()
    found.project("token", "fine")
    found.project("ca.crt", "no certificate")
    assert "cannot use the authority" in await found.refused()


def run_without(package: str, found: Found, url: str) -> str:
    """What is said where a package is not installed."""
    program = f"""
import asyncio, sys
from pathlib import Path
sys.modules[{package!r}] = None
from peerload.clock import SystemClock
from peerload.kubernetes.api import KubeApi
from peerload.kubernetes.access import Access
from peerload.kubernetes.place import KubernetesPlace
async def main():
    place, clock = KubernetesPlace.parse({url!r}), SystemClock()
    access = Access(place, clock, environment={found.environment!r}, service_account=Path({str(found.account)!r}))
    api = KubeApi(place, clock, access=access)
    await api.open()
    print(api.namespace, any(name.startswith("kubernetes.") for name in sys.modules))
    await api.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_without_its_packages_the_extra_is_named(found: Found) -> None:
    assert "pip install 'peerload[kubernetes]'" in run_without("aiohttp", found, "kubernetes:")
    path = found.kubeconfig()
    assert "pip install 'peerload[kubernetes]'" in run_without("kubernetes", found, f"kubernetes:?kubeconfig={path}")


def test_in_a_pod_the_library_is_not_wanted(found: Found) -> None:
    found.pod()
    assert run_without("kubernetes", found, "kubernetes:") == "inference False\n"


# What is taken of all that is there.


async def test_the_order_in_which_configurations_are_looked_for(found: Found) -> None:
    assert "finds no cluster" in await found.refused()
    home = found.folder / "home" / ".kube"
    home.mkdir(parents=True)
    found.kubeconfig(name="home/.kube/config", server="https://home")
    assert (await found.login()).server == "https://home"
    found.pod()
    assert (await found.login()).server == "https://10.0.0.1:443"
    found.environment["KUBECONFIG"] = str(found.kubeconfig(name="environment", server="https://environment/"))
    assert (await found.login()).server == "https://environment"
    found.place = f"kubernetes:?kubeconfig={found.kubeconfig(name='url', server='https://url')}"
    assert (await found.login()).server == "https://url"
    found.place = "kubernetes:?context=one"
    assert (await found.login()).server == "https://environment"
    del found.environment["KUBECONFIG"]
    assert (await found.login()).server == "https://home"


async def test_contexts_of_several_files(found: Found) -> None:
    one = found.kubeconfig()
    other = found.folder / "sub" / "other"
    other.parent.mkdir()
    (other.parent / "token").write_text("of-file\n")
    other.write_text(
        yaml.safe_dump(
            {
                "contexts": [
                    {"name": "two", "context": {"cluster": "d", "user": "v"}},
                    {"name": "nobody's", "context": {"cluster": "d"}},
                ],
                "clusters": [
                    {"name": "d", "cluster": {"server": "https://d/k8s/clusters/x", "tls-server-name": "kube"}}
                ],
                "users": [{"name": "v", "user": {"tokenFile": "token"}}],
            }
        )
    )
    found.environment["KUBECONFIG"] = f"{one}:{found.folder / 'missing'}:{other}"
    login = await found.login()
    assert (login.server, login.namespace, login.authorization) == (
        "https://10.1.1.1:6443",
        "of-context",
        f"Bearer {SECRET}",
    )
    found.place = "kubernetes:?context=two"
    login = await found.login()
    assert (login.server, login.namespace, login.server_name) == ("https://d/k8s/clusters/x", "default", "kube")
    assert login.authorization == "Bearer of-file"
    found.place = "kubernetes:?context=nobody%27s"
    assert (await found.login()).authorization == ""


async def test_a_kubeconfig_that_changes_and_the_token_that_it_names(found: Found) -> None:
    token = found.folder / "token"
    token.write_text("one")
    path = found.kubeconfig({"tokenFile": "token"})
    found.place = f"kubernetes:?kubeconfig={path}"
    async with found.access() as access:
        assert (await access.login()).authorization == "Bearer one"
        token.write_text("other")
        assert (await access.login()).authorization == "Bearer other"
        found.kubeconfig({"username": "me", "password": "you"})
        assert (await access.login()).authorization == "Basic bWU6eW91"


async def test_certificates_beside_and_inside_of_a_kubeconfig(found: Found) -> None:
    certificate, key = found.certificates.client("me")
    found.place = f"kubernetes:?kubeconfig={found.folder / 'config'}"
    found.kubeconfig({"client-certificate": str(certificate), "client-key": str(key)})
    assert (await found.login()).tls is not None
    found.kubeconfig({"client-certificate": str(certificate), "client-key": str(found.certificates.server_key)})
    assert f"cannot use the certificate {certificate}" in await found.refused()
    found.kubeconfig({"client-certificate": "none", "client-key": "none"})
    assert f"there is no file {found.folder / 'none'}" in await found.refused()
    found.kubeconfig(**{"insecure-skip-tls-verify": True})
    login = await found.login()
    assert login.tls is not None
    assert login.tls.verify_mode == ssl.CERT_NONE
    found.kubeconfig(server="http://127.0.0.1:8001")
    assert (await found.login()).tls is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{SECRET}: [", "is not YAML (line 1)"),
        (f"- {SECRET}", "is malformed"),
        (SECRET, "is malformed"),
        ("", "is malformed"),
        ("{contexts: [], clusters: [], users: []}", "lacks current-context"),
        ("{current-context: a, contexts: [], clusters: [], users: []}", "has no a in its contexts"),
        ("{current-context: a, contexts: [{name: b}]}", "has no a in its contexts"),
        ("{current-context: a, contexts: [{name: a}]}", "lacks context"),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c}}], clusters: [{name: d}]}",
            "no c in its clusters",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c}}], clusters: [{name: c, cluster: {}}]}",
            "lacks server",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c}}],"
            " clusters: [{name: c, cluster: {server: 'https://me:sekret@host'}}]}",
            "its server must be https://HOST:PORT",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],"
            " clusters: [{name: c, cluster: {server: 'https://host'}}], users: [{name: v, user: {token: sekret}}]}",
            "has no u in its users",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],"
            " clusters: [{name: c, cluster: {server: 'https://host'}}], users: [{name: u, user: {token: \"sek ret\\u0101\"}}]}",
            "characters that no token has",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],"
            " clusters: [{name: c, cluster: {server: 'https://host', certificate-authority-data: 'x'}}],"
            " users: [{name: u, user: {token: sekret}}]}",
            "is malformed",
        ),
    ],
)
async def test_kubeconfigs_that_cannot_be_used(found: Found, content: str, words: str) -> None:
    path = found.folder / "config"
    path.write_text(content)
    found.environment["KUBECONFIG"] = str(path)
    said = await found.refused()
    assert str(path) in said
    assert words in said


async def test_a_kubeconfig_that_is_not_there(found: Found) -> None:
    found.environment["KUBECONFIG"] = "/nowhere"
    assert "kubeconfig /nowhere: there is no such file" in await found.refused()


@pytest.mark.parametrize(
    ("server", "environment", "proxy"),
    [
        ("https://kube.example:6443", {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://kube.example", {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("https://kube.example", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("https://kube.example", {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "other, .example"}, None),
        ("https://kube.example", {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "ample"}, "http://proxy"),
        ("https://kube.example", {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "*"}, None),
        ("https://10.96.0.1", {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "10.0.0.0/8,x"}, None),
        ("https://11.96.0.1", {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "10.0.0.0/8,x"}, "http://proxy"),
        ("https://127.0.0.1", {"HTTPS_PROXY": "http://proxy"}, None),
    ],
)
async def test_proxies_of_the_environment(
    found: Found, server: str, environment: dict[str, str], proxy: str | None
) -> None:
    found.environment |= {"KUBECONFIG": str(found.kubeconfig(server=server)), **environment}
    assert (await found.login()).proxy == proxy


async def test_the_proxy_of_a_kubeconfig(found: Found) -> None:
    found.environment["KUBECONFIG"] = str(found.kubeconfig(**{"proxy-url": f"http://me:{SECRET}@proxy"}))
    login = await found.login()
    assert login.proxy == f"http://me:{SECRET}@proxy"
    assert SECRET not in repr(login)
    found.kubeconfig(**{"proxy-url": "socks5://proxy"})
    assert "not socks5:" in await found.refused()


# Plugins.


def printed(**status: Any) -> str:
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    return f"echo '{json.dumps(credential)}'"


async def test_a_plugin_is_run_as_kubectl_runs_it(found: Found) -> None:
    user = found.plugin(
        'echo "$@" >arguments; echo "$WHO" >who; echo "$KUBERNETES_EXEC_INFO" >info; ' + printed(token=SECRET),
        args=["get", "a token"],
        env=[{"name": "WHO", "value": "me"}],
        provideClusterInfo=True,
    )
    user["exec"]["args"].insert(0, "--dir")
    found.environment["KUBECONFIG"] = str(found.kubeconfig(user))
    script = (found.folder / "plugin").read_text()
    (found.folder / "plugin").write_text(script.replace("#!/bin/sh", f"#!/bin/sh\ncd {found.folder}"))
    login = await found.login()
    assert login.authorization == f"Bearer {SECRET}"
    assert (found.folder / "arguments").read_text() == "--dir get a token\n"
    assert (found.folder / "who").read_text() == "me\n"
    info = json.loads((found.folder / "info").read_text())
    assert info["apiVersion"] == "client.authentication.k8s.io/v1"
    assert info["spec"]["interactive"] is False
    assert info["spec"]["cluster"]["server"] == "https://10.1.1.1:6443"


async def test_a_plugin_may_give_a_certificate(found: Found) -> None:
    certificate, key = found.certificates.client("plugged")
    status = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    found.environment["KUBECONFIG"] = str(found.kubeconfig(found.plugin(f"cat {found.folder}/answer")))
    (found.folder / "answer").write_text(
        json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})
    )
    login = await found.login()
    assert login.tls is not None
    assert login.authorization == ""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"echo no {SECRET[:3]} for you >&2; exit 3", "failed (exit status 3): no sek for you"),
        (f"echo {SECRET}", "printed no ExecCredential"),
        (f"echo '[\"{SECRET}\"]'", "printed no ExecCredential"),
        (printed(), "gave neither a token nor a certificate"),
        (printed(clientCertificateData=SECRET), "gave neither a token nor a certificate"),
        (printed(token=SECRET).replace("/v1", "/v1beta1"), "speaks another version"),
        (printed(token=SECRET, expirationTimestamp="soon"), "printed no ExecCredential"),
        (f"yes {SECRET} | head -c 2000000", "printed no ExecCredential"),
    ],
)
async def test_a_plugin_that_fails(found: Found, script: str, words: str) -> None:
    found.environment["KUBECONFIG"] = str(found.kubeconfig(found.plugin(script)))
    with structlog.testing.capture_logs() as logs, pytest.raises(Unauthorized) as error:
        await found.login()
    assert words in str(error.value)
    assert SECRET not in f"{error.value} {logs}"


async def test_a_plugin_that_is_not_there(found: Found) -> None:
    user = found.plugin("", command="no-such-plugin", installHint="get it\n from the shop")
    found.environment["KUBECONFIG"] = str(found.kubeconfig(user))
    with pytest.raises(
        Unauthorized, match="no-such-plugin cannot be run: No such file or directory; get it from the shop"
    ):
        await found.login()
    found.kubeconfig({"exec": {"command": "x"}})
    assert "needs command and apiVersion" in await found.refused()
    found.kubeconfig(found.plugin("", interactiveMode="Always"))
    assert "wants a terminal" in await found.refused()


def counted(found: Found, expires_in: float) -> str:
    """A script that gives another token each time, good for so long on the test's clock."""
    expires = dt.datetime.fromtimestamp(found.clock.wall_ms() / 1_000 + expires_in, dt.UTC)
    text = printed(token="TOKEN", expirationTimestamp=expires.isoformat().replace("+00:00", "Z"))
    return f"echo x >>{found.folder}/runs; {text} | sed s/TOKEN/$(wc -l <{found.folder}/runs)/"


async def test_a_plugins_credential_is_replaced_before_it_expires(found: Found) -> None:
    user = found.plugin(counted(found, 600))
    found.environment["KUBECONFIG"] = str(found.kubeconfig(user))
    async with found.access() as access:
        logins = await asyncio.gather(*(access.login() for _ in range(10)))
        assert {login.authorization for login in logins} == {"Bearer 1"}
        found.clock.jump(530)
        assert (await access.login()).authorization == "Bearer 1"
        found.plugin(counted(found, 900))
        found.clock.jump(20)
        login = await access.login()
        assert login.authorization == "Bearer 1"  # still good, and nobody waits
        assert (await access.renew(login)).authorization == "Bearer 2"  # it is on its way
        found.clock.jump(1_000)
        assert (await access.login()).authorization == "Bearer 3"  # it had expired


async def test_a_plugin_is_not_run_at_every_call_where_it_gives_nothing_new(found: Found) -> None:
    user = found.plugin(counted(found, 600))
    found.environment["KUBECONFIG"] = str(found.kubeconfig(user))
    async with found.access() as access:
        await access.login()
        found.clock.jump(1_000)
        for _ in range(5):
            assert (await access.login()).authorization == "Bearer 2"


async def test_a_plugin_that_hangs_ends_with_whoever_wanted_it(found: Found) -> None:
    user = found.plugin(
        f"sleep 100 & echo $! >{found.folder}/pid.new; mv {found.folder}/pid.new {found.folder}/pid; wait"
    )
    found.environment["KUBECONFIG"] = str(found.kubeconfig(user))
    async with found.access() as access:
        login = asyncio.create_task(access.login())
        while not (found.folder / "pid").exists():
            await asyncio.sleep(0.01)
        await access.close()
        with pytest.raises(asyncio.CancelledError):
            await login
    pid = int((found.folder / "pid").read_text())
    eventually(lambda: has_ended(pid), what="its end")


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
