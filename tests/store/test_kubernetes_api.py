"""Speaking to an API server that misbehaves: each way in which it can fail has one clear end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
import yaml
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.clock import SystemClock
from peerload.errors import PeerloadError, Unavailable
from peerload.kubernetes import api as module
from peerload.kubernetes.access import Access
from peerload.kubernetes.api import JSON_PATCH, KubeApi
from peerload.kubernetes.lines import Lines
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import (
    Behind,
    Broken,
    Distrusted,
    Exists,
    Failing,
    Gone,
    Outage,
    Overloaded,
    Refused,
    Unauthorized,
    connection_words,
    read_object,
    refusal,
    retry_after,
)
from peerload.kubernetes.wires import open_socket
from tests.support.kube.certificates import Certificates
from tests.support.kube.kubeconfig import write_kubeconfig
from tests.support.live import free_port

SECRET = "sekret"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, reason: str = "", **more: Any) -> web.Response:
    headers = {"Retry-After": str(more.pop("retry"))} if "retry" in more else {}
    return web.json_response({"kind": "Status", "reason": reason, "code": code, **more}, status=code, headers=headers)


def good(**more: Any) -> web.Response:
    return web.json_response({"kind": "ConfigMap", **more})


class Server:
    """What answers, in the test's own event loop: each request gets the next of `answers`, and then the last again."""

    def __init__(self, certificates: Certificates) -> None:
        self.answers: list[Handler | web.Response] = []
        self.asked: list[web.Request] = []
        self.tokens: list[str] = []
        self.connections: set[object] = set()
        self.certificate = (certificates.server, certificates.server_key)
        self.plain = False
        self.host = "127.0.0.1"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        tls = None
        if not self.plain:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(*self.certificate)
        site = web.TCPSite(runner, self.host, 0, ssl_context=tls)
        await site.start()
        try:
            yield f"https://{self.host}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.tokens.append(request.headers.get("Authorization", ""))
        self.connections.add(request.transport)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, web.Response):
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        return await answer(request)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Patient(KubeApi):
    """Waits longer than a server does, where the test does not say how long: the machine may be busy."""

    async def call(self, method: str, path: str, *, seconds: float = 20.0, **more: Any) -> dict[str, Any]:
        return await super().call(method, path, seconds=seconds, **more)


class Setting:
    """A server, and how it is spoken to."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.folder = folder
        self.authority = certificates.authority
        self.server = Server(certificates)
        self.user: dict[str, object] = {"token": SECRET}
        self.url = ""
        self.cluster: dict[str, object] = {}

    def access(self, url: str) -> Access:
        path = write_kubeconfig(self.folder / "config", self.url or url, self.authority, self.user, "inference")
        config = yaml.safe_load(path.read_text())
        config["clusters"][0]["cluster"] |= self.cluster
        path.write_text(yaml.safe_dump(config))
        return Access(PLACE, SystemClock(), environment={"KUBECONFIG": str(path)})

    @contextlib.asynccontextmanager
    async def open(self, *answers: Handler | web.Response) -> AsyncIterator[KubeApi]:
        """A server that answers so, and one who may ask it."""
        self.server.answers = list(answers)
        async with self.server.running() as url:
            api = Patient(PLACE, SystemClock(), access=self.access(url))
            await api.open()
            try:
                yield api
            finally:
                await api.close()


PLACE = KubernetesPlace()


@pytest.fixture
def setting(tmp_path: Path, certificates: Certificates) -> Setting:
    return Setting(tmp_path, certificates)


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def hang_at_silent(request: web.Request) -> web.StreamResponse:
    return await hang(request) if request.path == "/silent" else good()


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return good()


# Calls.


async def test_what_is_asked_and_answered(setting: Setting) -> None:
    async with setting.open(good(data={"a": "ü"})) as api:
        assert api.namespace == "inference"
        answer = await api.call("GET", "/api/v1/x", query={"labelSelector": "a=b,c in (d,e)", "limit": "5"})
        assert answer == {"kind": "ConfigMap", "data": {"a": "ü"}}
        patch = [{"op": "replace", "path": "/a", "value": 1}]
        await api.call("PATCH", "/api/v1/x/y", body=patch, content_type=JSON_PATCH, accept="application/yaml")
        await api.call("POST", "/api/v1/x", body=b"{}")
        got, patched, posted = setting.server.asked
        assert dict(got.query) == {"labelSelector": "a=b,c in (d,e)", "limit": "5"}
        assert got.headers["Authorization"] == f"Bearer {SECRET}"
        assert got.headers["User-Agent"].startswith("peerload/")
        assert "Content-Type" not in got.headers
        assert (patched.headers["Content-Type"], patched.headers["Accept"]) == (JSON_PATCH, "application/yaml")
        assert posted.headers["Content-Type"] == "application/json"


async def test_connections_are_used_again(setting: Setting) -> None:
    async with setting.open(good()) as api:
        for _ in range(10):
            await api.call("GET", "/")
        assert len(setting.server.connections) == 1
        await asyncio.gather(*(api.call("GET", "/", seconds=10) for _ in range(200)))
        assert len(setting.server.connections) <= 33


def test_connections_to_a_host_that_is_gone_are_found_out() -> None:
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, between, count = (made.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle + between * count <= 30


async def test_every_answer_tells_the_time(setting: Setting) -> None:
    heard: list[tuple[float, float, str]] = []
    async with setting.open(status(404, "NotFound", details={"kind": "x", "name": "y"})) as api:
        api.on_date = lambda *answer: heard.append(answer)
        begun = SystemClock().monotonic()
        with pytest.raises(PeerloadError):
            await api.call("GET", "/x/y")
        ((before, after, date),) = heard
        assert begun <= before <= after <= SystemClock().monotonic()
        assert date.endswith("GMT")


@pytest.mark.parametrize("writes", [False, True])
async def test_silence_ends_a_call_and_all_connections(setting: Setting, writes: bool) -> None:
    method = "PATCH" if writes else "GET"
    async with setting.open(hang_at_silent) as api:
        await api.call("GET", "/")
        first = set(setting.server.connections)
        with pytest.raises(Broken, match="did not answer in time") as error:
            await api.call(method, "/silent", body={} if writes else None, seconds=0.1)
        assert error.value.ambiguous is writes
        setting.server.connections.clear()
        await api.call("GET", "/")
        assert not first & setting.server.connections


async def test_no_connection_outlives_it_to_a_server_that_stands_still(setting: Setting) -> None:
    asked = asyncio.Event()
    wires: list[asyncio.StreamWriter] = []

    async def stand_still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it will not hear that the other side goes
        wires.append(writer)
        asked.set()

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*setting.server.certificate)
    standing = await asyncio.start_server(stand_still, "127.0.0.1", 0, ssl=tls)
    port = standing.sockets[0].getsockname()[1]
    setting.url = f"https://127.0.0.1:{port}"
    async with setting.open(good()) as api:
        with pytest.raises(Broken, match="in time"):
            await api.call("POST", "/", body={"a": "x" * 1_000_000}, seconds=0.2)
        pending = asyncio.create_task(api.call("GET", "/", seconds=60))
        asked.clear()
        await asked.wait()
        await api.close()
        with pytest.raises(Broken, match="the store was closed"):
            await pending

        def ours() -> list[object]:
            return [each for each in psutil.Process().net_connections() if each.raddr and each.raddr.port == port]

        while ours():
            await asyncio.sleep(0.01)
    standing.close()
    for writer in wires:
        writer.transport.abort()


async def test_a_connection_that_is_given_up_leaves_calls_alone_that_use_another(setting: Setting) -> None:
    release = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        if request.path == "/slow":
            await release.wait()
        return await hang_at_silent(request)

    async with setting.open(late) as api:
        slow = asyncio.create_task(api.call("GET", "/slow", seconds=10))
        while not setting.server.asked:
            await asyncio.sleep(0.001)
        with pytest.raises(Broken):
            await api.call("GET", "/silent", seconds=0.1)
        release.set()
        assert await slow == {"kind": "ConfigMap"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_write_whose_answer_is_lost_is_not_sent_again(setting: Setting, method: str) -> None:
    async with setting.open(good(), hang_up, good()) as api:
        await api.call("GET", "/")
        with pytest.raises(Broken) as error:
            await api.call(method, "/", body={"x": 1})
        assert error.value.ambiguous
        assert len(setting.server.asked) == 2


async def test_a_question_whose_answer_is_lost_is_asked_again(setting: Setting) -> None:
    async with setting.open(hang_up, hang_up, good()) as api:
        assert await api.call("GET", "/") == {"kind": "ConfigMap"}


async def test_a_server_that_always_hangs_up(setting: Setting) -> None:
    async with setting.open(hang_up) as api:
        with pytest.raises(Broken, match="cannot be reached: it closed the connection"):
            await api.call("GET", "/")
        assert len(setting.server.asked) < 20


async def test_nobody_listens(setting: Setting) -> None:
    setting.url = f"https://127.0.0.1:{free_port()}"
    async with setting.open(good()) as api:
        with pytest.raises(Broken, match="nobody listens there") as error:
            await api.call("POST", "/", body={})
        assert not error.value.ambiguous


async def test_a_connection_that_is_not_made_in_time_was_not_used(setting: Setting) -> None:
    with socket.socket() as listener:  # the handshake never comes
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        setting.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        async with setting.open(good()) as api:
            with pytest.raises(Broken, match="no connection was made in time") as error:
                await api.call("POST", "/", body={}, seconds=0.2)
            assert not error.value.ambiguous


async def test_a_server_that_is_overloaded_is_asked_again_when_it_wants(setting: Setting) -> None:
    busy = status(429, "TooManyRequests", retry=0, message="too many")
    async with setting.open(busy, busy, good()) as api:
        assert await api.call("PATCH", "/", body={}) == {"kind": "ConfigMap"}
    async with setting.open(status(429, "TooManyRequests", retry=30, message="too many")) as api:
        with pytest.raises(Overloaded, match="overloaded and turns requests away") as error:
            await api.call("PATCH", "/", body={})
        assert (error.value.retry_after, error.value.ambiguous) == (30.0, False)
        assert len(setting.server.asked) == 4
    async with setting.open(status(429, "TooManyRequests", details={"retryAfterSeconds": 40})) as api:
        with pytest.raises(Overloaded) as error:
            await api.call("GET", "/")
        assert error.value.retry_after == 40.0


async def test_a_server_that_stays_overloaded_is_asked_until_the_time_is_over(setting: Setting) -> None:
    async with setting.open(good(), status(429, "TooManyRequests", retry=0)) as api:
        await api.call("GET", "/")
        with pytest.raises(Outage):
            await api.call("PATCH", "/", body={}, seconds=0.4)
        assert 2 <= len(setting.server.asked) <= 10


async def test_after_a_failure_that_may_have_been_none_nothing_is_taken_for_a_fact(setting: Setting) -> None:
    failing = status(503, "ServiceUnavailable", retry=0)
    conflict = status(409, "AlreadyExists", details={"kind": "x", "name": "y"})
    async with setting.open(failing, conflict) as api:
        with pytest.raises(Broken) as error:
            await api.call("POST", "/", body={})
        assert error.value.ambiguous
    async with setting.open(failing, status(429, retry=30)) as api:
        with pytest.raises(Overloaded) as overloaded:
            await api.call("POST", "/", body={})
        assert overloaded.value.ambiguous
    async with setting.open(failing, status(404, "NotFound", details={"kind": "x", "name": "y"})) as api:
        with pytest.raises(PeerloadError) as missing:
            await api.call("GET", "/")
        assert not isinstance(missing.value, Unavailable)
    async with setting.open(conflict) as api:
        with pytest.raises(Exists):
            await api.call("POST", "/", body={})


@pytest.mark.parametrize(
    ("answer", "kind", "ambiguous"),
    [
        (status(500, "InternalError", message="etcdserver: leader changed"), Failing, True),
        (status(503, "ServiceUnavailable"), Failing, True),
        (status(504, "Timeout", message="request did not complete"), Failing, True),
        (status(504, "Timeout", details={"causes": [{"reason": "ResourceVersionTooLarge"}]}), Behind, False),
        (status(410, "Expired", message="too old resource version"), Gone, None),
        (status(422, "Invalid", message="spec is bad"), Refused, False),
        (status(413, "RequestEntityTooLarge"), Refused, False),
        (status(302), Refused, False),
        (web.Response(status=502, body=b"<html>bad gateway</html>"), Failing, True),
        (web.Response(body=b"<html>hello</html>", content_type="text/html"), Broken, True),
        (web.Response(body=b"[]"), Broken, True),
    ],
)
async def test_answers_that_are_no_success(
    setting: Setting, answer: web.Response, kind: type[PeerloadError], ambiguous: bool | None
) -> None:
    async with setting.open(answer) as api:
        with pytest.raises(kind) as error:
            await api.call("PUT", "/", body={})
        assert getattr(error.value, "ambiguous", None) is ambiguous
        assert len(setting.server.asked) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
DETAILS = st.fixed_dictionaries({}, optional=dict.fromkeys(("causes", "name", "kind", "retryAfterSeconds"), JSON))
STATUS = st.fixed_dictionaries({}, optional={"reason": JSON, "message": JSON, "details": JSON | DETAILS})


@settings(max_examples=50)
@given(code=st.sampled_from([400, 401, 403, 404, 409, 410, 418, 429, 500, 503, 504, 599]) | JSON, said=STATUS)
def test_every_refusal_means_something(code: Any, said: dict[str, Any]) -> None:
    assert read_object(json.dumps(said).encode()).keys() == said.keys()
    after = retry_after({"Retry-After": str(said.get("reason"))}, said)
    error = refusal("https://kube", code, said, after=after)
    assert isinstance(error, PeerloadError)
    assert len(str(error)) < 1_000


async def test_nobody_else_is_told_the_token(setting: Setting) -> None:
    elsewhere = web.Response(status=307, headers={"Location": "/elsewhere"})
    async with setting.open(elsewhere, good()) as api:
        with pytest.raises(Refused, match=r"\(307\)"):
            await api.call("GET", "/")
        assert len(setting.server.asked) == 1


async def test_an_answer_is_bounded(setting: Setting) -> None:
    async with setting.open(good(data="x" * 100_000)) as api:
        assert len((await api.fetch("GET", "/", most_bytes=200_000)).body) > 100_000
        with pytest.raises(Broken, match="more than 50000 bytes"):
            await api.fetch("POST", "/", most_bytes=50_000)


async def test_large_bodies_are_given_time_in_proportion(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await request.read()
        answer = web.StreamResponse()
        await answer.prepare(request)
        for part in (b'{"a":"', b"x" * 200_000, b'"}'):
            await answer.write(part)
            await asyncio.sleep(0.1)
        return answer

    async with setting.open(slow) as api:
        with pytest.raises(Broken):
            await api.call("POST", "/", seconds=0.1)
        monkeypatch.setattr(module, "SLOW_BYTES", 10_000)
        assert await api.call("POST", "/", body={"a": "x" * 300_000}, seconds=0.1)


async def test_cancelling_leaves_it_usable(setting: Setting) -> None:
    async with setting.open(hang, good()) as api:
        call = asyncio.create_task(api.call("PATCH", "/", body={}, seconds=10))
        while not setting.server.asked:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await api.call("GET", "/") == {"kind": "ConfigMap"}


async def test_closing_ends_what_is_in_flight(setting: Setting) -> None:
    async with setting.open(hang) as api:
        calls = [asyncio.create_task(api.call(method, "/", seconds=10)) for method in ("GET", "DELETE")]
        watch = asyncio.create_task(anext(api.watch("/", silence=10)))
        while len(setting.server.asked) < 3:
            await asyncio.sleep(0.001)
        await api.close()
        errors = await asyncio.gather(*calls, watch, return_exceptions=True)
        assert [str(error) for error in errors] == ["the store was closed"] * 3
        assert [error.ambiguous for error in errors if isinstance(error, Outage)] == [False, True, False]
        with pytest.raises(Unavailable):
            await api.call("GET", "/")
        with pytest.raises(Unavailable):
            await anext(api.watch("/", silence=1))
        await api.close()


# As whom.


async def test_a_token_that_is_refused_is_read_again_once(setting: Setting, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    os_stat = token.stat()
    setting.user = {"tokenFile": str(token)}
    refused = status(401, "Unauthorized")
    async with setting.open(good(), refused, good(), refused) as api:
        await api.call("GET", "/")
        token.write_text("new")
        assert token.stat().st_ino == os_stat.st_ino
        with pytest.raises(Unauthorized, match="does not accept our credentials"):
            await api.call("GET", "/")  # the new one was read because the file changed
        assert setting.server.tokens == ["Bearer old", "Bearer new"]
        assert await api.call("GET", "/")


async def test_a_plugins_token_that_is_refused_is_asked_for_again(setting: Setting, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!/bin/sh\necho x >>{tmp_path}/runs\n"
        'echo \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"T\'$(wc -l <'
        f"{tmp_path}/runs)'\"}}}}'\n"
    )
    plugin.chmod(0o755)
    setting.user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    async with setting.open(good(), status(401, "Unauthorized"), good(), status(401)) as api:
        await api.call("GET", "/")
        api._access._read_at -= 100  # some time ago
        await api.call("POST", "/", body={})
        assert setting.server.tokens == ["Bearer T1", "Bearer T1", "Bearer T2"]
        with pytest.raises(Unauthorized):
            await api.call("GET", "/")
        with pytest.raises(Unauthorized):
            await anext(api.watch("/", silence=1))


# TLS, names and proxies.


async def test_a_certificate_of_a_stranger(setting: Setting, tmp_path: Path) -> None:
    setting.authority = Certificates(tmp_path / "stranger").authority
    async with setting.open(good()) as api:
        with pytest.raises(Distrusted, match="not signed by an authority that we trust") as error:
            await api.call("POST", "/", body={})
        assert not error.value.ambiguous
        assert setting.server.asked == []


async def test_a_certificate_for_another_name(setting: Setting) -> None:
    setting.server.host = "127.0.0.2"
    async with setting.open(good()) as api:
        with pytest.raises(Distrusted, match="for another address"):
            await api.call("GET", "/")


async def test_no_tls(setting: Setting) -> None:
    setting.server.plain = True
    async with setting.open(good()) as api:
        with pytest.raises(Broken, match="does not speak TLS"):
            await api.call("GET", "/")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "not valid yet: compare the clocks"),
        (10, "has expired"),
        (62, "for another name"),
        (20, "not signed by an authority that we trust (certificate-authority, ca.crt): it is odd"),
    ],
)
def test_what_is_wrong_with_a_certificate(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "no")
    error.verify_code, error.verify_message = code, "it is odd"
    assert words in connection_words(error)


async def test_a_name_that_nobody_knows(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.url = "https://kube.invalid:6443"

    async def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with setting.open(good()) as api:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        with pytest.raises(Broken, match="its name cannot be resolved") as error:
            await api.call("POST", "/", body={})
        assert not error.value.ambiguous


async def proxy_between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[str], word: str) -> None:
    """An HTTP proxy for CONNECT, which wants a password."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    seen.append(head)
    if word not in head:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        return
    host, port = head.split(" ")[1].rsplit(":", 1)
    far_reader, far_writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def test_a_proxy_before_it(setting: Setting) -> None:
    seen: list[str] = []
    tasks = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        await proxy_between(reader, writer, seen, "Basic bWU6cGFzcw==")

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    where = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    setting.cluster = {"proxy-url": f"http://me:pass@{where}"}
    async with setting.open(good()) as api:
        assert await api.call("GET", "/") == {"kind": "ConfigMap"}
        assert SECRET not in seen[0]
    setting.cluster = {"proxy-url": f"http://me:{SECRET}@{where}"}
    async with setting.open(good()) as api:
        with pytest.raises(Broken, match=r"the proxy refuses the connection \(407\)") as error:
            await api.call("POST", "/", body={})
        assert not error.value.ambiguous
        assert SECRET not in str(error.value)
    proxy.close()
    await asyncio.wait(tasks)


async def test_no_secret_is_told(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[object] = []
    answers = [status(401), status(403, "Forbidden", message="no"), status(500), hang_up, web.Response(body=b"x"), hang]
    with structlog.testing.capture_logs() as logs:
        async with setting.open(*answers) as api:
            for _ in answers:
                with pytest.raises(PeerloadError) as error:
                    await api.call("POST", "/", body={}, seconds=0.2)
                chain: BaseException | None = error.value
                while chain is not None:
                    told += [repr(chain), str(chain)]
                    chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
            told += [repr(api), repr(api._access), repr(api._access._login), logs, caplog.text]
    assert SECRET not in str(told)


# Watches.


def streamed(*chunks: bytes, then: str = "end") -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then == "silence":
            await asyncio.Event().wait()
        if then == "break":
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def event(kind: str = "ADDED", **said: Any) -> bytes:
    return json.dumps({"type": kind, "object": said}).encode() + b"\n"


async def events(api: KubeApi, silence: float = 5.0) -> list[dict[str, Any]]:
    return [each async for each in api.watch("/x", {"resourceVersion": "7"}, silence=silence)]


async def test_a_watch_until_its_end(setting: Setting) -> None:
    text = event(name="a") + event("BOOKMARK", metadata={"resourceVersion": "9"}) + event("DELETED", name="ü" * 100)
    async with setting.open(streamed(*(text[at : at + 7] for at in range(0, len(text), 7)))) as api:
        assert [each["type"] for each in await events(api)] == ["ADDED", "BOOKMARK", "DELETED"]
        assert dict(setting.server.asked[0].query) == {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": "7",
        }


async def test_a_watch_that_does_not_begin(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPENING_SECONDS", 0.1)
    async with setting.open(hang) as api:
        with pytest.raises(Broken, match="did not begin a watch in time"):
            await events(api)


async def test_an_event_may_be_long(setting: Setting) -> None:
    async with setting.open(streamed(event(name="x" * 3_000_000) + event(name="b"))) as api:
        assert [len(each["object"]["name"]) for each in await events(api)] == [3_000_000, 1]
    async with setting.open(streamed(b"x" * 17_000_000, then="silence")) as api:
        with pytest.raises(Broken, match="an event of a watch has more than 16777216 bytes"):
            await events(api)


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        (streamed(event(name="a"), then="silence"), Broken, "sent nothing on a watch for 0.1 s"),
        (streamed(event(name="a"), then="break"), Broken, "cannot be reached"),
        (streamed(event(name="a")[:-1]), Broken, "in the middle of an event"),
        (streamed(b"<html>\n"), Broken, "no Kubernetes API server"),
        (streamed(b'{"type":"ERROR"}\n'), Broken, "no Kubernetes API server"),
        (streamed(event("ERROR", code=410, reason="Expired", message="too old")), Gone, "too old"),
        (streamed(event("ERROR", code=429, details={"retryAfterSeconds": 3})), Overloaded, "overloaded"),
        (streamed(event("ERROR", code="odd")), Failing, "failed"),
        (streamed(event("ERROR")), Failing, "failed"),
        (status(410, "Expired", message="too old"), Gone, "too old"),
        (status(429, retry=7), Overloaded, "overloaded"),
        (status(500), Failing, "failed"),
        (hang_up, Broken, "closed the connection"),
    ],
)
async def test_watches_that_fail(
    setting: Setting, handler: Handler | web.Response, kind: type[PeerloadError], words: str
) -> None:
    async with setting.open(handler) as api:
        with pytest.raises(kind, match=words):
            await events(api, silence=0.1 if "for 0.1 s" in words else 20.0)


async def test_a_watch_that_is_given_up_ends_its_connection(setting: Setting) -> None:
    ended = asyncio.Event()

    async def follow(request: web.Request) -> web.StreamResponse:
        try:
            return await streamed(event(name="a"), then="silence")(request)
        finally:
            ended.set()

    async with setting.open(follow) as api:
        async with contextlib.aclosing(api.watch("/", silence=10)) as watch:
            await anext(watch)
        await asyncio.wait_for(ended.wait(), 5)


async def test_watches_take_no_connection_from_calls(setting: Setting) -> None:
    async def either(request: web.Request) -> web.StreamResponse:
        return await streamed(event(name="a"), then="silence")(request) if "watch" in request.query else good()

    async with setting.open(either) as api, contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            watch = await stack.enter_async_context(contextlib.aclosing(api.watch("/", silence=10)))
            await anext(watch)
        assert await api.call("GET", "/") == {"kind": "ConfigMap"}


@settings(max_examples=40)
@given(lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b""))), data=st.data())
def test_lines_are_the_same_however_they_come(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines) + b"rest"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    reader = Lines()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        found += reader.feed(text[start:end])
    assert found == lines
    assert reader.partial
