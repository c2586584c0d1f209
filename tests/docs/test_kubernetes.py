"""What docs/kubernetes.md says is so: errors, rights, columns, values and settings are those of the program and the chart."""

from __future__ import annotations

import ast
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import connection_words, refusal
from peerload.store.kubernetes.manifests import RIGHTS, manifests
from peerload.store.kubernetes.names import LABELS, Type

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
SOURCES = [ROOT / "src" / "peerload" / folder for folder in ("kubernetes", "store/kubernetes")]
VALUES = yaml.safe_load((ROOT / "charts" / "peerload" / "values.yaml").read_text())


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table of a section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines, heading
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def said() -> str:
    """Every text in the modules of the store, with what is filled in left out."""
    texts = []
    for path in (path for folder in SOURCES for path in folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


TROUBLE = [re.findall(r"`([^`]+)`", row[0]) for row in rows("Troubleshooting")]


def test_every_error_of_the_table_is_one() -> None:
    texts = said()
    assert [fragment for row in TROUBLE for fragment in row if fragment not in texts] == []


def status(code: int, reason: str, message: str = "", **details: Any) -> dict[str, Any]:
    return {"code": code, "reason": reason, "message": message, "details": details}


@pytest.mark.parametrize(
    "answer",
    [
        status(401, "Unauthorized"),
        status(403, "Forbidden", 'User "u" cannot get resource "pods" in API group "" in the namespace "n"'),
        status(403, "Forbidden", "exceeded quota"),
        status(403, "Forbidden", "in namespace n because", causes=[{"reason": "NamespaceTerminating"}]),
        status(404, "NotFound", kind="namespaces", name="n"),
        status(404, "NotFound"),
        status(400, "BadRequest", "strict decoding error"),
        status(422, "Invalid"),
        status(429, "TooManyRequests"),
        status(500, "InternalError"),
        status(503, "ServiceUnavailable"),
        status(504, "Timeout"),
        status(504, "Timeout", causes=[{"reason": "ResourceVersionTooLarge"}]),
    ],
    ids=lambda answer: f"{answer['code']} {answer['message'][:20]}",
)
def test_what_the_api_server_may_answer_is_in_the_table(answer: dict[str, Any]) -> None:
    text = str(refusal("https://host", answer["code"], answer))
    assert [row for row in TROUBLE if row and row[0] in text], text


@pytest.mark.parametrize("code", [9, 10, 18])
def test_what_a_certificate_may_be_is_in_the_table(code: int) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "self-signed"
    text = connection_words(error)
    assert [row for row in TROUBLE if any(fragment in text for fragment in row)], text


def test_the_rights_are_those_of_the_role() -> None:
    found = {}
    for row in rows("Rights"):
        resource, _, group = row[0].strip("`").partition(".")
        found[group, resource] = tuple(row[1].split(", "))
    assert found == RIGHTS


def test_the_columns_are_those_of_the_definition() -> None:
    (version,) = yaml.safe_load(manifests("crd", namespace="any"))["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    wide = ["NAME", *(each["name"].upper() for each in columns)]
    narrow = ["NAME", *(each["name"].upper() for each in columns if not each.get("priority"))]
    shown = [line.split() for line in PAGE.splitlines() if re.match(r"\s+(EVENT +)?NAME ", line)]
    assert narrow in shown
    assert wide in shown
    assert all(header in (narrow, wide, ["EVENT", *narrow]) for header in shown)
    # What begins a row stands below a header of it.
    kinds = "|".join((Type.SOURCE, Type.SERVER, Type.LAYOUT, Type.HEARTBEATS))
    assert re.search(rf"\n    ({kinds})-\S+ +({kinds}) ", PAGE)


def test_labels_and_types_exist() -> None:
    named = set(re.findall(r"`(peerload\.dev/[a-z-]+)`", PAGE))
    assert named == {value for name, value in vars(LABELS).items() if not name.startswith("_")}
    types = re.search(r"`peerload\.dev/type` \((.*?)\)", PAGE, re.DOTALL)
    assert types is not None
    assert set(re.findall(r"`([a-z]+)`", types[1])) == {
        value for name, value in vars(Type).items() if not name.startswith("_") and value != Type.BLOB
    }


def test_values_of_the_chart_exist() -> None:
    named = re.findall(r"(?:`|--set )([a-z][A-Za-z]*(?:\.[a-zA-Z]+)+)(?=[`=])", PAGE)
    assert {"networkPolicy.from", "store.redis.url", "image.repository", "store.type"} <= set(named)
    for name in named:
        if name.endswith(".dev"):
            continue
        found: Any = VALUES
        for part in name.split("."):
            assert part in found, name
            found = found[part]


def test_settings_of_the_url_exist() -> None:
    settings = set(re.findall(r"\?([a-z]+)=", PAGE))
    assert settings == {"instance", "kubeconfig", "context"}
    for name in settings:
        assert getattr(KubernetesPlace.parse(f"kubernetes:n?{name}=x"), name) == "x"
