"""What `peerload kubernetes manifests` prints, read as YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from peerload.cli import build_app
from peerload.errors import InvalidArgument
from peerload.store.base import MAX_BLOB_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES
from peerload.store.kubernetes.manifests import PARTS, RIGHTS, manifests
from tests.cli.commands import peerload


def documents(text: str) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_parts() -> None:
    definition = ["CustomResourceDefinition"]
    rights = ["ServiceAccount", "Role", "RoleBinding"]
    assert [*documents(manifests("crd", namespace="n"))] == definition
    assert [*documents(manifests("role", namespace="n"))] == rights
    assert [*documents(manifests("all", namespace="n"))] == definition + rights


@pytest.mark.parametrize("namespace", ["inference", "123", "null", "1e3", "0x1f", "n" * 63])
def test_names_are_filled_in_as_text(namespace: str) -> None:
    found = documents(manifests("role", namespace=namespace, account="true"))
    assert {each["metadata"]["namespace"] for each in found.values()} == {namespace}
    assert found["ServiceAccount"]["metadata"]["name"] == "true"
    assert found["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": "true", "namespace": namespace}]
    assert found["RoleBinding"]["metadata"]["name"] == "true"  # so that another account's stays
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]


@pytest.mark.parametrize("name", ["", "Inference", "a_b", "-a", "a-", "a\n", "a: b", "$account", "n" * 64])
def test_names_that_kubernetes_would_refuse(name: str) -> None:
    with pytest.raises(InvalidArgument, match="namespace"):
        manifests("role", namespace=name)
    with pytest.raises(InvalidArgument, match="service account"):
        manifests("role", namespace="n", account=name.replace("n" * 64, "n" * 254))


def test_the_limits_are_those_of_stores() -> None:
    (version,) = documents(manifests("crd", namespace="n"))["CustomResourceDefinition"]["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]
    assert fields["key"]["maxLength"] == MAX_KEY_BYTES
    assert fields["exact"]["maxLength"] == MAX_VALUE_BYTES
    assert fields["blob"]["properties"]["size"]["maximum"] == MAX_BLOB_BYTES


def test_who_wrote_each_member_is_not_tracked() -> None:
    (version,) = documents(manifests("crd", namespace="n"))["CustomResourceDefinition"]["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]
    maps = {name for name, field in fields.items() if field["type"] == "object"} - {"metadata"}
    assert {name for name in maps if fields[name].get("x-kubernetes-map-type") == "atomic"} == maps


def test_the_role_has_the_rights_and_no_others() -> None:
    role = documents(manifests("role", namespace="n"))["Role"]
    assert [rule.keys() for rule in role["rules"]] == [{"apiGroups", "resources", "verbs"}] * len(RIGHTS)
    assert {
        (group, resource): tuple(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    } == RIGHTS
    assert "*" not in str(role["rules"])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `peerload kubernetes` in this process, with these variables."""
    app = build_app(["kubernetes"])

    def run(*words: str, **settings: str) -> Result:
        for name in ("MX_METADATA_NAMESPACE", "POD_NAMESPACE"):
            monkeypatch.delenv(name, raising=False)
        return CliRunner().invoke(app, ["kubernetes", *words], env=settings)

    return run


def test_the_program() -> None:
    done = peerload("kubernetes", "manifests", "--namespace", "a")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == manifests("all", namespace="a")


@pytest.mark.parametrize(
    ("words", "settings", "part", "names"),
    [
        ((), {}, "all", {"namespace": "default"}),
        (("--part", "crd"), {}, "crd", {"namespace": "default"}),
        (
            ("-n", "a", "--part", "role", "--service-account", "b"),
            {"POD_NAMESPACE": "c"},
            "role",
            {"namespace": "a", "account": "b"},
        ),
        ((), {"POD_NAMESPACE": "c"}, "all", {"namespace": "c"}),
        ((), {"POD_NAMESPACE": "c", "MX_METADATA_NAMESPACE": "d"}, "all", {"namespace": "d"}),
    ],
)
def test_the_command(
    command: Callable[..., Result],
    words: tuple[str, ...],
    settings: dict[str, str],
    part: str,
    names: dict[str, str],
) -> None:
    done = command("manifests", *words, **settings)
    assert (done.exit_code, done.stdout) == (0, manifests(part, **names))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("manifests", "--namespace", "No"), "namespace: must have 1 to 63 lower-case letters"),
        (("manifests", "--service-account", "-"), "service account: must have"),
        (("manifests", "--part", "some"), "some"),
        (("something",), "something"),
        ((), "Missing argument"),
    ],
)
def test_wrong_usage(command: Callable[..., Result], words: tuple[str, ...], said: str) -> None:
    done = command(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_every_part_is_asked_for() -> None:
    assert {file for files in PARTS.values() for file in files} == {*PARTS["all"], "reviewer"}


def test_reviewing_tokens_is_only_where_it_is_asked_for() -> None:
    assert "tokenreviews" not in manifests("all", namespace="n")
    found = documents(manifests("reviewer", namespace="n", account="a"))
    assert [*found] == ["ClusterRole", "ClusterRoleBinding"]
    (rule,) = found["ClusterRole"]["rules"]
    assert rule == {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    assert found["ClusterRoleBinding"]["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    assert found["ClusterRoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": "a", "namespace": "n"}]
