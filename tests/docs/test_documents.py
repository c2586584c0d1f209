"""What the documents say is so: commands, options, targets, settings, modules and links exist, and the code runs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import typer

from peerload.cli import COMMANDS
from peerload.cli.outcome import INTERRUPTED, NOBODY, UNREACHABLE
from peerload.client.addresses import ADDRESS_VARIABLES
from peerload.integrations.options import LoadOptions
from peerload.server.limits import Limits
from peerload.server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
LOADING = (ROOT / "docs" / "loading.md").read_text()
PYTHON = (ROOT / "docs" / "python.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

COMMAND_LINES = [
    line.partition("#")[0].strip()
    for text in (
        README,
        LOADING,
        KUBERNETES,
        SECURITY,
        *(inspect.getdoc(importlib.import_module(command.module).command) or "" for command in COMMANDS.values()),
    )
    for line in text.splitlines()
    if re.match(r"\s*peerload [a-z]", line)
]


def options(name: str) -> set[str]:
    """Every option of a command."""
    app = typer.Typer()
    app.command()(importlib.import_module(COMMANDS[name].module).command)
    command = typer.main.get_command(app)
    return {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("line", sorted(set(COMMAND_LINES)))
def test_commands_that_are_shown_exist_with_their_options(line: str) -> None:
    _, name, *rest = line.split()
    assert name in COMMANDS
    for word in rest:
        if word == "|":
            break
        if word.startswith("-"):
            assert word.partition("=")[0].rstrip("]") in options(name), line


def test_there_are_commands_to_check() -> None:
    assert {line.split()[1] for line in COMMAND_LINES} >= {"serve", "share", "pull", "sources", "show", "watch", "rm"}


def test_make_targets_that_are_named_exist() -> None:
    ci = (ROOT / ".ci" / "run").read_text() if (ROOT / ".ci" / "run").exists() else ""
    named = set(re.findall(r"\bmake ([a-z]+)\b", README + ci + (ROOT / "src/peerload/demo/script.py").read_text()))
    named -= {"and", "up"}
    targets = set(re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_every_target_of_the_makefile_that_is_no_file_is_phony() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE))


def test_every_setting_of_the_server_is_in_a_table_with_its_default() -> None:
    """In that of the README, or the limits in that of the page on security."""
    for name, field in Settings.model_fields.items():
        (row,) = [
            line
            for line in (README + SECURITY).splitlines()
            if line.startswith("| ") and f"`PEERLOAD_{name.upper()}`" in line
        ]
        assert f"`--{name.replace('_', '-')}`" in row
        if isinstance(field.default, float):
            assert f"| {field.default:g} s |" in row
        elif name in {limit.name for limit in fields(Limits)}:
            assert f"| {field.default} |" in row
    assert {f"--{name.replace('_', '-')}" for name in Settings.model_fields} <= options("serve")


def test_help_of_serve_says_the_defaults_that_hold() -> None:
    app = typer.Typer()
    app.command()(importlib.import_module(COMMANDS["serve"].module).command)
    told = {parameter.name: getattr(parameter, "help", "") for parameter in typer.main.get_command(app).params}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, bool) or not isinstance(default, (int, float)):
            continue
        found = re.search(r"\(default: ([\d.]+)( MiB)?[;,)]", told[name])
        assert found, (name, told[name])
        assert float(found[1]) * (2**20 if found[2] else 1) == default, name


def test_the_address_variables_are_in_the_readme_in_their_order() -> None:
    places = [README.index(f"`{name}`") for name in ("PEERLOAD_SERVER", *ADDRESS_VARIABLES)]
    assert places[0] == README.index(f"`{ADDRESS_VARIABLES[0]}`")
    row = next(line for line in README.splitlines() if line.startswith("| `--server`"))
    assert re.findall(r"`([A-Z_]+)`", row) == list(ADDRESS_VARIABLES)


def test_exit_statuses_are_told_by_the_help() -> None:
    help_text = inspect.getdoc(importlib.import_module("peerload.cli.pull").command) or ""
    for status, meaning in (
        (NOBODY, "nobody has it"),
        (UNREACHABLE, "the server could not be asked"),
        (INTERRUPTED, "interrupted"),
    ):
        assert f"{status} {meaning}" in " ".join(help_text.split())


def test_python_in_the_readme_is_that_of_the_examples() -> None:
    """The examples run in tests of their own; the README shows them unchanged."""
    blocks = re.findall(r"```python\n(.*?)```", README + LOADING, re.DOTALL)
    examples = [path.read_text() for path in sorted((ROOT / "examples").glob("*.py"))]
    assert blocks
    for block in blocks:
        assert any(block.strip() in example for example in examples), block


def test_options_of_the_loading_page_are_those_of_loaders() -> None:
    known = [field.name for field in dataclasses.fields(LoadOptions)]
    table = LOADING.partition("| member |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE) == known
    shown = re.findall(r"--model-loader-extra-config '(.*?)'", LOADING)
    assert shown
    for text in shown:
        LoadOptions(**json.loads(text))


def test_names_that_the_python_page_has_exist() -> None:
    from peerload import client, errors

    for name in re.findall(r"`client\.([a-z_]+)\(", PYTHON):
        assert hasattr(client.Client, name), name
    for name in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`", PYTHON):
        assert hasattr(client, name) or hasattr(errors, name), name


def test_modules_that_the_architecture_names_exist() -> None:
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", ARCHITECTURE):
        places = [ROOT / "src" / "peerload" / name, ROOT / name]
        assert any(place.exists() for place in places), name


def test_links_between_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_picture_is_well_formed_and_says_what_it_shows() -> None:
    picture = ET.parse(ROOT / "docs" / "peerload.svg").getroot()
    names = {child.tag.rpartition("}")[2] for child in picture}
    assert {"title", "desc"} <= names
