"""Settings: which of flag, variable and default counts, and what is said of a bad one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from peerload.errors import InvalidArgument
from peerload.server.app import Server
from peerload.server.resolving import resolve
from peerload.server.tls import TlsFiles
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PEERLOAD_", "MX_", "MODEL_EXPRESS_", "REDIS_", "POD_")):
            monkeypatch.delenv(name)


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    resolved = resolve({})
    assert resolved.settings.listen == "127.0.0.1:8001"
    assert resolved.settings.store.startswith("sqlite:/")
    assert resolved.settings.store.endswith("/peerload/peerload.sqlite")
    assert resolved.settings.heartbeat_timeout == 90
    assert resolved.settings.reaper_interval == 30
    assert resolved.settings.gc_timeout == 3600
    assert set(resolved.origins.values()) == {"default"}


def test_a_flag_then_ours_then_deployed_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MX_HEARTBEAT_TIMEOUT_SECS", "30")
    monkeypatch.setenv("MX_GC_TIMEOUT_SECS", "40")
    monkeypatch.setenv("PEERLOAD_GC_TIMEOUT", "50")
    monkeypatch.setenv("MX_REAPER_SCAN_INTERVAL_SECS", "60")
    monkeypatch.setenv("PEERLOAD_REAPER_INTERVAL", "70")
    resolved = resolve({"reaper_interval": 80.0, "gc_timeout": None})
    settings, origins = resolved.settings, resolved.origins
    assert (settings.heartbeat_timeout, origins["heartbeat_timeout"]) == (30, "MX_HEARTBEAT_TIMEOUT_SECS")
    assert (settings.gc_timeout, origins["gc_timeout"]) == (50, "PEERLOAD_GC_TIMEOUT")
    assert (settings.reaper_interval, origins["reaper_interval"]) == (80, "--reaper-interval")
    assert origins["grace"] == "default"


async def test_probing_is_on_until_it_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    on = resolve({}).settings
    assert (on.probe, on.probe_after) == (True, 35)
    assert not resolve({"probe": False}).settings.probe
    monkeypatch.setenv("PEERLOAD_PROBE", "false")
    monkeypatch.setenv("PEERLOAD_PROBE_AFTER", "20")
    off = resolve({})
    assert off.origins["probe"] == "PEERLOAD_PROBE"
    settings = Server(off.settings, store=MemoryStore(ManualClock())).backend.settings
    assert (settings.probe, settings.probe_after) == (False, 20)


@pytest.mark.parametrize(
    ("environment", "listen", "origin"),
    [
        ({"MODEL_EXPRESS_SERVER_PORT": "9001"}, "127.0.0.1:9001", "MODEL_EXPRESS_SERVER_PORT"),
        ({"MODEL_EXPRESS_SERVER_HOST": "0.0.0.0"}, "0.0.0.0:8001", "MODEL_EXPRESS_SERVER_HOST"),
        (
            {"MODEL_EXPRESS_SERVER_HOST": "::", "MODEL_EXPRESS_SERVER_PORT": "1"},
            "[::]:1",
            "MODEL_EXPRESS_SERVER_HOST, MODEL_EXPRESS_SERVER_PORT",
        ),
        ({"MODEL_EXPRESS_SERVER_PORT": "9001", "PEERLOAD_LISTEN": "h:2"}, "h:2", "PEERLOAD_LISTEN"),
        ({"MODEL_EXPRESS_SERVER_PORT": "", "PEERLOAD_LISTEN": ""}, "127.0.0.1:8001", "default"),
    ],
)
def test_the_address(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], listen: str, origin: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    resolved = resolve({})
    assert (resolved.settings.listen, resolved.origins["listen"]) == (listen, origin)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PEERLOAD_LISTEN", "nowhere", "HOST:PORT"),
        ("PEERLOAD_LISTEN", "::1:80", "brackets"),
        ("MODEL_EXPRESS_SERVER_PORT", "99999", "65535"),
        ("MX_HEARTBEAT_TIMEOUT_SECS", "soon", "number"),
        ("MX_HEARTBEAT_TIMEOUT_SECS", "0", "greater than 0"),
        ("MX_REAPER_SCAN_INTERVAL_SECS", "-1", "greater than 0"),
        ("PEERLOAD_GC_TIMEOUT", "inf", "finite|less than"),
        ("PEERLOAD_GC_TIMEOUT", "nan", "finite|greater"),
        ("PEERLOAD_GRACE", "-1", "greater than or equal to 0"),
        ("MODEL_EXPRESS_LOG_LEVEL", "loud", "'debug', 'info'"),
        ("PEERLOAD_LOG_FORMAT", "xml", "'auto', 'console' or 'json'"),
        ("MX_METADATA_BACKEND", "etcd", "redis, kubernetes, k8s, crd"),
        ("MODEL_EXPRESS_SECURITY_MODE", "maybe", "off or enforce"),
        ("PEERLOAD_SERVICE_ACCOUNTS", "worker", "NAMESPACE/NAME"),
        ("PEERLOAD_SERVICE_ACCOUNTS", "a/b,c/*", "'c/\\*' is neither"),
        ("PEERLOAD_SERVICE_ACCOUNTS", "system:serviceaccount:a", "NAMESPACE/NAME"),
        ("PEERLOAD_TOKEN_CACHE_TTL", "-1", "greater than or equal to 0"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument, match=text) as error:
        resolve({})
    assert error.value.field == name


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(InvalidArgument, match="greater than 0") as error:
        resolve({"heartbeat_timeout": -1})
    assert error.value.field == "--heartbeat-timeout"


@pytest.mark.parametrize(
    ("flags", "field", "text"),
    [
        ({"tls_cert": "c"}, "--tls-cert", "needs --tls-key beside it"),
        ({"tls_key": "k"}, "--tls-key", "needs --tls-cert beside it"),
        ({"tls_client_ca": "a"}, "--tls-client-ca", "needs --tls-cert beside it"),
        ({}, "PEERLOAD_TLS_KEY", "needs --tls-cert beside it"),
    ],
)
def test_a_part_of_tls_is_not_enough(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, str], field: str, text: str
) -> None:
    if not flags:
        monkeypatch.setenv("PEERLOAD_TLS_KEY", "k")
    with pytest.raises(InvalidArgument, match=text) as error:
        resolve(flags)
    assert error.value.field == field


def test_the_files_of_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve({}).settings.tls is None
    monkeypatch.setenv("PEERLOAD_TLS_CERT", "/c")
    resolved = resolve({"tls_key": "/k"})
    assert resolved.settings.tls == TlsFiles(Path("/c"), Path("/k"))
    assert resolve({"tls_key": "/k", "tls_client_ca": "/a"}).settings.tls == TlsFiles(
        Path("/c"), Path("/k"), Path("/a")
    )
    for setting, name in (("tls_cert", "PEERLOAD_TLS_CERT"), ("tls_key", "--tls-key"), ("store", "store")):
        assert str(resolved.named(InvalidArgument(setting, "is bad"))) == f"{name}: is bad"


@pytest.mark.parametrize("backend", ["redis", "kubernetes", "k8s", "crd", "Redis"])
def test_our_own_store_setting_wins_over_the_deployed_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("MX_METADATA_BACKEND", backend)
    monkeypatch.setenv("PEERLOAD_STORE", "memory:")
    assert resolve({}).settings.store == "memory:"
    monkeypatch.delenv("PEERLOAD_STORE")
    assert resolve({"store": "sqlite:/x"}).settings.store == "sqlite:/x"


@pytest.mark.parametrize(("deployed", "ours"), [("warn", "warning"), ("TRACE", "debug"), ("Info", "info")])
def test_levels_by_their_other_names(monkeypatch: pytest.MonkeyPatch, deployed: str, ours: str) -> None:
    monkeypatch.setenv("MODEL_EXPRESS_LOG_LEVEL", deployed)
    monkeypatch.setenv("MODEL_EXPRESS_LOG_FORMAT", "pretty")
    settings = resolve({}).settings
    assert (settings.log_level, settings.log_format) == (ours, "console")


@pytest.mark.parametrize(
    ("environment", "store", "origin"),
    [
        ({}, "redis://localhost:6379", "MX_METADATA_BACKEND"),
        (
            {"REDIS_URL": "rediss://u:p@r:1/2", "REDIS_HOST": "x"},
            "rediss://u:p@r:1/2",
            "MX_METADATA_BACKEND, REDIS_URL",
        ),
        ({"MX_REDIS_HOST": "a", "REDIS_HOST": "b"}, "redis://a:6379", "MX_METADATA_BACKEND, MX_REDIS_HOST"),
        (
            {"REDIS_HOST": "::1", "REDIS_PORT": "7"},
            "redis://[::1]:7",
            "MX_METADATA_BACKEND, REDIS_HOST, REDIS_PORT",
        ),
        ({"MX_REDIS_PORT": "8", "REDIS_PORT": "7"}, "redis://localhost:8", "MX_METADATA_BACKEND, MX_REDIS_PORT"),
        ({"REDIS_PORT": "tcp://10.0.0.7:6380"}, "redis://localhost:6380", "MX_METADATA_BACKEND, REDIS_PORT"),
    ],
)
def test_a_deployed_redis(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], store: str, origin: str
) -> None:
    monkeypatch.setenv("MX_METADATA_BACKEND", "redis")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    resolved = resolve({})
    assert (resolved.settings.store, resolved.origins["store"]) == (store, origin)


def test_a_redis_that_is_not_asked_for_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://somebody-elses")
    assert resolve({}).settings.store.startswith("sqlite:")


@pytest.mark.parametrize("backend", ["kubernetes", "k8s", "CRD"])
@pytest.mark.parametrize(
    ("environment", "store", "origin"),
    [
        ({}, "kubernetes:", "MX_METADATA_BACKEND"),
        ({"POD_NAMESPACE": "a"}, "kubernetes:a", "MX_METADATA_BACKEND, POD_NAMESPACE"),
        ({"POD_NAMESPACE": " ", "MX_METADATA_NAMESPACE": ""}, "kubernetes:", "MX_METADATA_BACKEND"),
        (
            {"POD_NAMESPACE": "a", "MX_METADATA_NAMESPACE": "b"},
            "kubernetes:b",
            "MX_METADATA_BACKEND, MX_METADATA_NAMESPACE",
        ),
        ({"PEERLOAD_STORE": "kubernetes:c", "POD_NAMESPACE": "a"}, "kubernetes:c", "PEERLOAD_STORE"),
    ],
)
def test_a_deployed_namespace(
    monkeypatch: pytest.MonkeyPatch, backend: str, environment: dict[str, str], store: str, origin: str
) -> None:
    monkeypatch.setenv("MX_METADATA_BACKEND", backend)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    resolved = resolve({})
    assert (resolved.settings.store, resolved.origins["store"]) == (store, origin)


def test_a_namespace_alone_asks_for_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "a")
    assert resolve({}).settings.store.startswith("sqlite:")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:p@ss:w/rd@host/0", "redis://:***@host/0"),
        ("redis+sentinel://u:p@a,b/s?sentinel_password=q&min_replicas=1", None),
        ("redis://host", "redis://host"),
    ],
)
def test_no_password_of_any_shape_is_shown(url: str, shown: str | None) -> None:
    rows = {name: value for name, value, _ in resolve({"store": url}).table()}
    expected = shown or "redis+sentinel://u:***@a,b/s?sentinel_password=***&min_replicas=1"
    assert rows["store"] == expected


def test_a_password_is_not_shown() -> None:
    rows = {name: value for name, value, _ in resolve({"store": "redis://user:secret@host:1/0"}).table()}
    assert rows["store"] == "redis://user:***@host:1/0"
    json.dumps(rows)


SECURITY = "MODEL_EXPRESS_SECURITY_"


def test_the_deployed_names_of_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{SECURITY}TOKEN_AUDIENCES", "modelexpress, other ,")
    monkeypatch.setenv(f"{SECURITY}ALLOWED_SERVICE_ACCOUNTS", "a/b, system:serviceaccount:c:d,a/b")
    monkeypatch.setenv(f"{SECURITY}CACHE_TTL_SECS", "30")
    for mode in ("", "off"):
        monkeypatch.setenv(f"{SECURITY}MODE", mode)
        settings = resolve({}).settings
        assert not settings.authenticates
        assert settings.token_cache_ttl == 60
    monkeypatch.setenv(f"{SECURITY}MODE", "Enforce")
    resolved = resolve({})
    settings = resolved.settings
    assert settings.authenticates
    assert settings.reviews_tokens
    assert (settings.audiences, settings.accounts) == (("modelexpress", "other"), ("a/b", "c/d"))
    assert settings.token_cache_ttl == 30
    assert resolved.origins["service_accounts"] == f"{SECURITY}ALLOWED_SERVICE_ACCOUNTS"
    monkeypatch.setenv("PEERLOAD_SERVICE_ACCOUNTS", "e/f")
    assert resolve({"token_audiences": "ours"}).settings.accounts == ("e/f",)
    assert resolve({"token_audiences": "ours"}).settings.audiences == ("ours",)


@pytest.mark.parametrize("empty", ["TOKEN_AUDIENCES", "ALLOWED_SERVICE_ACCOUNTS"])
@pytest.mark.parametrize("value", [None, "", " , "])
def test_enforcing_for_nobody_is_refused(monkeypatch: pytest.MonkeyPatch, empty: str, value: str | None) -> None:
    given = {"MODE": "enforce", "TOKEN_AUDIENCES": "modelexpress", "ALLOWED_SERVICE_ACCOUNTS": "a/b", empty: value}
    for name, text in given.items():
        if text is not None:
            monkeypatch.setenv(f"{SECURITY}{name}", text)
    with pytest.raises(InvalidArgument, match="must name at least one") as error:
        resolve({})
    assert error.value.field == f"{SECURITY}{empty}"
