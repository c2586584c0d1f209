"""The site of the documentation: it leads to every document, and its reference has everything. `make docs` builds it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import peerload
from peerload import client, errors
from peerload.cli import COMMANDS
from peerload.server.settings import Settings
from tests.docs.test_documents import options
from tools.reference import api, commands, outside, protos, settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def leaves(nav: Any) -> Iterator[str]:
    """Every page that the navigation names."""
    if isinstance(nav, str):
        yield nav
    for each in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(each)


NAV = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def test_the_navigation_names_every_document_and_every_page_of_the_reference() -> None:
    made = {"changelog.md", "reference/settings.md", "reference/commands.md"}
    made |= {f"reference/python/{name}.md" for name in api.pages()}
    made |= {f"reference/grpc/{package}.md" for package in protos.pages()}
    assert sorted(NAV) == sorted({path.name for path in DOCS.glob("*.md")} | made)


def test_the_index_leads_to_every_document() -> None:
    links = set(re.findall(r"\]\(([a-z]+\.md)\)", (DOCS / "index.md").read_text()))
    assert links == {path.name for path in DOCS.glob("*.md")} - {"index.md"}


def test_every_setting_is_in_the_reference_and_nothing_of_this_machine() -> None:
    page = settings.page()
    for name, field in Settings.model_fields.items():
        (row,) = [
            line for line in page.splitlines() if f"`PEERLOAD_{name.upper()}`" in line and line.startswith("| <a")
        ]
        assert f"`--{name.replace('_', '-')}`" in row
        assert (field.description or "").replace("|", "\\|") in row
    assert str(Path.home()) not in page
    assert "`MX_HEARTBEAT_TIMEOUT_SECS`" in page
    assert "`PEERLOAD_TOPOLOGY`" in page
    assert "From 1 to 256." in page
    assert "More than 0, at most 2,678,400." in page


def test_every_command_and_option_is_in_the_reference() -> None:
    page = commands.page()
    for name in COMMANDS:
        section = page.partition(f"### `peerload {name}`\n")[2].partition("\n### ")[0]
        assert section
        # (What completion adds to a program of one command is none of these commands'.)
        known = {each for each in options(name) if each.startswith("--") and not each.endswith("-completion")}
        assert known <= set(re.findall(r"`(--[a-z-]+)", section))


def test_every_public_name_is_in_the_reference_once() -> None:
    named = re.findall(r"^::: (\S+)$", "\n".join(api.pages().values()), re.MULTILINE)
    assert sorted(named) == sorted(
        [f"peerload.client.{name}" for name in client.__all__] + [f"peerload.errors.{name}" for name in errors.__all__]
    )
    assert set(peerload.__all__) - {"__version__"} <= {name.rpartition(".")[2] for name in named}


def test_every_service_method_message_and_comment_is_in_the_reference() -> None:
    pages = protos.pages()
    for proto in protos.compiled().file:
        if not proto.service:
            continue
        page = pages[proto.package]
        for service in proto.service:
            assert f"{{ #{proto.package}.{service.name} }}" in page
            for method in service.method:
                assert f"| `{method.name}` | " in page
        for message in proto.message_type:
            assert f"{{ #{proto.package}.{message.name} }}" in page
    assert (
        "Take a worker's record back. Withdrawing what is not there succeeds with withdrawn=false."
        in pages["peerload.v1"]
    )
    for page in pages.values():
        for link, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page):
            there = pages[link.removesuffix(".md")] if link else page
            assert f"{{ #{anchor} }}" in there


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("[a](redis.md#tls)", "[a](redis.md#tls)"),
        ("[a](#here) [b](https://example.org/x.md)", "[a](#here) [b](https://example.org/x.md)"),
        ("[a](../charts/peerload)", "[a](files/charts/peerload/index.md)"),
        ("[a](../examples/weights.py)", "[a](files/examples/weights.py.md)"),
        ("[a](../CHANGELOG.md)", "[a](changelog.md)"),
        ("[a](../README.md#settings)", "[a](reference/settings.md)"),
    ],
)
def test_links_lead_to_pages_of_the_site(text: str, there: str) -> None:
    assert outside.linked(text, "docs/page.md", "page.md") == there


def test_what_is_linked_to_outside_has_a_page() -> None:
    pages = outside.pages()
    for document in DOCS.glob("*.md"):
        text = outside.linked(document.read_text(), f"docs/{document.name}", document.name)
        for link in re.findall(r"\]\((?!https?:)([^)#]+\.md)[#)]", text):
            assert (DOCS / link).exists() or link in pages or link in NAV, f"{document.name}: {link}"
    for place, text in pages.items():
        for link in re.findall(r"^- \[`[^`]+`\]\(([^)]+)\)$", text, re.MULTILINE):
            assert posixpath.normpath(posixpath.join(posixpath.dirname(place), link)) in pages
