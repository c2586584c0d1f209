"""The Helm chart, rendered by helm, judged by a real API server, and its settings read by the program itself."""

from __future__ import annotations

import base64
import functools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import peerload
from peerload.server.resolving import resolve
from peerload.server.services.health import LIVENESS
from peerload.store.kubernetes.manifests import manifests
from tests.chart.cases import ACCOUNTS, BARE, DEFAULTS, EVERYTHING, KEPT_SECRET, REDIS, VALUES
from tests.cli.commands import FOREIGN
from tests.support.kube import ControlPlane, program

CHART = Path(__file__).resolve().parents[2] / "charts" / "peerload"
LIMIT_S = 60
ALWAYS = {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"}


@pytest.fixture(params=VALUES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def helm(*words: object, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("helm"), *map(str, words), *(["--values", "-"] if values is not None else [])],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def kubectl(*words: object, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("kubectl"), *map(str, words)], input=text, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def rendered(values: Mapping[str, Any], *, release: str = "peerload", namespace: str = "inference") -> str:
    return _rendered(json.dumps(values), release, namespace)


@functools.cache
def _rendered(values: str, release: str, namespace: str) -> str:
    done = helm("template", release, CHART, "--namespace", namespace, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> dict[str, dict[str, Any]]:
    """By kind: there is one of each at most."""
    found = [each for each in yaml.safe_load_all(text) if each]
    kinds = {each["kind"]: each for each in found}
    assert len(kinds) == len(found)
    return kinds


def pod(found: Mapping[str, dict[str, Any]]) -> Any:
    return found["Deployment"]["spec"]["template"]["spec"]


def environment(found: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The container's, as the kubelet would resolve it; of a Secret that is somebody else's, where it is to be found."""
    (container,) = pod(found)["containers"]
    for each in container["env"]:
        source = each.get("valueFrom", {}).get("secretKeyRef")
        if source is None:
            yield each["name"], each.get("value", "")
        elif (secret := found.get("Secret")) and secret["metadata"]["name"] == source["name"]:
            yield each["name"], secret["stringData"][source["key"]]
        else:
            yield each["name"], f"redis://{source['name']}/?namespace={source['key']}"


def test_the_definition_is_the_packages() -> None:
    (file,) = (CHART / "crds").iterdir()
    assert file.read_text() == manifests("crd", namespace="any")
    shown = helm("show", "crds", CHART)  # what is piped to kubectl after an upgrade
    assert yaml.safe_load(shown.stdout) == yaml.safe_load(file.read_text())


def test_the_version_is_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == peerload.__version__


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(where: str, values: Any, node: dict[str, Any]) -> None:
        if "properties" in node:
            assert node["additionalProperties"] is False, where
            assert values.keys() | {"global"} == node["properties"].keys() | {"global"}, where
            for name, value in values.items():
                check(f"{where}.{name}", value, node["properties"][name])

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    values["resources"].setdefault("claims", [])
    check("", values, schema)


def test_lint(case: str) -> None:
    done = helm("lint", "--strict", CHART, values=VALUES[case])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_api_server_takes_it(case: str, shared_kube: ControlPlane) -> None:
    namespace = shared_kube.fresh_namespace(ready=False)
    text = rendered(VALUES[case], namespace=namespace.name)
    done = kubectl(
        *("--kubeconfig", shared_kube.kubeconfig(namespace=namespace.name)),
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"),
        text=text,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(objects(text))
    assert all(line.endswith("created (server dry run)") for line in lines)


def test_which_objects_there_are() -> None:
    assert objects(rendered(DEFAULTS)).keys() == ALWAYS | {"Role", "RoleBinding"}
    assert objects(rendered(REDIS)).keys() == ALWAYS | {"Secret"}
    assert objects(rendered(KEPT_SECRET)).keys() == ALWAYS
    assert objects(rendered(BARE)).keys() == {"Deployment", "Service"}
    cluster = {"ClusterRole", "ClusterRoleBinding"}
    assert objects(rendered(EVERYTHING)).keys() == ALWAYS | {"Role", "RoleBinding"} | cluster
    assert not cluster & objects(rendered({**EVERYTHING, "rbac": {"create": False}})).keys()


def test_the_role_is_the_packages() -> None:
    found = objects(rendered(DEFAULTS, namespace="a"))
    ours = objects(manifests("role", namespace="a"))
    assert found["Role"]["rules"] == ours["Role"]["rules"]
    assert found["RoleBinding"]["subjects"] == ours["RoleBinding"]["subjects"]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]


def test_the_right_to_review_tokens_is_the_packages() -> None:
    found = objects(rendered(EVERYTHING, namespace="a"))
    ours = objects(manifests("reviewer", namespace="a", account="special"))
    assert found["ClusterRole"]["rules"] == ours["ClusterRole"]["rules"]
    assert found["ClusterRoleBinding"]["subjects"] == ours["ClusterRoleBinding"]["subjects"]
    assert found["ClusterRoleBinding"]["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    # Names of the cluster's: another release's is another.
    others = objects(rendered(EVERYTHING, namespace="b"))
    assert found["ClusterRole"]["metadata"]["name"] != others["ClusterRole"]["metadata"]["name"]
    # Tokens are reviewed whatever the store is.
    assert (
        pod(objects(rendered({**REDIS, "access": {"tokenAudiences": ["a"]}})))["automountServiceAccountToken"] is True
    )


def test_the_access_file_is_where_the_program_looks_for_it() -> None:
    found = objects(rendered(EVERYTHING))
    (volume,) = (each for each in pod(found)["volumes"] if each["name"] == "access")
    (mount,) = (each for each in pod(found)["containers"][0]["volumeMounts"] if each["name"] == "access")
    assert volume == {"name": mount["name"], "secret": {"secretName": "who"}}
    assert mount["readOnly"] is True
    assert dict(environment(found))["PEERLOAD_ACCESS"] == f"{mount['mountPath']}/may.toml"


def test_parts_find_each_other(case: str) -> None:
    found = objects(rendered(VALUES[case], release="r" * 53))
    template = found["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        *(found[kind]["spec"]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget",) if kind in found),
        *(found[kind]["spec"]["podSelector"]["matchLabels"] for kind in ("NetworkPolicy",) if kind in found),
        *(each["labelSelector"]["matchLabels"] for each in template["spec"].get("topologySpreadConstraints", [])),
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    (container,) = template["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert {each["targetPort"] for each in found["Service"]["spec"]["ports"]} == ports.keys()
    for rule in found.get("NetworkPolicy", {"spec": {"ingress": []}})["spec"]["ingress"]:
        assert rule["from"]  # nothing in it would be everybody
        assert {each["port"] for each in rule["ports"]} <= ports.keys()
    alive: dict[str, Any] = {"grpc": {"port": ports["grpc"], "service": LIVENESS}}
    ready: dict[str, Any] = {"grpc": {"port": ports["grpc"]}}
    if case == "everything":  # TLS, which the kubelet's probes do not speak
        alive, ready = ({"httpGet": {"port": "metrics", "path": path}} for path in ("/livez", "/readyz"))
    for probe, asked in (("startupProbe", alive), ("readinessProbe", ready), ("livenessProbe", alive)):
        assert asked.items() <= container[probe].items()
        assert len({"grpc", "httpGet", "tcpSocket", "exec"} & container[probe].keys()) == 1
    account = found["ServiceAccount"]["metadata"]["name"] if "ServiceAccount" in found else "default"
    assert template["spec"]["serviceAccountName"] == account == ACCOUNTS.get(case, account)
    assert all(len(each["metadata"]["name"]) <= 63 for kind, each in found.items() if "Cluster" not in kind)


def test_tls_is_read_from_where_the_secret_is_mounted() -> None:
    found = objects(rendered(EVERYTHING))
    (container,) = pod(found)["containers"]
    (volume,) = (each for each in pod(found)["volumes"] if each["name"] == "tls")
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "tls")
    assert volume == {"name": mount["name"], "secret": {"secretName": "peerload-tls"}}
    assert "subPath" not in mount  # such a mount does not change with the Secret
    named = [value for name, value in environment(found) if name.startswith("PEERLOAD_TLS_")]
    assert {path.rpartition("/")[0] for path in named} == {mount["mountPath"]}
    assert "volumes" not in pod(objects(rendered(DEFAULTS)))


def test_it_may_do_little(case: str) -> None:
    found = objects(rendered(VALUES[case]))
    spec = pod(found)
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    # Where the store is in Redis, nobody is to find a token in the Pod.
    assert spec["automountServiceAccountToken"] is (case not in ("redis", "kept secret"))
    assert "s3cr" not in json.dumps({**found, "Secret": {}})


def test_it_is_given_time_to_stop(case: str) -> None:
    found = objects(rendered(VALUES[case]))
    settings = dict(environment(found))
    needed = float(settings["PEERLOAD_DRAIN_DELAY"]) + float(settings["PEERLOAD_GRACE"])
    assert pod(found)["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (
            "defaults",
            {"store": "kubernetes:inference?instance=main", "listen": "0.0.0.0:8001", "metrics": "0.0.0.0:9401"},
        ),
        ("redis", {"store": "redis://:***@redis:6379/1?min_replicas=1", "drain_delay": 5}),
        ("kept secret", {"store": "redis://mine/?namespace=REDIS_URL", "log_format": "json"}),
        ("bare", {"metrics": "off", "ui": "off", "probe": True}),
        (
            "everything",
            {
                "store": "kubernetes:inference?instance=second",
                "listen": "[::]:8001",
                "metrics": "[::]:9401",
                "ui": "127.0.0.1:8888",
                "tls_cert": "/etc/peerload/tls/tls.crt",
                "tls_key": "/etc/peerload/tls/tls.key",
                "tls_client_ca": "/etc/peerload/tls/ca.crt",
                "heartbeat_timeout": 60,
                "reaper_interval": 12.5,
                "gc_timeout": 2678400,
                "probe": False,
                "probe_after": 40,
                "log_level": "debug",
                "log_format": "console",
                "drain_delay": 0.5,
                "grace": 30,
                "access": "/etc/peerload/access/may.toml",
                "token_audiences": "peerload,modelexpress",
                "service_accounts": "inference/worker,batch/default",
            },
        ),
    ],
)
def test_the_program_reads_its_settings(case: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dict(environment(objects(rendered(VALUES[case]))))
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    config = {name: (value, origin) for name, value, origin in resolve({}).table()}
    assert {name: config[name][0] for name in wanted} == wanted
    assert {name for name in settings if name.startswith("PEERLOAD_")} <= {origin for _, origin in config.values()}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"store": {"type": "sqlite"}}, "/store/type"),
        ({"store": {"type": "redis"}}, "/store/redis"),
        ({"store": {"type": "redis", "redis": {"url": "http://x"}}}, "/store/redis/url"),
        ({"store": {"kubernetes": {"instance": "A_b"}}}, "/store/kubernetes/instance"),
        ({"store": None}, "store"),
        ({"replicas": 0}, "/replicas"),
        ({"replicas": "two"}, "/replicas"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"image": {"tag": "a b"}}, "/image/tag"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
        ({"settings": {"heartbeatTimeout": 0}}, "/settings/heartbeatTimeout"),
        ({"settings": {"probe": "maybe"}}, "/settings/probe"),
        ({"settings": {"logLevel": "loud"}}, "/settings/logLevel"),
        ({"settings": {"grace": None}}, "grace"),
        ({"settings": {"heartbeattimeout": 90}}, "heartbeattimeout"),
        ({"access": {"serviceAccounts": ["worker"]}}, "/access/serviceAccounts"),
        ({"access": {"tokenAudiences": ["a,b"]}}, "/access/tokenAudiences"),
        ({"listenHost": "localhost"}, "/listenHost"),
        ({"tls": {"clientCertificates": True}}, "/tls/existingSecret"),
        ({"tls": {"existingSecret": "a"}, "metrics": {"enabled": False}}, "/metrics/enabled"),
        ({"service": {"port": 70000}}, "/service/port"),
        ({"ui": {"enabled": True, "port": 9401}}, "/ui/port"),
        ({"networkPolicy": {"from": []}}, "/networkPolicy/from"),
        ({"networkPolicy": {"from": None}}, "from"),
        ({"podDisruptionBudget": {"maxUnavailable": "150%"}}, "/podDisruptionBudget/maxUnavailable"),
        ({"nodeSelector": {"a": True}}, "/nodeSelector/a"),
        ({"replicaCount": 2}, "replicaCount"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], said: str) -> None:
    done = helm("template", "peerload", CHART, values=values)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "specifications of the schema" in done.stderr
    assert said in done.stderr


def test_an_installed_release_may_do_what_its_account_must(shared_kube: ControlPlane) -> None:
    namespace = shared_kube.fresh_namespace(ready=False)
    where = ("--namespace", namespace.name, "--kubeconfig", shared_kube.kubeconfig())
    done = helm("install", "shop", CHART, *where, values=DEFAULTS)
    assert done.returncode == 0, done.stderr
    assert f"MODEL_EXPRESS_URL=http://shop-peerload.{namespace.name}:8001" in done.stdout
    account = namespace.kubeconfig(token=namespace.token("shop-peerload"))
    for verb, resource, allowed in (
        ("create", "peerloadrecords.peerload.dev", "yes"),
        ("watch", "peerloadrecords.peerload.dev", "yes"),
        ("patch", "configmaps", "yes"),
        ("get", "pods", "yes"),
        ("list", "pods", "no"),
        ("get", "secrets", "no"),
        ("get", "customresourcedefinitions", "no"),
    ):
        asked = kubectl("--kubeconfig", account, "auth", "can-i", verb, resource)
        assert asked.stdout.strip() == allowed, (verb, resource, asked.stderr)
    # A changed Redis is read by new Pods; what was the other store's goes.
    done = helm("upgrade", "shop", CHART, *where, values=REDIS)
    assert done.returncode == 0, done.stderr
    secret = shared_kube.admin.get(f"{namespace.core}/secrets/shop-peerload-redis")
    assert base64.b64decode(secret["data"]["url"]).decode() == REDIS["store"]["redis"]["url"]  # type: ignore[index]
    before = shared_kube.admin.get(f"/apis/apps/v1/namespaces/{namespace.name}/deployments/shop-peerload")
    moved = {"store": {"type": "redis", "redis": {"url": "redis://elsewhere"}}}
    assert helm("upgrade", "shop", CHART, *where, values=moved).returncode == 0
    after = shared_kube.admin.get(f"/apis/apps/v1/namespaces/{namespace.name}/deployments/shop-peerload")
    assert before["spec"]["template"] != after["spec"]["template"]
    # Removed, it leaves the definition, and with it everybody's records.
    assert helm("uninstall", "shop", *where).returncode == 0
    name = "peerloadrecords.peerload.dev"
    shared_kube.admin.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
